//! The interface of observers: a trait that the heap calls on its slow paths.

use std::fmt;
use std::panic::Location;
use std::time::Instant;

use super::Purpose;

/// A block was allocated. Sent before the handle is returned.
#[derive(Debug, Clone, Copy)]
pub struct AllocationEvent {
    /// The first byte's address; no other live allocation of this pool has it.
    pub address: usize,
    /// Bytes requested.
    pub size: usize,
    /// Bytes that the block occupies.
    pub class_bytes: usize,
    /// What the block is used for.
    pub purpose: Purpose,
    /// The line that made the request.
    pub site: &'static Location<'static>,
}

/// A block was freed. Sent before the block can be allocated again; sent later, the record of the next allocation at
/// this address may be lost, but none is added.
#[derive(Debug, Clone, Copy)]
pub struct DeallocationEvent {
    /// The first byte's address.
    pub address: usize,
    /// Bytes requested.
    pub size: usize,
    /// Bytes that the block occupied.
    pub class_bytes: usize,
    /// What the block was used for.
    pub purpose: Purpose,
}

/// The allocations that an observer receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::memory) enum Recording {
    /// None.
    Off,
    /// Those that [`super::sampling`] picks.
    Sampled,
    /// All of them.
    All,
}

/// The kind of call whose latency is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LatencyKind {
    /// Allocating a block.
    Allocate,
    /// Freeing a block.
    Deallocate,
    /// Returning memory to the system.
    Trim,
}

impl LatencyKind {
    /// Every kind, in order.
    pub const ALL: [Self; 3] = [Self::Allocate, Self::Deallocate, Self::Trim];
}

impl fmt::Display for LatencyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allocate => "allocate",
            Self::Deallocate => "deallocate",
            Self::Trim => "trim",
        })
    }
}

/// Receives the events of a heap. The heap calls it on slow paths only, and without holding a lock.
pub(in crate::memory) trait HeapObserver: fmt::Debug + Send + Sync {
    /// Which allocations it receives; constant.
    fn recording(&self) -> Recording;

    /// Whether it receives the usage of the limits; constant.
    fn watches_usage(&self) -> bool;

    fn allocated(&self, event: &AllocationEvent);

    /// Records the end of an allocation that was recorded.
    fn freed(&self, event: &DeallocationEvent);

    /// Counts an allocation of `size` bytes that failed.
    fn failed(&self, size: usize);

    /// Returns the start time of a call whose latency is measured, `None` for the others.
    fn start_clock(&self) -> Option<Instant>;

    /// Records the latency of a call of a kind that began at `start`.
    fn latency(&self, kind: LatencyKind, start: Instant);

    /// Whether this thread may run callbacks now, so that usage may be reported.
    fn accepts_usage(&self) -> bool;

    /// Whether `ratio` of a limit in use may change the pressure level, so that the exact figure matters.
    fn is_near_limit(&self, ratio: f64) -> bool;

    /// Receives the bytes in use of the tighter limit. Callbacks may run.
    fn usage(&self, used: u64, limit: u64);

    /// Announces that an allocation is about to fail. Returns whether callbacks may have freed memory, to retry it.
    fn about_to_fail(&self) -> bool;

    /// Live bytes crossed the threshold of [`super::PoolInner::set_live_threshold`].
    fn crossed_threshold(&self);
}

//! How much of each limit of a pool is in use, who is told of it, and which limit a refused allocation met.

use super::core::Core;
use super::release::callbacks_wait;
use super::size_class::{CLASSES, LINE, SMALL_LIMIT, block_bytes, class_of};
use super::small_block::share_of_slab;
use super::system::GRANULE;
use super::tag::SIZE_LIMIT;
use super::tracking::{PressureMonitor, Tracker};
use crate::error::{Error, MemoryLimit};

/// Bytes in use, and the most that there may be.
#[derive(Debug, Clone, Copy)]
struct Usage {
    used: usize,
    limit: usize,
}

impl Usage {
    fn ratio(self) -> f64 {
        if self.limit == 0 { 0.0 } else { self.used as f64 / self.limit as f64 }
    }
}

impl Core {
    fn monitor(&self) -> Option<&PressureMonitor> {
        self.tracker.as_ref().and_then(Tracker::pressure)
    }

    /// Whether each block of 1 MiB and more, and each slab, is to be told to a monitor.
    pub(super) fn watches_pressure(&self) -> bool {
        self.monitor().is_some()
    }

    /// Tells the monitor, if there is one, what is in use; its callbacks may run, so the caller holds no lock.
    #[cold]
    pub(super) fn observe_pressure(&self) {
        let Some(monitor) = self.monitor().filter(|_| !callbacks_wait()) else { return };
        // What waits for the next request is subtracted only where it might matter, since that takes as long as many
        // allocations.
        let most = Usage { used: self.small.out_bytes(), limit: self.small.arena().limit() };
        let small = if monitor.is_near(most.ratio()) { self.small_usage() } else { most };
        let most = Usage { used: self.large.out_bytes(), limit: self.large.arena().limit() };
        let large = if monitor.is_near(most.ratio()) { self.large_usage() } else { most };
        let Usage { used, limit } = if small.ratio() > large.ratio() { small } else { large };
        monitor.observe(used as u64, limit as u64);
    }

    /// Bytes in use and the limit, of small or of large blocks: of those of which a larger part is in use.
    pub(super) fn tightest_usage(&self) -> (u64, u64) {
        let (small, large) = (self.small_usage(), self.large_usage());
        let Usage { used, limit } = if small.ratio() > large.ratio() { small } else { large };
        (used as u64, limit as u64)
    }

    /// Tells the monitor that an allocation of `size` bytes, which the limit of its kind would allow, is being refused; false
    /// if there is none, or callbacks are not to be called now. Callbacks may give memory back: the caller tries once more.
    #[cold]
    pub(super) fn announce_refusal(&self, size: usize, align: usize) -> bool {
        let Some(monitor) = self.monitor().filter(|_| !callbacks_wait()) else { return false };
        let limit =
            if is_small(size, align) { self.small.arena() } else { self.large.arena() }.limit();
        if size > limit {
            return false;
        }
        monitor.refused()
    }

    /// The error for an allocation that was refused: which limit it met, or that the system had no memory.
    #[cold]
    pub(super) fn refusal(&self, size: usize, align: usize) -> Error {
        let small = is_small(size, align);
        let arena = if small { self.small.arena() } else { self.large.arena() };
        let needed = block_to_map(size, align);
        let usage = if small { self.small_usage() } else { self.large_usage() };
        let (limit, met) = if size as u64 >= SIZE_LIMIT {
            (usize::try_from(SIZE_LIMIT).unwrap_or(usize::MAX), MemoryLimit::Block)
        } else if arena.has_room(needed) {
            (usage.limit, MemoryLimit::System)
        } else if small {
            (usage.limit, MemoryLimit::SmallPool)
        } else {
            (usage.limit, MemoryLimit::LargePool)
        };
        Error::OutOfMemory { bytes: size, live: usage.used, limit, met }
    }

    /// What small blocks in use take of their limit.
    fn small_usage(&self) -> Usage {
        let live = self.live_blocks();
        let used = (0..CLASSES).map(|class| live[class] * share_of_slab(class)).sum();
        Usage { used, limit: self.small.arena().limit() }
    }

    /// What large blocks in use take of their limit.
    fn large_usage(&self) -> Usage {
        Usage { used: self.large.occupied(), limit: self.large.arena().limit() }
    }
}

/// The bytes that are mapped at least for a block of `size` bytes at a multiple of `align`, if there is no free one.
fn block_to_map(size: usize, align: usize) -> usize {
    let bytes = if is_small(size, align) {
        block_bytes(class_of(size.max(1) + align.max(LINE) - LINE))
    } else {
        size
    };
    bytes.checked_next_multiple_of(GRANULE).unwrap_or(usize::MAX)
}

/// Whether a block of `size` bytes at a multiple of `align` comes from the slabs.
pub(super) fn is_small(size: usize, align: usize) -> bool {
    size.max(1).checked_add(align.max(LINE) - LINE).is_some_and(|whole| whole < SMALL_LIMIT)
}

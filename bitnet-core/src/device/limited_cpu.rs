//! The processor as a device with limits and injected faults.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::sync::lock;
use crate::{Error, Result};

/// A kind of operation on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Allocating memory.
    Allocation,
    /// Copying a tensor to or from it.
    Transfer,
    /// Computing: a task of a stream, or an operation on tensors.
    Task,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allocation => "allocation",
            Self::Transfer => "transfer",
            Self::Task => "task",
        })
    }
}

/// Which operations of a device fail. Operations are counted from 1 when the plan is injected.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FaultPlan {
    failing: BTreeSet<(Operation, u64)>,
    lost_at: Option<u64>,
}

impl FaultPlan {
    /// Nothing fails.
    pub fn none() -> Self {
        Self::default()
    }

    /// The `nth` operation of this kind fails too, and those after it succeed.
    #[must_use]
    pub fn fail(mut self, operation: Operation, nth: u64) -> Self {
        self.failing.insert((operation, nth));
        self
    }

    /// The device is lost for good when its `nth` operation of any kind begins.
    #[must_use]
    pub fn lose_at(mut self, nth: u64) -> Self {
        self.lost_at = Some(nth);
        self
    }
}

/// The processor with a memory limit, a number of threads and faults of its own: a second device on every machine, for
/// tests and for work within a bound of memory. It is emulated: it computes as fast as the processor, and its memory is
/// the processor's.
///
/// Clones are the same device; two that are made separately are two devices. The memory limit is enforced by
/// [`DeviceSpecificPools`](crate::memory::DeviceSpecificPools), where the memory of devices comes from.
#[derive(Clone)]
pub struct LimitedCpu {
    state: Arc<State>,
}

struct State {
    index: usize,
    memory_limit: usize,
    threads: usize,
    faults: Mutex<Faults>,
}

#[derive(Default)]
struct Faults {
    plan: FaultPlan,
    /// Operations so far, by kind.
    counts: [u64; 3],
    lost: bool,
}

impl LimitedCpu {
    /// A device with `memory_limit` bytes that reports `threads` threads (at least one).
    pub fn new(memory_limit: usize, threads: usize) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let index = NEXT.fetch_add(1, Ordering::Relaxed);
        let faults = Mutex::default();
        Self { state: Arc::new(State { index, memory_limit, threads: threads.max(1), faults }) }
    }

    /// Its number in this process.
    pub fn index(&self) -> usize {
        self.state.index
    }

    /// The most bytes that may be alive on it.
    pub fn memory_limit(&self) -> usize {
        self.state.memory_limit
    }

    /// The threads that it reports, for selecting a device or a number of threads
    /// ([`super::DeviceCapabilities::logical_cores`], [`super::Requirements::threads`]). Not enforced.
    pub fn threads(&self) -> usize {
        self.state.threads
    }

    /// Replaces the plan of faults, resets the counts of operations, and restores a lost device.
    pub fn inject(&self, plan: FaultPlan) {
        *lock(&self.state.faults) = Faults { plan, ..Faults::default() };
    }

    /// Loses the device: every operation fails from now on.
    pub fn lose(&self) {
        lock(&self.state.faults).lost = true;
    }

    /// Whether the device is lost.
    pub fn is_lost(&self) -> bool {
        lock(&self.state.faults).lost
    }

    /// The operations of this kind that began since the last plan was injected, those that failed among them.
    pub fn operations(&self, operation: Operation) -> u64 {
        lock(&self.state.faults).counts[operation as usize]
    }

    pub(super) fn begin(&self, operation: Operation) -> Result<()> {
        let mut faults = lock(&self.state.faults);
        faults.counts[operation as usize] += 1;
        let number = faults.counts[operation as usize];
        let of_all: u64 = faults.counts.iter().sum();
        faults.lost |= faults.plan.lost_at.is_some_and(|nth| of_all >= nth);
        let device = || format!("limited-cpu:{}", self.state.index);
        if faults.lost {
            return Err(Error::DeviceLost { device: device(), operation });
        }
        if faults.plan.failing.contains(&(operation, number)) {
            return Err(Error::DeviceFault { device: device(), operation, number });
        }
        Ok(())
    }
}

impl PartialEq for LimitedCpu {
    fn eq(&self, other: &Self) -> bool {
        self.state.index == other.state.index
    }
}

impl Eq for LimitedCpu {}

impl Hash for LimitedCpu {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.state.index.hash(hasher);
    }
}

impl fmt::Debug for LimitedCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { index, memory_limit, threads, .. } = &*self.state;
        write!(f, "LimitedCpu({index}, {memory_limit} bytes, {threads} threads)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn clones_are_equal_and_separate_devices_are_not() {
        let (a, b) = (LimitedCpu::new(1 << 20, 2), LimitedCpu::new(1 << 20, 2));
        assert_eq!(a, a.clone());
        assert_ne!(a, b);
        assert_ne!(Device::from(a.clone()), Device::Cpu);
        assert_eq!(LimitedCpu::new(0, 0).threads(), 1);
        a.lose();
        assert!(a.clone().is_lost() && !b.is_lost());
    }

    #[test]
    fn faults_follow_their_plan() {
        let limited = LimitedCpu::new(1 << 20, 1);
        let device = Device::from(limited.clone());
        limited.inject(FaultPlan::none().fail(Operation::Transfer, 2).lose_at(5));
        assert_eq!(device.begin(Operation::Transfer), Ok(()));
        let error = device.begin(Operation::Transfer).unwrap_err();
        assert!(
            matches!(error, Error::DeviceFault { operation: Operation::Transfer, number: 2, .. }),
            "{error}"
        );
        assert_eq!(device.begin(Operation::Transfer), Ok(()));
        assert_eq!(device.begin(Operation::Allocation), Ok(()));
        for _ in 0..2 {
            let error = device.begin(Operation::Task).unwrap_err();
            assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
        }
        assert_eq!(limited.operations(Operation::Task), 2);
        limited.inject(FaultPlan::none());
        assert_eq!(device.begin(Operation::Task), Ok(()));
    }
}

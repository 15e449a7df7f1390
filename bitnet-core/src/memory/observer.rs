//! The observer that passes the events of a heap to the tracker and the cleaner of its pool.

use std::cell::Cell;
use std::fmt;
use std::sync::OnceLock;
use std::time::Instant;

use super::MemoryPoolConfig;
use super::heap::{AllocationEvent, DeallocationEvent, HeapObserver, LatencyKind, Recording};
use super::tracking::{PressureMonitor, Tracker, TrackingLevel};

/// The latency of one call in this many is measured.
const MEASURED: u32 = 32;

thread_local! {
    /// Whether callbacks are deferred, because this thread holds a lock that they might acquire.
    static CALLBACKS_DEFERRED: Cell<bool> = const { Cell::new(false) };
}

/// Calls `work` without running callbacks of memory pressure on this thread: `work` allocates while a tensor is locked
/// that a callback might read.
pub(super) fn without_callbacks<T>(work: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            CALLBACKS_DEFERRED.set(self.0);
        }
    }
    let _restore = Restore(CALLBACKS_DEFERRED.replace(true));
    work()
}

/// Passes the events of a heap to the tracker of its pool, and wakes the cleaner.
pub(super) struct PoolObserver {
    tracker: Option<Tracker>,
    wake_cleaner: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl PoolObserver {
    pub(super) fn new(config: &MemoryPoolConfig) -> Self {
        let tracking = || Tracker::new(config.tracking_config.clone().unwrap_or_default());
        let tracker = config.enable_advanced_tracking.then(tracking);
        Self { tracker, wake_cleaner: OnceLock::new() }
    }

    pub(super) fn tracker(&self) -> Option<&Tracker> {
        self.tracker.as_ref()
    }

    /// Calls `wake` whenever live bytes cross their threshold. A pool has one cleaner, so later calls do nothing.
    pub(super) fn on_threshold(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.wake_cleaner.set(Box::new(wake));
    }

    fn monitor(&self) -> Option<&PressureMonitor> {
        self.tracker().and_then(Tracker::pressure)
    }
}

impl fmt::Debug for PoolObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolObserver").field("tracker", &self.tracker).finish_non_exhaustive()
    }
}

impl HeapObserver for PoolObserver {
    fn recording(&self) -> Recording {
        match self.tracker().map(Tracker::level) {
            None | Some(TrackingLevel::None | TrackingLevel::Basic) => Recording::Off,
            Some(TrackingLevel::Standard) => Recording::Sampled,
            Some(TrackingLevel::Detailed) => Recording::All,
        }
    }

    fn watches_usage(&self) -> bool {
        self.monitor().is_some()
    }

    fn allocated(&self, event: &AllocationEvent) {
        if let Some(tracker) = self.tracker() {
            tracker.record_allocation(event);
        }
    }

    fn freed(&self, event: &DeallocationEvent) {
        if let Some(tracker) = self.tracker() {
            tracker.record_deallocation(event);
        }
    }

    fn failed(&self, size: usize) {
        if let Some(tracker) = self.tracker() {
            tracker.failed(size);
        }
    }

    fn start_clock(&self) -> Option<Instant> {
        thread_local!(static CALLS: Cell<u32> = const { Cell::new(0) });
        let calls = CALLS.get().wrapping_add(1);
        CALLS.set(calls);
        calls.is_multiple_of(MEASURED).then(Instant::now)
    }

    fn latency(&self, kind: LatencyKind, start: Instant) {
        if let Some(tracker) = self.tracker() {
            tracker.latency_since(kind, start);
        }
    }

    fn accepts_usage(&self) -> bool {
        !CALLBACKS_DEFERRED.get()
    }

    fn is_near_limit(&self, ratio: f64) -> bool {
        self.monitor().is_some_and(|monitor| monitor.is_near(ratio))
    }

    fn usage(&self, used: u64, limit: u64) {
        if let Some(monitor) = self.monitor() {
            monitor.observe(used, limit);
        }
    }

    fn about_to_fail(&self) -> bool {
        self.monitor().is_some_and(PressureMonitor::refused)
    }

    fn crossed_threshold(&self) {
        if let Some(wake) = self.wake_cleaner.get() {
            wake();
        }
    }
}

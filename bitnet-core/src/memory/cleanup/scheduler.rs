//! A schedule that cleans a pool when a strategy is due, and the thread that runs it.
//!
//! The thread owns the pool only while it observes or cleans it. It sleeps on a condition variable until a strategy can
//! be due, until pressure is reported, or until the last owner drops the pool. That one wakes the thread and joins it
//! without waiting for a cleanup: the thread has no pool at that moment.
//! If the thread itself is the last owner, it ends without being joined.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::strategies::{Observed, Past, due, next_check};
use super::{CleanupConfig, CleanupReport};
use crate::memory::pool::WeakPool;
use crate::memory::tracking::{PressureMonitor, SystemFiles, SystemMemory};
use crate::memory::{Clock, HybridMemoryPool, MemoryPressureLevel};
use crate::sync::lock;
use crate::{Error, Result};

/// Observes a pool periodically and cleans it when a strategy is due. A pool with `enable_automatic_cleanup` has one of
/// its own; this one is for programs that call it from a loop.
///
/// ```
/// use std::time::Duration;
/// use bitnet_core::memory::cleanup::{CleanupSchedule, Strategy};
/// use bitnet_core::memory::tracking::SystemFiles;
/// use bitnet_core::memory::{ManualClock, HybridMemoryPool};
///
/// let pool = HybridMemoryPool::new()?;
/// let manual = ManualClock::new();
/// // A system without memory figures, so that the example doesn't depend on it.
/// let system = Box::new(SystemFiles::under("absent"));
/// let config = pool.cleanup_config().clone();
/// let mut schedule = CleanupSchedule::with_system(config, manual.clock(), system);
/// assert!(schedule.run_due(&pool).is_none());
/// manual.advance(Duration::from_secs(30));
/// assert_eq!(schedule.run_due(&pool).map(|report| report.strategy), Some(Strategy::Idle));
/// # Ok::<(), bitnet_core::Error>(())
/// ```
#[derive(Debug)]
pub struct CleanupSchedule {
    config: CleanupConfig,
    clock: Clock,
    system: PressureMonitor,
    observed: Observed,
    past: Option<Past>,
}

impl CleanupSchedule {
    /// A schedule by the system's clock and its memory.
    pub fn new(config: CleanupConfig) -> Self {
        Self::with_system(config, Clock::system(), Box::new(SystemFiles::default()))
    }

    /// A schedule by this clock, with readings of `system`.
    pub fn with_system(config: CleanupConfig, clock: Clock, system: Box<dyn SystemMemory>) -> Self {
        let system = PressureMonitor::with_system(config.pressure_cleanup_threshold, system);
        Self { config, clock, system, observed: Observed::default(), past: None }
    }

    /// Observes `pool`, which is the same in each call, and cleans it if a strategy is due.
    pub fn run_due(&mut self, pool: &HybridMemoryPool) -> Option<CleanupReport> {
        let observed = self.observe(pool);
        self.observed = observed;
        let past = self.past.get_or_insert_with(|| Past::new(&observed));
        past.record(&observed);
        let strategy = due(&self.config, &observed, past)?;
        let report = pool.cleanup(strategy);
        self.observed.activity = observed.activity + report.own_activity();
        self.observed.now = self.clock.now();
        let Observed { now, activity, .. } = self.observed;
        past.cleaned(strategy, now, activity, report.was_cut);
        Some(report)
    }

    /// The time after the last observation in which nothing can become due without pressure.
    pub fn next_check(&self) -> Duration {
        match &self.past {
            Some(past) => next_check(&self.config, &self.observed, past),
            None => Duration::ZERO,
        }
    }

    fn observe(&self, pool: &HybridMemoryPool) -> Observed {
        let metrics = pool.get_metrics();
        let (used, limit) = pool.inner().tightest_usage();
        // The pool's usage is compared with the threshold of this configuration instead.
        let system = self.system.observe(0, 0);
        let tracked = pool.tracker().and_then(|tracker| tracker.pressure());
        pool.inner().report_usage();
        let tracked = tracked.map_or(MemoryPressureLevel::None, PressureMonitor::level);
        Observed {
            now: self.clock.now(),
            activity: metrics.allocations + metrics.deallocations,
            used,
            limit,
            level: system.max(tracked),
        }
    }

    /// The live bytes of `pool` above which an observation is due at once; `None` if there are more already.
    fn live_threshold(&self, pool: &HybridMemoryPool) -> Option<u64> {
        let most = self.config.pressure_cleanup_threshold * self.observed.limit as f64;
        let left = most - self.observed.used as f64;
        (left >= 0.0).then(|| pool.get_metrics().total_allocated.saturating_add(left as u64))
    }
}

/// Wakes and stops the thread.
#[derive(Debug, Default)]
struct Signal {
    requests: Mutex<Requests>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Requests {
    stop: bool,
    observe: bool,
}

impl Signal {
    fn request_observation(&self) {
        lock(&self.requests).observe = true;
        self.wake.notify_one();
    }

    fn stop(&self) {
        lock(&self.requests).stop = true;
        self.wake.notify_one();
    }

    /// Sleeps for at most `time`. Returns false if the thread is to end.
    fn sleep(&self, time: Duration) -> bool {
        let idle = |requests: &mut Requests| !requests.stop && !requests.observe;
        let woken = self.wake.wait_timeout_while(lock(&self.requests), time, idle);
        let (mut requests, _) = woken.unwrap_or_else(PoisonError::into_inner);
        requests.observe = false;
        !requests.stop
    }
}

/// The thread of a pool.
#[derive(Debug)]
pub(super) struct Scheduler {
    signal: Arc<Signal>,
    thread: JoinHandle<()>,
}

impl Scheduler {
    /// # Errors
    /// [`Error::ThreadNotStarted`] if the system refuses a thread.
    pub(super) fn start(
        config: &CleanupConfig,
        pool: &HybridMemoryPool,
        weak: WeakPool,
    ) -> Result<Self> {
        let signal = Arc::new(Signal::default());
        let shared = Arc::clone(&signal);
        pool.register_pressure_callback(Box::new(move |level| {
            if level >= MemoryPressureLevel::High {
                shared.request_observation();
            }
        }));
        let woken = Arc::clone(&signal);
        pool.observer().on_threshold(move || woken.request_observation());
        let (schedule, shared) = (CleanupSchedule::new(config.clone()), Arc::clone(&signal));
        let started = Builder::new()
            .name("bitnet-cleanup".into())
            .spawn(move || clean_until_closed(schedule, &shared, &weak));
        match started {
            Ok(thread) => Ok(Self { signal, thread }),
            Err(error) => Err(Error::ThreadNotStarted {
                what: "the cleanup of a memory pool",
                problem: error.to_string(),
            }),
        }
    }

    /// Ends the thread, and joins it unless it is the caller.
    pub(super) fn stop(self) {
        self.signal.stop();
        if self.thread.thread().id() != std::thread::current().id() {
            // A panic there has been reported, and holds no lock of the pool.
            let _ = self.thread.join();
        }
    }
}

fn clean_until_closed(mut schedule: CleanupSchedule, signal: &Signal, weak: &WeakPool) {
    while let Some(pool) = weak.upgrade() {
        schedule.run_due(&pool);
        pool.inner().set_live_threshold(schedule.live_threshold(&pool));
        // If this was the last owner, it has stopped the scheduler: this thread.
        drop(pool);
        if !signal.sleep(schedule.next_check()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn signals_before_the_sleep_are_not_lost() {
        let signal = Signal::default();
        signal.request_observation();
        assert!(signal.sleep(Duration::MAX), "woken");
        signal.request_observation();
        signal.stop();
        assert!(!signal.sleep(Duration::MAX), "stopping has priority");
        assert!(!signal.sleep(Duration::ZERO), "and is permanent");
        assert!(Signal::default().sleep(Duration::ZERO));
    }

    #[test]
    fn crossing_the_threshold_wakes_the_cleaner_once() {
        let pool = HybridMemoryPool::new().unwrap();
        let signal = Arc::new(Signal::default());
        let woken = || std::mem::take(&mut lock(&signal.requests).observe);
        let shared = Arc::clone(&signal);
        pool.observer().on_threshold(move || shared.request_observation());
        let allocate = || pool.allocate(8 << 20, 64, &Device::Cpu).unwrap();
        let _first = allocate();
        assert!(!woken(), "no threshold");
        pool.inner().set_live_threshold(Some(12 << 20));
        let second = allocate();
        assert!(woken());
        let _third = allocate();
        assert!(!woken(), "once");
        pool.inner().set_live_threshold(Some(12 << 20));
        drop(second);
        assert!(woken(), "live bytes are above the threshold");
    }

    #[test]
    fn a_sleeping_thread_is_woken() {
        let signal = Signal::default();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| signal.sleep(Duration::MAX));
            signal.request_observation();
            assert!(sleeper.join().unwrap());
            let sleeper = scope.spawn(|| signal.sleep(Duration::MAX));
            signal.stop();
            assert!(!sleeper.join().unwrap());
        });
    }
}

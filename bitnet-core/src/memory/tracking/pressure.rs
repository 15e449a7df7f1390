//! Memory pressure of a pool and of the system, and the callbacks that receive its changes.
//!
//! A pool has two limits, one for blocks below 1 MiB and one for the others; the one of which more is in use counts. It
//! is observed after each allocation and each return of a block of 1 MiB and more; of smaller blocks, when a thread
//! refills a bin, and when the thread's live bytes have changed by 128 KiB since the last observation. An allocation
//! that a limit refuses is Critical before its caller gets the error. A rise passes through every level between the old
//! and the new one, and callbacks receive each; a fall does not. A refusal at level Critical calls callbacks again.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::pressure_level::{Bounds, MemoryPressureLevel, system_bounds};
use crate::os::pressure::{GroupEvents, SystemFiles, SystemMemory};
use crate::sync::lock;

/// Nanoseconds from one reading of the system to the next, at least.
const READING_INTERVAL: u64 = 100_000_000;

/// A callback that receives the new level: see [`crate::memory::tracking`].
pub type PressureCallback = Box<dyn Fn(MemoryPressureLevel) + Send + Sync>;

/// Transitions that callbacks have not received.
#[derive(Default)]
struct Deliveries {
    pending: VecDeque<MemoryPressureLevel>,
    /// The thread that is running callbacks, by [`this_thread`]: it will deliver the pending transitions.
    caller: Option<usize>,
}

/// Watches a pool and the system, and calls back once for each level that is passed in a rise, and for each fall.
///
/// Callbacks run one after the other, in the order of the transitions, on a thread that observed one, while no lock is
/// held: they may allocate, free, observe and register. A callback that panics is counted, and the others still run.
pub struct PressureMonitor {
    thresholds: [f64; 4],
    margin: f64,
    system: Box<dyn SystemMemory>,
    level: AtomicU8,
    /// The system's [`Bounds`]: `enter` + 16 `stay`.
    system_bounds: AtomicU8,
    next_reading: AtomicU64,
    events: Mutex<Option<GroupEvents>>,
    callbacks: Mutex<Vec<Arc<PressureCallback>>>,
    deliveries: Mutex<Deliveries>,
    transitions: AtomicU64,
    panics: AtomicU64,
}

impl PressureMonitor {
    /// A monitor of this system. `threshold` is the part of the pool's limit where pressure begins, clamped to 0 to 1;
    /// NaN is read as 0.8.
    pub fn new(threshold: f64) -> Self {
        Self::with_system(threshold, Box::new(SystemFiles::default()))
    }

    /// A monitor that reads `system`.
    pub fn with_system(threshold: f64, system: Box<dyn SystemMemory>) -> Self {
        let low = if threshold.is_nan() { 0.8 } else { threshold.clamp(0.0, 1.0) };
        let rest = 1.0 - low;
        Self {
            thresholds: [0.0, 0.25, 0.5, 0.75].map(|part| low + rest * part),
            margin: (rest / 8.0).max(0.01),
            system,
            level: AtomicU8::new(0),
            system_bounds: AtomicU8::new(0),
            next_reading: AtomicU64::new(0),
            events: Mutex::default(),
            callbacks: Mutex::default(),
            deliveries: Mutex::default(),
            transitions: AtomicU64::new(0),
            panics: AtomicU64::new(0),
        }
    }

    /// Adds a callback. It receives each change of level from now on, not the current level.
    pub fn register(&self, callback: PressureCallback) {
        lock(&self.callbacks).push(Arc::new(callback));
    }

    /// The level at the last observation.
    pub fn level(&self) -> MemoryPressureLevel {
        MemoryPressureLevel::from_index(self.level.load(Ordering::Relaxed))
    }

    /// How often the level has changed.
    pub fn transitions(&self) -> u64 {
        self.transitions.load(Ordering::Relaxed)
    }

    /// How many calls of callbacks ended in a panic.
    pub fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Observes that the pool uses `used` of `limit` bytes, reads the system if the last reading is 100 ms old, and
    /// runs the callbacks if the level changes. A limit of 0 is no limit.
    /// The caller holds no lock that a callback might acquire.
    pub fn observe(&self, used: u64, limit: u64) -> MemoryPressureLevel {
        self.read_system();
        let pool = match limit {
            0 => Bounds::default(),
            limit => Bounds::of(used as f64 / limit as f64, self.thresholds, |_| self.margin),
        };
        let bounds = pool.both(self.system());
        let current = self.level();
        if bounds.next(current) == current { current } else { self.change(bounds) }
    }

    /// Whether the level may depend on the pool when this part of its limit is in use. Below that, any other part that
    /// is no larger has the same level.
    pub(in crate::memory) fn is_near(&self, ratio: f64) -> bool {
        let calm = self.level() == MemoryPressureLevel::None;
        ratio >= self.thresholds[0] - if calm { 0.0 } else { self.margin }
    }

    /// Observes that an allocation is about to fail: Critical, until the next observation. Callbacks run even if the
    /// level is Critical already, before this returns or, if another thread is running callbacks, on that thread.
    /// Returns false, and does nothing, for a failure inside a callback, which would recur without end.
    pub(in crate::memory) fn refused(&self) -> bool {
        let critical = MemoryPressureLevel::Critical;
        let mut deliveries = lock(&self.deliveries);
        if deliveries.caller == Some(this_thread()) {
            return false;
        }
        if self.level() == critical {
            deliveries.pending.push_back(critical);
        } else {
            self.enter(critical, &mut deliveries);
        }
        self.deliver(deliveries);
        true
    }

    /// The system's level as last read.
    fn system(&self) -> Bounds {
        let packed = self.system_bounds.load(Ordering::Relaxed);
        let [enter, stay] = [packed % 16, packed / 16].map(MemoryPressureLevel::from_index);
        Bounds { enter, stay }
    }

    fn read_system(&self) {
        let now = self.system.nanoseconds();
        let due = self.next_reading.load(Ordering::Relaxed);
        let next = now.saturating_add(READING_INTERVAL);
        let relaxed = Ordering::Relaxed;
        if now < due || self.next_reading.compare_exchange(due, next, relaxed, relaxed).is_err() {
            return;
        }
        let reading = self.system.reading();
        let before = std::mem::replace(&mut *lock(&self.events), reading.group_events);
        let Bounds { enter, stay } = system_bounds(&reading, before);
        self.system_bounds.store(enter as u8 + 16 * stay as u8, relaxed);
    }

    /// Changes the level, and delivers the transition unless another thread is delivering.
    #[cold]
    fn change(&self, bounds: Bounds) -> MemoryPressureLevel {
        let mut deliveries = lock(&self.deliveries);
        let current = self.level();
        let next = bounds.next(current);
        if next != current {
            self.enter(next, &mut deliveries);
            self.deliver(deliveries);
        }
        next
    }

    /// Enters `next`, which is not the current level, and queues the transition.
    fn enter(&self, next: MemoryPressureLevel, deliveries: &mut Deliveries) {
        let current = self.level();
        self.level.store(next as u8, Ordering::Relaxed);
        // A rise passes through each level, so that each callback receives its level.
        let first = if next > current { current as u8 + 1 } else { next as u8 };
        let passed = first..=next as u8;
        self.transitions.fetch_add(passed.len() as u64, Ordering::Relaxed);
        deliveries.pending.extend(passed.map(MemoryPressureLevel::from_index));
    }

    /// Runs the callbacks for pending transitions, unless another thread does.
    fn deliver(&self, mut deliveries: MutexGuard<'_, Deliveries>) {
        if deliveries.caller.is_some() {
            return;
        }
        deliveries.caller = Some(this_thread());
        drop(deliveries);
        while let Some(level) = self.next_delivery() {
            self.call(level);
        }
    }

    fn next_delivery(&self) -> Option<MemoryPressureLevel> {
        let mut deliveries = lock(&self.deliveries);
        let level = deliveries.pending.pop_front();
        if level.is_none() {
            deliveries.caller = None;
        }
        level
    }

    fn call(&self, level: MemoryPressureLevel) {
        let callbacks = lock(&self.callbacks).clone();
        for callback in callbacks {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| callback(level))) {
                self.panics.fetch_add(1, Ordering::Relaxed);
                // The payload may panic again when it is dropped; the others still run.
                if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                    std::mem::forget(again);
                }
            }
        }
    }
}

impl fmt::Debug for PressureMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PressureMonitor").field("level", &self.level()).finish_non_exhaustive()
    }
}

/// A number that no other live thread has: the address of a thread-local.
fn this_thread() -> usize {
    thread_local!(static PLACE: Cell<u8> = const { Cell::new(0) });
    PLACE.with(|place| std::ptr::from_ref(place).addr())
}

#[cfg(test)]
mod tests {
    use super::MemoryPressureLevel::{Critical, High, Low, Medium, None as Calm};
    use super::*;
    use crate::os::pressure::{Bounded, Stall, SystemReading};

    /// A system whose time and readings the test sets, and that counts its readings.
    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<(u64, SystemReading, u32)>>);

    impl SystemMemory for Fake {
        fn nanoseconds(&self) -> u64 {
            lock(&self.0).0
        }
        fn reading(&self) -> SystemReading {
            let mut state = lock(&self.0);
            state.2 += 1;
            state.1
        }
    }

    impl Fake {
        fn later(&self, nanoseconds: u64, change: impl FnOnce(&mut SystemReading)) {
            let mut state = lock(&self.0);
            state.0 += nanoseconds;
            change(&mut state.1);
        }
    }

    fn monitor(threshold: f64) -> (PressureMonitor, Fake, Arc<Mutex<Vec<MemoryPressureLevel>>>) {
        let system = Fake::default();
        let monitor = PressureMonitor::with_system(threshold, Box::new(system.clone()));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&calls);
        monitor.register(Box::new(move |level| lock(&received).push(level)));
        (monitor, system, calls)
    }

    #[test]
    fn each_threshold_is_reported_once_per_crossing() {
        let (monitor, _, calls) = monitor(0.8);
        for used in (0..=100).chain((0..=100).rev()) {
            monitor.observe(used, 100);
            monitor.observe(used, 100);
        }
        assert_eq!(*lock(&calls), [Low, Medium, High, Critical, High, Medium, Low, Calm]);
        assert_eq!(monitor.transitions(), 8);
    }

    #[test]
    fn swings_within_the_margin_are_reported_once() {
        let (monitor, _, calls) = monitor(0.8);
        for at in 0..1000 {
            monitor.observe(if at % 2 == 0 { 801 } else { 799 }, 1000);
        }
        assert_eq!(*lock(&calls), [Low]);
        monitor.observe(774, 1000);
        assert_eq!(*lock(&calls), [Low, Calm], "0.774 is below the margin");
    }

    #[test]
    fn a_payload_that_panics_when_dropped_stops_no_callback() {
        struct PanicsWhenDropped;
        impl Drop for PanicsWhenDropped {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let (monitor, _, calls) = monitor(0.8);
        monitor.register(Box::new(|_| std::panic::panic_any(PanicsWhenDropped)));
        let received = Arc::clone(&calls);
        monitor.register(Box::new(move |level| lock(&received).push(level)));
        monitor.observe(81, 100);
        monitor.observe(0, 100);
        assert_eq!(*lock(&calls), [Low, Low, Calm, Calm]);
        assert_eq!(monitor.panics(), 2);
    }

    #[test]
    fn a_rise_skips_no_level_and_a_fall_is_one_transition() {
        let (monitor, _, calls) = monitor(f64::NAN);
        assert_eq!(monitor.observe(u64::MAX, 1), Critical);
        assert_eq!(monitor.observe(0, u64::MAX), Calm);
        assert_eq!(monitor.observe(u64::MAX, 0), Calm, "a limit of 0 is none");
        assert_eq!(*lock(&calls), [Low, Medium, High, Critical, Calm]);
        assert_eq!(monitor.transitions(), 5);
        lock(&calls).clear();
        monitor.observe(86, 100);
        monitor.refused();
        assert_eq!(*lock(&calls), [Low, Medium, High, Critical]);
        for threshold in [-1.0, 0.0, 1.0, 7.0, f64::INFINITY] {
            let monitor = PressureMonitor::with_system(threshold, Box::new(Fake::default()));
            assert_eq!(monitor.observe(100, 100), Critical, "{threshold}");
        }
    }

    #[test]
    fn failures_at_level_critical_run_the_callbacks_each_time() {
        let (monitor, system, calls) = monitor(0.8);
        system.later(0, |reading| reading.group = Some(Bounded { used: 99, limit: 100 }));
        assert_eq!(monitor.observe(0, 100), Critical);
        lock(&calls).clear();
        assert!(monitor.refused() && monitor.refused());
        assert_eq!(*lock(&calls), [Critical, Critical]);
        assert_eq!(monitor.transitions(), 4, "the level did not change");
    }

    #[test]
    fn failures_inside_a_callback_run_no_callbacks() {
        let monitor = Arc::new(PressureMonitor::with_system(0.8, Box::new(Fake::default())));
        let calls = Arc::new(AtomicU64::new(0));
        let (again, count) = (Arc::downgrade(&monitor), Arc::clone(&calls));
        monitor.register(Box::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            let monitor = again.upgrade().unwrap();
            assert!(!monitor.refused());
        }));
        assert!(monitor.refused());
        assert_eq!((calls.load(Ordering::Relaxed), monitor.panics()), (4, 0));
    }

    #[test]
    fn the_pool_is_near_from_the_threshold_on_and_within_the_margin_after() {
        let (monitor, system, _) = monitor(0.8);
        assert!(!monitor.is_near(0.79) && monitor.is_near(0.8));
        system.later(0, |reading| reading.group = Some(Bounded { used: 99, limit: 100 }));
        monitor.observe(0, 100);
        assert!(!monitor.is_near(0.77), "the system is short of memory, the pool is not");
        assert!(monitor.is_near(0.78), "within the margin");
    }

    #[test]
    fn the_system_is_read_every_100_ms() {
        let (monitor, system, calls) = monitor(0.8);
        let calm = Some(Stall { some: 0.0, full: 0.0 });
        for _ in 0..100 {
            monitor.observe(0, 100);
            system.later(1_000_000, |_| ());
        }
        assert_eq!(lock(&system.0).2, 1);
        system.later(0, |reading| reading.stall = Some(Stall { some: 30.0, full: 0.0 }));
        assert_eq!(monitor.observe(0, 100), High);
        system.later(READING_INTERVAL, |reading| {
            reading.stall = Some(Stall { some: 21.0, full: 0.0 })
        });
        assert_eq!(monitor.observe(0, 100), High, "within the margin");
        system.later(READING_INTERVAL, |reading| reading.stall = calm);
        assert_eq!(monitor.observe(0, 100), Calm);
        system.later(READING_INTERVAL, |reading| {
            reading.group = Some(Bounded { used: 97, limit: 100 })
        });
        assert_eq!(monitor.observe(0, 100), High);
        assert_eq!(*lock(&calls), [Low, Medium, High, Calm, Low, Medium, High]);
    }

    #[test]
    fn only_new_events_of_the_control_group_count() {
        let (monitor, system, calls) = monitor(0.8);
        let events = |high, max, oom| Some(GroupEvents { high, max, oom });
        for (counted, level) in [
            (events(5, 5, 5), Calm),
            (events(5, 6, 5), Medium),
            (events(5, 6, 6), Critical),
            (events(5, 6, 6), Calm),
            (None, Calm),
        ] {
            system.later(READING_INTERVAL, |reading| reading.group_events = counted);
            assert_eq!(monitor.observe(0, 100), level, "{counted:?}");
        }
        assert_eq!(*lock(&calls), [Low, Medium, High, Critical, Calm]);
    }

    #[test]
    fn callbacks_may_observe_and_register_and_receive_transitions_in_order() {
        let system = Box::new(Fake::default());
        let monitor = Arc::new(PressureMonitor::with_system(0.8, system));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (again, received) = (Arc::downgrade(&monitor), Arc::clone(&calls));
        monitor.register(Box::new(move |level| {
            lock(&received).push(level);
            let monitor = again.upgrade().unwrap();
            if level == Critical {
                let late = Arc::clone(&received);
                monitor.register(Box::new(move |level| lock(&late).push(level)));
                assert_eq!(monitor.observe(10, 100), Calm);
                lock(&received).push(level);
            }
        }));
        monitor.observe(99, 100);
        assert_eq!(*lock(&calls), [Low, Medium, High, Critical, Critical, Calm, Calm]);
    }

    #[test]
    fn a_panicking_callback_is_counted_and_the_next_one_runs() {
        let monitor = PressureMonitor::with_system(0.8, Box::new(Fake::default()));
        monitor.register(Box::new(|level| assert_eq!(level, Calm, "the expected panic")));
        let calls = Arc::new(AtomicU64::new(0));
        let received = Arc::clone(&calls);
        monitor.register(Box::new(move |_| {
            received.fetch_add(1, Ordering::Relaxed);
        }));
        assert_eq!(monitor.observe(99, 100), Critical);
        assert_eq!(monitor.observe(0, 100), Calm);
        assert_eq!((calls.load(Ordering::Relaxed), monitor.panics()), (5, 4));
    }

    #[test]
    fn concurrent_transitions_are_delivered_once_and_in_order() {
        let (monitor, _, calls) = monitor(0.8);
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let monitor = &monitor;
                scope.spawn(move || {
                    for at in 0..5000 {
                        monitor.observe((at * 37 + thread * 13) % 101, 100);
                    }
                });
            }
        });
        let calls = lock(&calls);
        assert_eq!(calls.len() as u64, monitor.transitions());
        assert!(calls.windows(2).all(|pair| pair[0] != pair[1]), "two consecutive calls are equal");
        assert_eq!(calls.last().copied(), Some(monitor.level()));
    }
}

//! Workers that wait for work by spinning, then asleep: a task reaches them in less than a microsecond while tasks
//! follow one another closely, as they do inside a token.
//!
//! A worker joins a task if it arrives before the caller has finished it. The caller waits only for those that joined,
//! so a descheduled worker costs nothing but its help.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Turns of the waiting loop before a worker goes to sleep: some hundred microseconds, more than lie between the
/// tasks of one token.
const SPINS: usize = 20_000;

/// Locks a mutex whose holder may have panicked: what it guards stays valid.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the threads run together.
type Task<'a> = dyn Fn() + Sync + 'a;

/// A task whose lifetime has been forgotten.
struct Slot(UnsafeCell<Option<*const Task<'static>>>);

// SAFETY: the slot is written only by the holder of `Workers::turn` while the gate is closed and no worker is inside,
// and read only by workers that are inside.
unsafe impl Sync for Slot {}
// SAFETY: the pointer is to a `Sync` closure, so it may be used from any thread.
unsafe impl Send for Slot {}

/// The gate: the number of the task, a bit that says that no one may join it any more, and how many joined.
///
/// ```text
/// bits 63..32 task | bit 31 closed | bits 15..0 joined
/// ```
mod gate {
    pub(super) const CLOSED: u64 = 1 << 31;

    pub(super) fn task(gate: u64) -> u64 {
        gate >> 32
    }

    pub(super) fn joined(gate: u64) -> usize {
        (gate & 0xffff) as usize
    }

    /// An open gate for the task after that of `gate`.
    pub(super) fn next(gate: u64) -> u64 {
        (task(gate).wrapping_add(1)) << 32
    }
}

/// What the caller and the workers share.
struct Shared {
    task: Slot,
    gate: AtomicU64,
    /// Workers that joined the task and have finished.
    finished: AtomicUsize,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleeping: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

impl Shared {
    /// Waits for a task other than number `seen`.
    fn next(&self, seen: u64) -> u64 {
        for _ in 0..SPINS {
            let task = gate::task(self.gate.load(Ordering::Acquire));
            if task != seen {
                return task;
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.sleep);
        // With the caller's order (gate, then `sleeping`) one of the two sees what the other wrote.
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        let task = loop {
            let task = gate::task(self.gate.load(Ordering::SeqCst));
            if task != seen {
                break task;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
        task
    }

    /// Opens the gate for the next task.
    fn open(&self) {
        let gate = gate::next(self.gate.load(Ordering::Relaxed));
        self.gate.store(gate, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) > 0 {
            let _guard = lock(&self.sleep);
            self.wake.notify_all();
        }
    }

    /// Takes part in task number `task`, unless it is closed.
    fn join(&self, task: u64) -> bool {
        let join = |gate| {
            let open = gate::task(gate) == task && gate & gate::CLOSED == 0;
            open.then_some(gate + 1)
        };
        self.gate.fetch_update(Ordering::AcqRel, Ordering::Acquire, join).is_ok()
    }

    /// Closes the gate and waits until every worker inside has finished.
    fn finish(&self) {
        let joined = gate::joined(self.gate.fetch_or(gate::CLOSED, Ordering::AcqRel));
        let mut spins = 0;
        while self.finished.load(Ordering::Acquire) < joined {
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        self.finished.store(0, Ordering::Relaxed);
    }

    fn work(&self) {
        let mut seen = 0;
        loop {
            seen = self.next(seen);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            if !self.join(seen) {
                continue;
            }
            // SAFETY: this worker is inside the gate: the caller wrote the slot before it opened the gate, and does
            // not write it again before this worker has reported below.
            let task = unsafe { *self.task.0.get() };
            if let Some(task) = task {
                // SAFETY: `Workers::run` keeps the closure alive until all that joined have finished, which this
                // worker reports only below.
                let task = unsafe { &*task };
                if let Err(panic) = catch_unwind(AssertUnwindSafe(task)) {
                    *lock(&self.panic) = Some(panic);
                }
            }
            self.finished.fetch_add(1, Ordering::Release);
        }
    }
}

/// Some threads that run one task at a time together with the caller.
pub(super) struct Workers {
    shared: Arc<Shared>,
    turn: Mutex<()>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

/// Waits for the workers when it goes out of scope, by a panic too: they use what the caller lent them.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl Workers {
    /// At most 65,535 threads beside the caller's; `None` if the system refuses one.
    pub(super) fn new(count: usize) -> Option<Self> {
        let count = count.min(usize::from(u16::MAX));
        let shared = Arc::new(Shared {
            task: Slot(UnsafeCell::new(None)),
            gate: AtomicU64::new(gate::CLOSED),
            finished: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            sleeping: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut workers = Self { shared, turn: Mutex::new(()), threads: Vec::new() };
        for index in 1..=count {
            let shared = Arc::clone(&workers.shared);
            let name = format!("bitnet-cpu-{index}");
            let thread = std::thread::Builder::new().name(name).spawn(move || shared.work());
            workers.threads.push(thread.ok()?);
        }
        Some(workers)
    }

    /// Runs `task` on the caller's thread and on every worker that comes while the caller's run lasts.
    ///
    /// # Panics
    /// If `task` panics on any thread, after all have finished.
    pub(super) fn run(&self, task: &Task<'_>) {
        let turn = lock(&self.turn);
        // SAFETY: only the lifetime changes. The pointer is used by workers inside the gate alone, and `Finish` waits
        // for them before this function returns or unwinds.
        let forgotten: *const Task<'static> =
            unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        // SAFETY: this thread has the turn, the gate is closed and no one is inside, so no worker reads the slot.
        unsafe { *self.shared.task.0.get() = Some(forgotten) };
        let finish = Finish(&self.shared);
        self.shared.open();
        task();
        drop(finish);
        let panic = lock(&self.shared.panic).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.open();
        for thread in self.threads.drain(..) {
            // A worker catches every panic, so there is nothing to learn here.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes numbers below `len` until there are none left, and counts how often each was taken.
    fn take(workers: &Workers, len: usize) -> Vec<usize> {
        let next = AtomicUsize::new(0);
        let seen: Vec<_> = (0..len).map(|_| AtomicUsize::new(0)).collect();
        workers.run(&|| {
            while let Some(seen) = seen.get(next.fetch_add(1, Ordering::Relaxed)) {
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
        seen.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn run_completes_every_item_once() {
        for count in [0, 1, 3] {
            let workers = Workers::new(count).unwrap();
            for round in 0..2000 {
                if round == 1000 {
                    // Long enough for the workers to fall asleep.
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                assert!(take(&workers, 50).iter().all(|seen| *seen == 1));
            }
        }
    }

    #[test]
    fn worker_joins_the_caller() {
        let workers = Workers::new(1).unwrap();
        let (inside, both) = (AtomicUsize::new(0), AtomicBool::new(false));
        workers.run(&|| {
            inside.fetch_add(1, Ordering::SeqCst);
            // Whoever comes first waits for the other.
            while !both.load(Ordering::SeqCst) {
                both.fetch_or(inside.load(Ordering::SeqCst) == 2, Ordering::SeqCst);
                std::thread::yield_now();
            }
        });
        assert_eq!(inside.into_inner(), 2);
    }

    #[test]
    fn concurrent_callers_are_serialised() {
        let workers = Workers::new(2).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        assert!(take(&workers, 7).iter().all(|seen| *seen == 1));
                    }
                });
            }
        });
    }

    #[test]
    fn panic_reaches_the_caller_and_workers_survive() {
        let workers = Workers::new(2).unwrap();
        for bad in 0..3 {
            let arrived = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                workers.run(&|| {
                    let index = arrived.fetch_add(1, Ordering::SeqCst);
                    while arrived.load(Ordering::SeqCst) < 3 {
                        std::thread::yield_now();
                    }
                    assert_ne!(index, bad, "on purpose");
                });
            }));
            assert!(result.is_err());
            assert!(take(&workers, 20).iter().all(|seen| *seen == 1));
        }
    }
}

//! One cleanup of a pool: free memory is purged, and tensors are compressed and moved so that more becomes free, within a time.

use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::scheduler::Scheduler;
use super::{CleanupConfig, CleanupMetrics, CleanupReport, Compacted, Released, Strategy, Work};
use crate::Result;
use crate::memory::HybridMemoryPool;
use crate::memory::heap::past;
use crate::memory::pool::WeakPool;
use crate::memory::tensor::{CompressionStep, TensorRegistry, WeakTensorRegistry};
use crate::memory::tracking::LatencyKind;

/// Slabs and regions of which at most this part is in use are drained.
const SPARSE: f64 = 0.25;
/// Bytes whose residence is queried between two looks at the clock.
const ASKED_AT_ONCE: usize = 16 << 20;
/// The parts of the time by which the steps end. The last tenth is for pieces that have begun by then.
const RELEASED_BY: f64 = 0.4;
const COMPRESSED_BY: f64 = 0.55;
const MOVED_BY: f64 = 0.75;
const OVER_BY: f64 = 0.9;

/// What a pool holds for its cleanups.
#[derive(Debug)]
pub(in crate::memory) struct Cleaner {
    config: CleanupConfig,
    registries: Mutex<Vec<WeakTensorRegistry>>,
    metrics: Mutex<CleanupMetrics>,
    scheduler: OnceLock<Scheduler>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cleaner {
    pub(in crate::memory) fn new(config: CleanupConfig) -> Self {
        Self {
            config,
            registries: Mutex::default(),
            metrics: Mutex::default(),
            scheduler: OnceLock::new(),
        }
    }

    /// Starts the thread that cleans `pool`, the owner of this cleaner.
    ///
    /// # Errors
    /// [`crate::Error::ThreadNotStarted`] if the system refuses a thread.
    pub(in crate::memory) fn start(&self, pool: &HybridMemoryPool, weak: WeakPool) -> Result<()> {
        let scheduler = Scheduler::start(&self.config, pool, weak)?;
        // The pool is new, so it has none yet.
        let _ = self.scheduler.set(scheduler);
        Ok(())
    }

    /// Ends the thread, and waits until it is gone unless it is the caller.
    pub(in crate::memory) fn stop(&mut self) {
        if let Some(scheduler) = self.scheduler.take() {
            scheduler.stop();
        }
    }

    fn attach(&self, registry: &TensorRegistry) {
        let mut registries = lock(&self.registries);
        registries.retain(|known| known.is_alive());
        if !registries.iter().any(|known| known.is_of(registry)) {
            registries.push(registry.downgrade());
        }
    }

    fn registries(&self) -> Vec<TensorRegistry> {
        let known = lock(&self.registries).clone();
        known.iter().filter_map(WeakTensorRegistry::upgrade).collect()
    }

    fn clean(&self, pool: &HybridMemoryPool, strategy: Strategy) -> CleanupReport {
        let time = Time::start(self.config.max_cleanup_time);
        let mut report = CleanupReport::new(strategy);
        report.resident_before = resident(pool, time.until(0.1));
        // The second query takes about as long.
        let asking = time.start.elapsed();
        let over = time.until(OVER_BY);
        let end = over.and_then(|over| over.checked_sub(asking)).or(over);
        self.work(pool, strategy.work(&self.config), &time, end, &mut report);
        report.resident_after = report.resident_before.and_then(|_| resident(pool, over));
        report.took = time.start.elapsed();
        lock(&self.metrics).add(&report, self.config.max_cleanup_time);
        // Callbacks were deferred while tensors were locked.
        pool.inner().report_usage();
        report
    }

    fn work(
        &self,
        pool: &HybridMemoryPool,
        work: Work,
        time: &Time,
        end: Option<Instant>,
        report: &mut CleanupReport,
    ) {
        let registries = self.registries();
        let only_release = registries.is_empty() || work == Work::default();
        let released_by = if only_release { end } else { time.until(RELEASED_BY) };
        for registry in &registries {
            let step = registry.free_vacated(&|| !past(released_by));
            report.add_compression(step);
        }
        report.released.add(release(pool, released_by));
        report.was_cut |= past(released_by);
        if only_release {
            return;
        }
        if let Some(idle) = work.compress_idle_for {
            report.add_compression(compress(&registries, idle, time.until(COMPRESSED_BY)));
        }
        if let Some(idle) = work.move_idle_for {
            let (done, cut) = compact(pool, &registries, idle, time.until(MOVED_BY));
            report.compacted = done;
            report.was_cut |= cut;
        }
        if report.compressed.tensors + report.compacted.tensors > 0 {
            report.released_after_moving.add(release(pool, end));
        }
        report.was_cut |= past(end);
    }
}

/// The time budget of a cleanup.
struct Time {
    start: Instant,
    budget: Duration,
    /// `None` if it is beyond the range of the clock.
    end: Option<Instant>,
}

impl Time {
    fn start(budget: Duration) -> Self {
        let start = Instant::now();
        Self { start, budget, end: start.checked_add(budget) }
    }

    /// Returns the end of a part of the time; `None` if there is no end.
    fn until(&self, part: f64) -> Option<Instant> {
        self.end.and_then(|_| self.start.checked_add(self.budget.mul_f64(part)))
    }
}

/// Returns the resident bytes of the pool, as reported by the OS; `None` if it does not report them before the deadline.
fn resident(pool: &HybridMemoryPool, deadline: Option<Instant>) -> Option<usize> {
    let pages = &pool.inner().pages;
    let mut sum = 0;
    for (start, bytes) in pool.ranges() {
        for at in (0..bytes).step_by(ASKED_AT_ONCE) {
            if past(deadline) {
                return None;
            }
            sum += pages.resident(start + at, ASKED_AT_ONCE.min(bytes - at))?;
        }
    }
    Some(sum)
}

/// Purges free memory until the deadline, and records how long it took.
fn release(pool: &HybridMemoryPool, deadline: Option<Instant>) -> Released {
    let start = Instant::now();
    let released = pool.inner().purge(deadline);
    if let Some(tracker) = pool.tracker() {
        tracker.latency_since(LatencyKind::Trim, start);
    }
    released
}

/// Compresses tensors that have been idle for at least `idle`.
fn compress(
    registries: &[TensorRegistry],
    idle: Duration,
    deadline: Option<Instant>,
) -> CompressionStep {
    let more = || !past(deadline);
    let mut sum = CompressionStep::default();
    for registry in registries {
        let had_time = registry.for_each_idle_while(idle, &more, |tensor| {
            // Without room for this one, smaller ones may still find some.
            sum.add(tensor.compress_while(&more).unwrap_or_default());
            sum.was_cut |= !more();
            if sum.was_cut { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        sum.was_cut |= !had_time;
    }
    sum
}

/// Moves tensors that have been idle for at least `idle` out of sparse memory. Also returns whether it ran out of time.
fn compact(
    pool: &HybridMemoryPool,
    registries: &[TensorRegistry],
    idle: Duration,
    deadline: Option<Instant>,
) -> (Compacted, bool) {
    let mut done = Compacted::default();
    if past(deadline) {
        return (done, true);
    }
    // `None`: another compaction is under way.
    let Some(compaction) = pool.start_compaction_until(SPARSE, deadline) else {
        return (done, false);
    };
    done.sparse_bytes = compaction.sparse_bytes();
    let mut cut = false;
    if done.sparse_bytes == 0 {
        return (done, cut);
    }
    for registry in registries {
        let had_time = registry.for_each_idle_while(idle, &|| !past(deadline), |tensor| {
            if past(deadline) {
                cut = true;
                return ControlFlow::Break(());
            }
            let Some(block) = tensor.block().filter(|block| compaction.concerns(block)) else {
                return ControlFlow::Continue(());
            };
            let size = block.size();
            match tensor.leave_sparse(&compaction, deadline) {
                Ok(true) => {
                    done.tensors += 1;
                    done.bytes += size;
                }
                Ok(false) => cut = true,
                Err(_) => done.refused += 1,
            }
            ControlFlow::Continue(())
        });
        cut |= !had_time;
    }
    (done, cut)
}

impl HybridMemoryPool {
    /// Returns free memory to the system, and moves tensors of attached registries out of sparse memory (with `enable_compaction`) so
    /// that more becomes free, all within `max_cleanup_time`. Tensors in use stay, and no content changes.
    ///
    /// ```
    /// use bitnet_core::device::Device;
    /// use bitnet_core::memory::HybridMemoryPool;
    ///
    /// let pool = HybridMemoryPool::new()?;
    /// let mut block = pool.allocate(8 << 20, 64, &Device::Cpu)?;
    /// block.bytes_mut().fill(1);
    /// drop(block); // It is cached for the next request.
    /// let report = pool.cleanup_now();
    /// if let (Some(before), Some(after)) = (report.resident_before, report.resident_after) {
    ///     assert!(before >= 8 << 20 && after < before);
    /// }
    /// # Ok::<(), bitnet_core::Error>(())
    /// ```
    pub fn cleanup_now(&self) -> CleanupReport {
        self.cleanup(Strategy::OnDemand)
    }

    /// Cleans as `strategy` does when it is due: see [`Strategy::work`].
    pub fn cleanup(&self, strategy: Strategy) -> CleanupReport {
        self.cleaner().clean(self, strategy)
    }

    /// The sum over the cleanups of this pool so far.
    pub fn cleanup_metrics(&self) -> CleanupMetrics {
        *lock(&self.cleaner().metrics)
    }

    /// When and how long this pool is cleaned.
    pub fn cleanup_config(&self) -> &CleanupConfig {
        &self.cleaner().config
    }

    /// Lets cleanups of this pool move and compress the tensors of `registry`. A registry made from this pool is attached already; one
    /// with tensors of several pools has to be attached to each. Does not keep the registry alive.
    pub fn attach_registry(&self, registry: &TensorRegistry) {
        self.cleaner().attach(registry);
    }
}

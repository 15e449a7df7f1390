//! One cleanup of a pool within a time limit: free memory is purged, and tensors are compressed and moved.

use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use super::scheduler::Scheduler;
use super::{
    CleanupConfig, CleanupMetrics, CleanupReport, Compacted, Compaction, CompressionStep, Strategy,
    Work,
};
use crate::Result;
use crate::memory::HybridMemoryPool;
use crate::memory::heap::past;
use crate::memory::pool::WeakPool;
use crate::sync::lock;

/// Slabs and regions of which at most this part is in use are drained.
const SPARSE: f64 = 0.25;
/// Bytes whose residence is queried between two checks of the clock.
const QUERY_BYTES: usize = 16 << 20;
/// The parts of the time by which the steps end. The last tenth is for pieces that have begun by then.
const RELEASED_BY: f64 = 0.4;
const COMPRESSED_BY: f64 = 0.55;
const MOVED_BY: f64 = 0.75;
const OVER_BY: f64 = 0.9;

/// Tensors that cleanups of a pool compress and move. Tensors in use are left unchanged.
pub(in crate::memory) trait CleanupTarget: Send + Sync {
    /// Frees the blocks that compressed tensors have vacated, until the deadline.
    fn free_vacated(&self, deadline: Option<Instant>) -> CompressionStep;

    /// Compresses tensors that have been idle for at least `idle`, until the deadline.
    fn compress(&self, idle: Duration, deadline: Option<Instant>) -> CompressionStep;

    /// Moves tensors that have been idle for at least `idle` out of sparse memory until the deadline, and adds them to
    /// `done`. Returns whether there was time for all.
    fn compact(
        &self,
        compaction: &Compaction<'_>,
        idle: Duration,
        deadline: Option<Instant>,
        done: &mut Compacted,
    ) -> bool;
}

/// The configuration, targets and metrics of the cleanups of a pool.
#[derive(Debug)]
pub(in crate::memory) struct Cleaner {
    config: CleanupConfig,
    targets: Mutex<Vec<Weak<dyn CleanupTarget>>>,
    metrics: Mutex<CleanupMetrics>,
    scheduler: OnceLock<Scheduler>,
}

impl Cleaner {
    pub(in crate::memory) fn new(config: CleanupConfig) -> Self {
        Self {
            config,
            targets: Mutex::default(),
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

    /// Ends the thread, and joins it unless it is the caller.
    pub(in crate::memory) fn stop(&mut self) {
        if let Some(scheduler) = self.scheduler.take() {
            scheduler.stop();
        }
    }

    /// Adds a target, unless it is attached already.
    pub(in crate::memory) fn attach(&self, target: Weak<dyn CleanupTarget>) {
        let mut targets = lock(&self.targets);
        targets.retain(|other| other.strong_count() > 0);
        if !targets.iter().any(|other| Weak::ptr_eq(other, &target)) {
            targets.push(target);
        }
    }

    fn targets(&self) -> Vec<Arc<dyn CleanupTarget>> {
        lock(&self.targets).iter().filter_map(Weak::upgrade).collect()
    }

    fn clean(&self, pool: &HybridMemoryPool, strategy: Strategy) -> CleanupReport {
        let time = Time::start(self.config.max_cleanup_time);
        let mut report = CleanupReport::new(strategy);
        report.resident_before = resident(pool, time.until(0.1));
        // The second query takes about as long.
        let query_time = time.start.elapsed();
        let over = time.until(OVER_BY);
        let end = over.and_then(|over| over.checked_sub(query_time)).or(over);
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
        let targets = self.targets();
        let only_release = targets.is_empty() || work == Work::default();
        let released_by = if only_release { end } else { time.until(RELEASED_BY) };
        for target in &targets {
            report.add_compression(target.free_vacated(released_by));
        }
        report.released.add(pool.release(released_by));
        report.was_cut |= past(released_by);
        if only_release {
            return;
        }
        if let Some(idle) = work.compress_idle_for {
            for target in &targets {
                report.add_compression(target.compress(idle, time.until(COMPRESSED_BY)));
            }
        }
        if let Some(idle) = work.move_idle_for {
            let (done, cut) = compact(pool, &targets, idle, time.until(MOVED_BY));
            report.compacted = done;
            report.was_cut |= cut;
        }
        if report.compressed.tensors + report.compacted.tensors > 0 {
            report.released_after_moving.add(pool.release(end));
        }
        report.was_cut |= past(end);
    }
}

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

/// Returns the resident bytes of the pool, as reported by the OS;
/// `None` if it does not report them before the deadline.
fn resident(pool: &HybridMemoryPool, deadline: Option<Instant>) -> Option<usize> {
    let pages = &pool.inner().pages;
    let mut sum = 0;
    for (start, bytes) in pool.ranges() {
        for at in (0..bytes).step_by(QUERY_BYTES) {
            if past(deadline) {
                return None;
            }
            sum += pages.resident(start + at, QUERY_BYTES.min(bytes - at))?;
        }
    }
    Some(sum)
}

/// Moves tensors that have been idle for at least `idle` out of sparse memory. Also returns whether it ran out of time.
fn compact(
    pool: &HybridMemoryPool,
    targets: &[Arc<dyn CleanupTarget>],
    idle: Duration,
    deadline: Option<Instant>,
) -> (Compacted, bool) {
    let mut done = Compacted::default();
    if past(deadline) {
        return (done, true);
    }
    // `None`: during another compaction.
    let Some(compaction) = pool.start_compaction_until(SPARSE, deadline) else {
        return (done, false);
    };
    done.sparse_bytes = compaction.sparse_bytes();
    if done.sparse_bytes == 0 {
        return (done, false);
    }
    let mut cut = false;
    for target in targets {
        cut |= !target.compact(&compaction, idle, deadline, &mut done);
    }
    (done, cut)
}

impl HybridMemoryPool {
    /// Returns free memory to the system, and moves tensors of attached registries out of sparse memory (with
    /// `enable_compaction`) so that more becomes free, all within `max_cleanup_time`.
    /// Tensors in use are not moved, and no content changes.
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
}

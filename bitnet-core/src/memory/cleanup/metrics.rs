//! The report of a cleanup, and the sum over all cleanups of a pool.

use std::fmt;
use std::time::Duration;

use super::{Released, Strategy};

/// The tensors that were moved out of sparse memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Bytes in use in slabs and regions that were sparse.
    pub sparse_bytes: usize,
    /// Tensors that were moved.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Tensors that were not moved because there was no memory for them elsewhere.
    pub refused: usize,
}

/// The tensors that were compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compressed {
    /// Tensors that were compressed.
    pub tensors: usize,
    /// Bytes that they occupied before.
    pub bytes_before: usize,
    /// Bytes that they occupy now.
    pub bytes_after: usize,
}

impl Compressed {
    pub(in crate::memory) fn add(&mut self, other: Self) {
        self.tensors += other.tensors;
        self.bytes_before += other.bytes_before;
        self.bytes_after += other.bytes_after;
    }
}

/// The outcome of a step of compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::memory) struct CompressionStep {
    pub(in crate::memory) done: Compressed,
    /// Resident bytes released with the block of the tensor, as reported by the OS.
    pub(in crate::memory) returned: usize,
    /// Allocations and deallocations that it made.
    pub(in crate::memory) activity: u64,
    /// Whether it was cut short.
    pub(in crate::memory) was_cut: bool,
}

impl CompressionStep {
    pub(in crate::memory) fn add(&mut self, other: Self) {
        self.done.add(other.done);
        self.returned += other.returned;
        self.activity += other.activity;
        self.was_cut |= other.was_cut;
    }
}

/// The report of one cleanup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CleanupReport {
    /// Why it was done.
    pub strategy: Strategy,
    /// Resident bytes of the pool before, as reported by the OS; `None` where it does not report them, or where the
    /// query would have taken more than a tenth of the time.
    pub resident_before: Option<usize>,
    /// The same afterwards, including concurrent allocations and frees.
    pub resident_after: Option<usize>,
    /// Bytes released that were free at the start.
    pub released: Released,
    /// Bytes released that became free by compressing and moving tensors.
    pub released_after_moving: Released,
    /// What was moved.
    pub compacted: Compacted,
    /// What was compressed.
    pub compressed: Compressed,
    /// How long it took.
    pub took: Duration,
    /// Whether it stopped because its time was over.
    pub was_cut: bool,
    /// Allocations and deallocations that compressing made.
    compressing: u64,
}

impl CleanupReport {
    pub(super) fn new(strategy: Strategy) -> Self {
        Self { strategy, ..Self::default() }
    }

    pub(super) fn add_compression(&mut self, step: CompressionStep) {
        self.compressed.add(step.done);
        self.released_after_moving.separate_mappings += step.returned;
        self.compressing += step.activity;
        self.was_cut |= step.was_cut;
    }

    /// Resident bytes released in all steps, as reported by the OS.
    pub fn returned(&self) -> usize {
        self.released.total() + self.released_after_moving.total()
    }

    /// Allocations and deallocations that the cleanup itself made.
    pub(super) fn own_activity(&self) -> u64 {
        2 * self.compacted.tensors as u64 + self.compressing
    }
}

impl fmt::Display for CleanupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = if self.was_cut { ", cut short" } else { "" };
        write!(
            f,
            "{:?}: {} bytes returned (cached blocks {}, regions {}, slabs {}, after moving {}), {} tensors moved, {} compressed, {:.1?}{cut}",
            self.strategy,
            self.returned(),
            self.released.separate_mappings,
            self.released.regions,
            self.released.slabs,
            self.released_after_moving.total(),
            self.compacted.tensors,
            self.compressed.tensors,
            self.took,
        )
    }
}

/// The sum over all cleanups of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CleanupMetrics {
    runs: [u64; Strategy::ALL.len()],
    /// Resident bytes released, as reported by the OS.
    pub returned: u64,
    /// Tensors that were moved, and their bytes.
    pub moved: (u64, u64),
    /// Tensors that were compressed, and the bytes saved by it.
    pub compressed: (u64, u64),
    /// Cleanups that stopped because their time was over.
    pub cut: u64,
    /// Cleanups that took longer than `max_cleanup_time`.
    pub overruns: u64,
    /// The largest excess over `max_cleanup_time`.
    pub worst_overrun: Duration,
    /// The longest cleanup.
    pub longest: Duration,
    /// All cleanups together.
    pub time: Duration,
}

impl CleanupMetrics {
    /// Cleanups of a strategy.
    pub fn runs(&self, strategy: Strategy) -> u64 {
        self.runs[strategy as usize]
    }

    pub(super) fn add(&mut self, report: &CleanupReport, budget: Duration) {
        self.runs[report.strategy as usize] += 1;
        self.returned += report.returned() as u64;
        self.moved.0 += report.compacted.tensors as u64;
        self.moved.1 += report.compacted.bytes as u64;
        let compressed = report.compressed;
        self.compressed.0 += compressed.tensors as u64;
        self.compressed.1 += compressed.bytes_before.saturating_sub(compressed.bytes_after) as u64;
        self.cut += u64::from(report.was_cut);
        let over = report.took.saturating_sub(budget);
        self.overruns += u64::from(over > Duration::ZERO);
        self.worst_overrun = self.worst_overrun.max(over);
        self.longest = self.longest.max(report.took);
        self.time = self.time.saturating_add(report.took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_the_sum_of_the_reports() {
        let mut metrics = CleanupMetrics::default();
        let mut report = CleanupReport::new(Strategy::Idle);
        report.released = Released { separate_mappings: 1, regions: 20, slabs: 300 };
        report.released_after_moving.slabs = 4000;
        report.compacted = Compacted { sparse_bytes: 9, tensors: 2, bytes: 7, refused: 0 };
        let done = Compressed { tensors: 1, bytes_before: 50, bytes_after: 20 };
        report.add_compression(CompressionStep { done, activity: 7, ..Default::default() });
        report.took = Duration::from_millis(99);
        metrics.add(&report, Duration::from_millis(100));
        report.strategy = Strategy::Pressure;
        report.took = Duration::from_millis(103);
        report.was_cut = true;
        metrics.add(&report, Duration::from_millis(100));
        assert_eq!(report.own_activity(), 4 + 7);
        assert_eq!([Strategy::Idle, Strategy::Pressure].map(|s| metrics.runs(s)), [1, 1]);
        assert_eq!([Strategy::Periodic, Strategy::OnDemand].map(|s| metrics.runs(s)), [0, 0]);
        assert_eq!((metrics.returned, metrics.moved, metrics.compressed), (8642, (4, 14), (2, 60)));
        assert_eq!((metrics.cut, metrics.overruns), (1, 1));
        assert_eq!(metrics.worst_overrun, Duration::from_millis(3));
        assert_eq!(metrics.longest, Duration::from_millis(103));
        assert_eq!(metrics.time, Duration::from_millis(202));
    }
}

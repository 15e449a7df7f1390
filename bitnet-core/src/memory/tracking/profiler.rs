//! Latencies of calls, and bytes and time of operations.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::{EventKind, Histogram, LatencyKind, LatencySummary, Timeline};

/// Histograms of latencies and counters of operations.
#[derive(Debug)]
pub(super) struct Profiler {
    /// One for each of [`LatencyKind::ALL`], or none.
    latencies: Vec<Histogram>,
    operations: RwLock<BTreeMap<&'static str, Arc<Operation>>>,
}

#[derive(Debug, Default)]
struct Operation {
    calls: AtomicU64,
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
    latencies: Histogram,
}

/// Calls, bytes and time of one operation so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OperationFigures {
    /// Its name.
    pub name: &'static str,
    /// The number of runs; an estimate, as are bytes and time, where not every run is timed.
    pub calls: u64,
    /// Bytes that it moved from or to memory.
    pub bytes: u64,
    /// The time that it took.
    pub time: Duration,
    /// The time of a single run, in nanoseconds.
    pub latency: LatencySummary,
}

impl OperationFigures {
    /// Bytes moved in a second, in units of 10^9; `None` if no time passed.
    pub fn gigabytes_per_second(&self) -> Option<f64> {
        let nanoseconds = self.time.as_nanos();
        (nanoseconds > 0).then(|| self.bytes as f64 / nanoseconds as f64)
    }

    /// The part of a measured bandwidth that it reached. More than 1 means that it moved bytes within a cache.
    pub fn utilisation(&self, peak_gigabytes_per_second: f64) -> Option<f64> {
        let rate = self.gigabytes_per_second()?;
        (peak_gigabytes_per_second > 0.0).then(|| rate / peak_gigabytes_per_second)
    }
}

/// The rates of allocation over the events of a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// The time from the first event to the last.
    pub span: Duration,
    /// Recorded allocations in a second.
    pub allocations_per_second: f64,
    /// Bytes that were allocated in a second, estimated from the recorded ones if they are a sample.
    pub bytes_per_second: f64,
}

impl Rates {
    /// The rates over a timeline; `None` if it has no two events at different times.
    pub fn of(timeline: &Timeline) -> Option<Self> {
        let span = timeline.span();
        let seconds = span.as_secs_f64();
        if seconds <= 0.0 {
            return None;
        }
        // The first event opens the span: its bytes do not count.
        let allocations = timeline.events.iter().skip(1).filter(|e| e.kind == EventKind::Allocated);
        let (count, bytes) =
            allocations.fold((0u64, 0u64), |(n, sum), e| (n + 1, sum.saturating_add(e.bytes)));
        Some(Self {
            span,
            allocations_per_second: count as f64 / seconds,
            bytes_per_second: bytes as f64 / seconds,
        })
    }
}

impl Profiler {
    pub(super) fn new(with_latencies: bool) -> Self {
        let kinds = if with_latencies { LatencyKind::ALL.len() } else { 0 };
        Self {
            latencies: (0..kinds).map(|_| Histogram::default()).collect(),
            operations: RwLock::default(),
        }
    }

    #[inline]
    pub(super) fn latency(&self, kind: LatencyKind, nanoseconds: u64) {
        if let Some(histogram) = self.latencies.get(kind as usize) {
            histogram.record(nanoseconds);
        }
    }

    pub(super) fn latencies(&self, kind: LatencyKind) -> Option<LatencySummary> {
        self.latencies.get(kind as usize).map(Histogram::summary)
    }

    /// Counts a run that represents `weight` of them.
    pub(super) fn operation(&self, name: &'static str, bytes: u64, nanoseconds: u64, weight: u64) {
        let existing =
            self.operations.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let operation = existing.unwrap_or_else(|| {
            let mut operations = self.operations.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(operations.entry(name).or_default())
        });
        operation.calls.fetch_add(weight, Ordering::Relaxed);
        operation.bytes.fetch_add(bytes.saturating_mul(weight), Ordering::Relaxed);
        operation.nanoseconds.fetch_add(nanoseconds.saturating_mul(weight), Ordering::Relaxed);
        operation.latencies.record(nanoseconds);
    }

    pub(super) fn operations(&self) -> Vec<OperationFigures> {
        let operations = self.operations.read().unwrap_or_else(PoisonError::into_inner);
        let figures = operations.iter().map(|(&name, operation)| OperationFigures {
            name,
            calls: operation.calls.load(Ordering::Relaxed),
            bytes: operation.bytes.load(Ordering::Relaxed),
            time: Duration::from_nanos(operation.nanoseconds.load(Ordering::Relaxed)),
            latency: operation.latencies.summary(),
        });
        let mut figures: Vec<_> = figures.collect();
        figures.sort_by_key(|figures| std::cmp::Reverse(figures.time));
        figures
    }

    pub(super) fn bytes(&self) -> usize {
        let operations = self.operations.read().unwrap_or_else(PoisonError::into_inner);
        let counted =
            |operation: &Arc<Operation>| size_of::<Operation>() + operation.latencies.bytes();
        self.latencies.iter().map(Histogram::bytes).sum::<usize>()
            + operations.values().map(counted).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::super::timeline::tests::event;
    use super::*;

    #[test]
    fn operations_add_up_across_threads() {
        let profiler = Profiler::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        profiler.operation("bit_linear", 3000, 1000, 1);
                        profiler.operation("rms_norm", 10, 20, 1);
                    }
                });
            }
        });
        let figures = profiler.operations();
        assert_eq!([figures[0].name, figures[1].name], ["bit_linear", "rms_norm"]);
        assert_eq!((figures[0].calls, figures[0].bytes), (2000, 6_000_000));
        assert_eq!(figures[0].time, Duration::from_millis(2));
        assert_eq!(figures[0].gigabytes_per_second(), Some(3.0));
        assert_eq!(figures[0].utilisation(12.0), Some(0.25));
        assert_eq!(figures[0].utilisation(0.0), None);
        assert_eq!(figures[0].latency.max, 1000);
        assert!(profiler.bytes() > 2 * size_of::<Operation>());
    }

    #[test]
    fn operations_without_time_have_no_rate() {
        let profiler = Profiler::new(true);
        profiler.operation("view", 10, 0, 1);
        assert_eq!(profiler.operations()[0].gigabytes_per_second(), None);
        profiler.latency(LatencyKind::Deallocate, 7);
        assert_eq!(profiler.latencies(LatencyKind::Deallocate).unwrap().max, 7);
        assert_eq!(profiler.latencies(LatencyKind::Trim).unwrap().count, 0);
        assert_eq!(Profiler::new(false).latencies(LatencyKind::Deallocate), None);
    }

    #[test]
    fn weighted_runs_count_as_several() {
        let profiler = Profiler::new(true);
        profiler.operation("copy", 10, 5, 32);
        let figures = profiler.operations()[0];
        assert_eq!((figures.calls, figures.bytes), (32, 320));
        assert_eq!(figures.time, Duration::from_nanos(160));
        assert_eq!((figures.latency.count, figures.latency.max), (1, 5));
    }

    #[test]
    fn rates_are_events_over_time() {
        let events =
            vec![event(0, 0, 999), event(1, 500_000_000, 100), event(2, 2_000_000_000, 300)];
        let timeline = Timeline { events, ..Timeline::default() };
        let rates = Rates::of(&timeline).unwrap();
        assert_eq!((rates.allocations_per_second, rates.bytes_per_second), (1.0, 200.0));
        assert_eq!(Rates::of(&Timeline::default()), None);
    }
}

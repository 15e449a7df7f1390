//! Histograms of latencies whose buckets grow with the value, so that every quantile is accurate to 1/32.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets for each doubling, as a power of two.
const FINE_BITS: u32 = 5;
const FINE: usize = 1 << FINE_BITS;
/// Values from here on, 2^42 ns (73 minutes), share the last bucket.
const TOP_BITS: u32 = 42;
const BUCKETS: usize = ((TOP_BITS - FINE_BITS) as usize + 1) * FINE;

/// Counts of values by size, added to by any number of threads at once.
///
/// Values below 32 have a bucket each; above, each doubling is cut into 32 equal parts.
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts one value, in nanoseconds or any other unit.
    pub fn record(&self, value: u64) {
        self.buckets[bucket_of(value)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
        self.max.fetch_max(value, Ordering::Relaxed);
    }

    /// Returns the figures so far. Values that other threads record meanwhile may be missing.
    pub fn summary(&self) -> LatencySummary {
        let counts: Vec<u64> = self.buckets.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        let count: u64 = counts.iter().sum();
        let max = self.max.load(Ordering::Relaxed);
        let quantile = |part: f64| {
            let rank = ((count as f64 * part).ceil() as u64).max(1);
            let mut below = 0;
            let at = counts.iter().position(|n| {
                below += n;
                below >= rank
            });
            at.map_or(0, |at| last_of(at).min(max))
        };
        LatencySummary {
            count,
            sum: self.sum.load(Ordering::Relaxed),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            max,
        }
    }

    /// Returns the non-empty buckets: their largest value and their count.
    pub fn filled(&self) -> Vec<(u64, u64)> {
        let counts = self.buckets.iter().map(|n| n.load(Ordering::Relaxed));
        counts.enumerate().filter(|&(_, n)| n > 0).map(|(at, n)| (last_of(at), n)).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<AtomicU64>()
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.summary(), f)
    }
}

/// The figures of a [`Histogram`]. A quantile is the upper end of its bucket: at most 1/32 above the exact one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatencySummary {
    /// The number of values.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
    /// The median.
    pub p50: u64,
    /// The 90th percentile.
    pub p90: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The largest value, exact.
    pub max: u64,
}

impl fmt::Display for LatencySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, p50, p90, p99, max, .. } = self;
        write!(f, "{count} times: p50 {p50} ns, p90 {p90} ns, p99 {p99} ns, max {max} ns")
    }
}

fn bucket_of(value: u64) -> usize {
    let value = value.min((1 << TOP_BITS) - 1);
    match value.checked_ilog2() {
        Some(log) if log >= FINE_BITS => {
            let shift = log - FINE_BITS;
            (shift as usize + 1) * FINE + ((value >> shift) as usize - FINE)
        }
        _ => value as usize,
    }
}

/// The largest value of a bucket.
fn last_of(bucket: usize) -> u64 {
    if bucket < FINE {
        return bucket as u64;
    }
    let shift = bucket / FINE - 1;
    (((bucket % FINE + FINE + 1) as u64) << shift) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_are_contiguous() {
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(last_of(bucket)), bucket);
            assert_eq!(bucket_of(last_of(bucket) + 1), (bucket + 1).min(BUCKETS - 1));
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_list(
            values in prop::collection::vec((0u32..40, any::<u64>()), 1..400)
        ) {
            // Values of every order of magnitude, not only large ones.
            let mut values: Vec<u64> = values.iter().map(|&(bits, v)| v & ((1 << bits) - 1)).collect();
            let histogram = Histogram::default();
            values.iter().for_each(|&value| histogram.record(value));
            values.sort_unstable();
            let summary = histogram.summary();
            prop_assert_eq!(summary.count, values.len() as u64);
            prop_assert_eq!(summary.sum, values.iter().sum::<u64>());
            prop_assert_eq!(summary.max, values[values.len() - 1]);
            for (part, got) in [(0.5, summary.p50), (0.9, summary.p90), (0.99, summary.p99)] {
                let exact = values[(values.len() as f64 * part).ceil() as usize - 1];
                prop_assert!(got >= exact && got - exact <= exact / 32, "{part}: {got} for {exact}");
            }
        }
    }

    #[test]
    fn an_empty_histogram_has_no_figures() {
        assert_eq!(Histogram::default().summary(), LatencySummary::default());
        assert!(Histogram::default().filled().is_empty());
    }

    #[test]
    fn concurrent_counts_are_exact() {
        let histogram = Histogram::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|value| histogram.record(value)));
            }
        });
        assert_eq!(histogram.summary().count, 40_000);
        assert_eq!(histogram.filled().iter().map(|&(_, n)| n).sum::<u64>(), 40_000);
    }
}

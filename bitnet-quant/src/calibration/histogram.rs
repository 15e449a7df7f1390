//! A histogram of magnitudes whose range grows with the largest.

/// The number of bins.
pub(super) const BINS: usize = 2048;
/// The binary logarithm of the number of bins.
const BINS_LOG2: i32 = 11;

/// Counts of magnitudes in equal bins from 0 to a power of two above all of them.
///
/// For a larger magnitude, the range doubles and adjacent bins merge as often as needed. The counts do not depend on
/// the order of the magnitudes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Histogram {
    /// The range is 2^`exponent`.
    exponent: i32,
    counts: Vec<u64>,
}

impl Histogram {
    pub(super) fn new() -> Self {
        // The smallest magnitude above 0 is 2^-149.
        Self { exponent: -148, counts: vec![0; BINS] }
    }

    /// Counts finite numbers, whose largest magnitude is `largest`.
    pub(super) fn add(&mut self, values: &[f32], largest: f32) {
        self.reach(largest);
        // A product with a power of two is exact in f64.
        let bins_per_unit = 2f64.powi(BINS_LOG2 - self.exponent);
        for value in values.iter().filter(|value| value.is_finite()) {
            self.counts[(f64::from(value.abs()) * bins_per_unit) as usize % BINS] += 1;
        }
    }

    /// Extends the range to include `largest`, a finite magnitude.
    fn reach(&mut self, largest: f32) {
        while f64::from(largest) >= self.range() {
            for bin in 0..BINS / 2 {
                self.counts[bin] = self.counts[2 * bin] + self.counts[2 * bin + 1];
            }
            self.counts[BINS / 2..].fill(0);
            self.exponent += 1;
        }
    }

    fn range(&self) -> f64 {
        2f64.powi(self.exponent)
    }

    /// Returns the width of a bin.
    pub(super) fn width(&self) -> f64 {
        self.range() / BINS as f64
    }

    pub(super) fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Returns the magnitude with `share` of all magnitudes below it, to the width of a bin; 0 if empty.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let total: u64 = self.counts.iter().sum();
        let wanted = share * total as f64;
        let mut before = 0u64;
        for (bin, &count) in self.counts.iter().enumerate() {
            if count > 0 && (before + count) as f64 >= wanted {
                let part = ((wanted - before as f64) / count as f64).clamp(0.0, 1.0);
                return (bin as f64 + part) * self.width();
            }
            before += count;
        }
        0.0
    }

    /// Returns the number of magnitudes in bins that begin at or above `magnitude`.
    pub(super) fn at_least(&self, magnitude: f64) -> u64 {
        let first = (magnitude / self.width()).ceil();
        if first >= BINS as f64 {
            return 0;
        }
        self.counts[first.max(0.0) as usize..].iter().sum()
    }

    /// Returns the bins up to the last non-empty one.
    pub(super) fn used(&self) -> usize {
        self.counts.iter().rposition(|&count| count > 0).map_or(0, |last| last + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnet_core::rng::SplitMix64;

    fn of(parts: &[&[f32]]) -> Histogram {
        let mut histogram = Histogram::new();
        for part in parts {
            histogram.add(part, part.iter().fold(0f32, |m, x| m.max(x.abs())));
        }
        histogram
    }

    #[test]
    fn counts_do_not_depend_on_the_order() {
        let mut random = SplitMix64::new(1);
        let values: Vec<f32> =
            (0..5000).map(|i| random.normal_pair()[0] as f32 * 2f32.powi(i % 30 - 25)).collect();
        let whole = of(&[&values]);
        assert_eq!(whole.counts().iter().sum::<u64>(), 5000);
        let mut turned = values.clone();
        turned.reverse();
        assert_eq!(of(&[&turned[..10], &turned[10..4000], &turned[4000..]]), whole);
        let extremes = of(&[&[f32::from_bits(1), 0.0], &[f32::MAX]]);
        assert_eq!(extremes.counts().iter().sum::<u64>(), 3);
        assert_eq!((extremes.counts()[0], extremes.counts()[BINS - 1]), (2, 1));
    }

    #[test]
    fn quantiles_are_right_to_a_bin() {
        let values: Vec<f32> = (0..10_000u16).map(|i| f32::from(i) / 10_000.0).collect();
        let histogram = of(&[&values]);
        for share in [0.001, 0.25, 0.5, 0.999, 1.0] {
            assert!((histogram.quantile(share) - share).abs() <= histogram.width(), "{share}");
        }
        assert_eq!(Histogram::new().quantile(0.5), 0.0);
        assert!(histogram.at_least(0.9).abs_diff(1000) <= 5);
        assert_eq!(histogram.at_least(2.0), 0);
    }
}

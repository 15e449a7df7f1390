//! Statistics of the activations of one layer.

use super::histogram::Histogram;

/// Statistics of a layer's activations.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    pub(super) histogram: Histogram,
    pub(super) low: f32,
    pub(super) high: f32,
    /// Moving averages of the smallest and the largest number of each call.
    pub(super) moving: Option<(f64, f64)>,
    count: u64,
    pub(super) zeros: u64,
    not_finite: u64,
    sum: f64,
    squares: f64,
}

impl Statistics {
    pub(super) fn new() -> Self {
        Self {
            histogram: Histogram::new(),
            low: f32::INFINITY,
            high: f32::NEG_INFINITY,
            moving: None,
            count: 0,
            zeros: 0,
            not_finite: 0,
            sum: 0.0,
            squares: 0.0,
        }
    }

    /// Creates the statistics of these numbers.
    pub(crate) fn of(values: &[f32]) -> Self {
        let mut statistics = Self::new();
        statistics.observe(values, 0.0);
        statistics
    }

    pub(super) fn observe(&mut self, values: &[f32], momentum: f64) {
        let (mut low, mut high, mut count) = (f32::INFINITY, f32::NEG_INFINITY, 0u64);
        for &value in values.iter().filter(|value| value.is_finite()) {
            (low, high, count) = (low.min(value), high.max(value), count + 1);
            self.zeros += u64::from(value == 0.0);
            self.sum += f64::from(value);
            self.squares += f64::from(value) * f64::from(value);
        }
        self.not_finite += values.len() as u64 - count;
        if count == 0 {
            return;
        }
        self.histogram.add(values, high.abs().max(low.abs()));
        self.count += count;
        (self.low, self.high) = (self.low.min(low), self.high.max(high));
        let (low, high) = (f64::from(low), f64::from(high));
        let mixed = |old: f64, new: f64| momentum * old + (1.0 - momentum) * new;
        self.moving = Some(match self.moving {
            Some((l, h)) => (mixed(l, low), mixed(h, high)),
            None => (low, high),
        });
    }

    /// Returns the number of finite numbers.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the number of NaN and infinite numbers, which no other statistic includes.
    pub fn not_finite(&self) -> u64 {
        self.not_finite
    }

    /// Returns the smallest and the largest number; `None` if there are no finite numbers.
    pub fn extremes(&self) -> Option<(f32, f32)> {
        (self.count > 0).then_some((self.low, self.high))
    }

    /// Returns the mean; 0 if empty.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// Returns the standard deviation; 0 if empty.
    pub fn deviation(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let mean = self.mean();
        (self.squares / self.count as f64 - mean * mean).max(0.0).sqrt()
    }

    /// Returns the share of zeros; 0 if empty.
    pub fn sparsity(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.zeros as f64 / self.count as f64 }
    }

    /// Returns the magnitude with `share` of the magnitudes below it, to about 1/2000 of the largest.
    pub fn magnitude_quantile(&self, share: f64) -> f64 {
        self.histogram.quantile(share)
    }

    /// Returns the outliers: numbers whose magnitude is at least `times` the root mean square, to the resolution of
    /// [`Statistics::magnitude_quantile`].
    pub fn outliers(&self, times: f64) -> Outliers {
        let power = if self.count == 0 { 0.0 } else { self.squares / self.count as f64 };
        let threshold = times * power.sqrt();
        let count = if threshold > 0.0 { self.histogram.at_least(threshold) } else { 0 };
        let usual = self.histogram.quantile(0.99);
        let largest = self.extremes().map_or(0.0, |(low, high)| f64::from(high.max(-low)));
        Outliers {
            threshold,
            count,
            share: if self.count == 0 { 0.0 } else { count as f64 / self.count as f64 },
            largest_to_usual: if usual > 0.0 { largest / usual } else { 1.0 },
        }
    }
}

/// Outliers: numbers far larger than the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outliers {
    /// The magnitude at which outliers begin.
    pub threshold: f64,
    /// The number of outliers.
    pub count: u64,
    /// Their share of all numbers.
    pub share: f64,
    /// The largest magnitude divided by the 99th percentile.
    pub largest_to_usual: f64,
}

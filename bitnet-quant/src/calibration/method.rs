//! Methods that select the quantised range; numbers outside it are clamped.

use super::histogram::Histogram;
use super::statistics::Statistics;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Number of bins between two candidate thresholds of the divergence.
const STEP: usize = 8;

/// The method that selects the range of activations.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum CalibrationMethod {
    /// From the smallest to the largest number: nothing is clamped.
    #[default]
    MinMax,
    /// Moving averages of the smallest and largest number of each call.
    MovingAverage,
    /// A percentile: this share of the magnitudes, above 0 and at most 1, is not clamped.
    Percentile(f64),
    /// Minimises the mean squared error of rounding and clamping, with a symmetric range.
    Mse,
    /// Minimises the Kullback-Leibler divergence between the original and the quantised distribution. It weighs
    /// frequency, not size: where few large numbers carry the signal, as after ReLU², it clamps most of them, and
    /// [`CalibrationMethod::Mse`] is the better choice.
    KlDivergence,
}

impl CalibrationMethod {
    /// Returns the method if its parameter is valid.
    pub(super) fn checked(self) -> Result<Self> {
        match self {
            Self::Percentile(share) if !(share > 0.0 && share <= 1.0) => Err(Error::BadParameter {
                what: "calibration",
                parameter: "percentile",
                value: share,
                expected: "a share above 0 and at most 1",
            }),
            _ => Ok(self),
        }
    }

    /// Returns the range of a layer quantised with `levels` steps on each side of 0.
    pub(crate) fn range(
        self,
        layer: &str,
        statistics: &Statistics,
        levels: f64,
    ) -> Result<(f32, f32)> {
        let Some((low, high)) = statistics.extremes() else {
            return Err(Error::NotCalibrated { layer: layer.to_owned() });
        };
        let histogram = &statistics.histogram;
        let clip = match self {
            Self::MinMax => return Ok((low, high)),
            Self::MovingAverage => {
                let (low, high) = statistics.moving.unwrap_or((f64::from(low), f64::from(high)));
                return Ok((low as f32, high as f32));
            }
            Self::Percentile(share) => histogram.quantile(share),
            Self::Mse => least_squares(histogram, levels),
            Self::KlDivergence => least_divergence(histogram, statistics.zeros, levels),
        };
        // The bin of the largest magnitude ends above it.
        let clip = (clip as f32).min(high.max(-low));
        Ok((low.max(-clip), high.min(clip)))
    }
}

/// Returns the threshold with the least squared error, among the ends of bins.
fn least_squares(histogram: &Histogram, levels: f64) -> f64 {
    let (width, used) = (histogram.width(), histogram.used());
    let error_at = |end: usize| {
        let clip = end as f64;
        let step = clip / levels;
        let error = |(bin, &count): (usize, &u64)| {
            let x = bin as f64 + 0.5;
            let restored = ((x / step).round() * step).min(clip);
            count as f64 * (x - restored) * (x - restored)
        };
        histogram.counts()[..used].iter().enumerate().map(error).sum::<f64>()
    };
    let best = (1..=used).map(|end| (error_at(end), end)).min_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or(0.0, |(_, end)| end as f64 * width)
}

/// Returns the threshold with the least divergence, among the ends of every few bins. The `zeros` numbers that are
/// exactly 0 are excluded: they stay 0 for any threshold, and would dominate the outputs of ReLU.
fn least_divergence(histogram: &Histogram, zeros: u64, levels: f64) -> f64 {
    let used = histogram.used();
    let levels = levels as usize + 1;
    if used <= levels {
        return used as f64 * histogram.width();
    }
    let mut counts = histogram.counts()[..used].to_vec();
    counts[0] = counts[0].saturating_sub(zeros);
    let ends = (levels..used).step_by(STEP).chain([used]);
    let best =
        ends.map(|end| (divergence(&counts, end, levels), end)).min_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or(0.0, |(_, end)| end as f64 * histogram.width())
}

/// Returns the divergence of the first `end` bins from their quantisation to `levels` equal parts; later bins are
/// clamped into the last.
fn divergence(counts: &[u64], end: usize, levels: usize) -> f64 {
    /// The assumed probability of a non-empty bin that quantises to zero.
    const UNLIKELY: f64 = 1e-9;
    let total = counts.iter().sum::<u64>() as f64;
    let clamped = counts[end..].iter().sum::<u64>() as f64;
    let unclamped = total - clamped;
    let mut sum = 0.0;
    for level in 0..levels {
        let (from, to) = (level * end / levels, (level + 1) * end / levels);
        let part = &counts[from..to];
        let filled = part.iter().filter(|&&count| count > 0).count();
        let mean = part.iter().sum::<u64>() as f64 / filled.max(1) as f64;
        for (bin, &count) in (from..to).zip(part) {
            let seen = count as f64 + if bin + 1 == end { clamped } else { 0.0 };
            if seen > 0.0 {
                let quantised = if count > 0 { mean / unclamped } else { 0.0 };
                sum += seen / total * (seen / total / quantised.max(UNLIKELY)).ln();
            }
        }
    }
    sum
}

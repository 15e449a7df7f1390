//! Which range of numbers is quantised: what lies outside is clamped.

use super::Statistics;
use super::histogram::Histogram;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Bins between two thresholds that the divergence is computed for.
const STEP: usize = 8;

/// How the range is found that activations are quantised in.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum CalibrationMethod {
    /// From the lowest to the highest number seen: nothing is clamped.
    #[default]
    MinMax,
    /// Moving averages of each call's lowest and highest number.
    MovingAverage,
    /// This share of the magnitudes, above 0 and at most 1, is not clamped.
    Percentile(f64),
    /// The least mean squared error of rounding and clamping together, with as many steps on each side of 0.
    Mse,
    /// The least Kullback-Leibler divergence of what is quantised from what was seen. It cares how often numbers are, not how
    /// large: where few large numbers carry the signal, as in what ReLU² writes, it clamps most of it, and
    /// [`CalibrationMethod::Mse`] is the better choice.
    KlDivergence,
}

impl CalibrationMethod {
    /// The method, if its setting can be.
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

    /// The range of a layer that is quantised with `levels` steps on each side of 0.
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

/// The threshold of the least squared error, among the ends of bins.
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

/// The threshold of the least divergence, among the ends of every few bins. `zeros` of the numbers are exactly 0: they are left
/// out, since they stay 0 whatever the threshold is, and in ReLU's outputs they would drown everything else.
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

/// How far the first `end` bins diverge from what `levels` equal parts of them tell; what lies behind them is clamped into
/// the last.
fn divergence(counts: &[u64], end: usize, levels: usize) -> f64 {
    /// What is taken for the probability of a bin that is thought empty and is not.
    const UNLIKELY: f64 = 1e-9;
    let total = counts.iter().sum::<u64>() as f64;
    let clamped = counts[end..].iter().sum::<u64>() as f64;
    let kept = total - clamped;
    let mut sum = 0.0;
    for level in 0..levels {
        let (from, to) = (level * end / levels, (level + 1) * end / levels);
        let part = &counts[from..to];
        let filled = part.iter().filter(|&&count| count > 0).count();
        let mean = part.iter().sum::<u64>() as f64 / filled.max(1) as f64;
        for (bin, &count) in (from..to).zip(part) {
            let seen = count as f64 + if bin + 1 == end { clamped } else { 0.0 };
            if seen > 0.0 {
                let told = if count > 0 { mean / kept } else { 0.0 };
                sum += seen / total * (seen / total / told.max(UNLIKELY)).ln();
            }
        }
    }
    sum
}

//! The quantiser with the least squared error.

use super::Magnitudes;
use crate::loss::Threshold;
use crate::stored::Stored;
use crate::ternarize::Rule;

/// Selects the trits and the scale with the least sum of squared errors.
///
/// Optimal trits are ±1 for the `k` largest magnitudes, with their mean as the scale. They reduce the error by
/// `(sum of the k largest)² / k`; every `k` is tried. Sums are in f64.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeastSquares;

impl Rule for LeastSquares {
    type Tally = Magnitudes;
    type Cut = Threshold;

    const NAME: &'static str = "least squares";

    #[inline(always)]
    fn add<S: Stored>(&self, tally: &mut Magnitudes, weights: &[S::Raw]) -> bool {
        tally.add::<S>(weights)
    }

    fn cut(&self, tally: Magnitudes, _: usize) -> Threshold {
        let (mut sum, mut count) = (0f64, 0u64);
        let (mut saved, mut best) = (0f64, Threshold { above: 0.0, scale: 0.0 });
        let mut last = f32::INFINITY;
        let mut settle = |sum: f64, count: u64, above: f32| {
            let saving = sum * sum / count as f64;
            if count > 0 && saving > saved {
                saved = saving;
                best = Threshold { above, scale: (sum / count as f64) as f32 };
            }
        };
        tally.descending(|magnitude, times| {
            // Equal magnitudes stay together: splitting them is never better than the better of the two ends.
            if magnitude < last {
                settle(sum, count, magnitude);
            }
            last = magnitude;
            sum += f64::from(magnitude) * times as f64;
            count += times;
        });
        if last > 0.0 {
            settle(sum, count, 0.0);
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::dense::{DenseMatrix, DenseType};
    use crate::quantizer::{Quantizer, Settings};
    use bitnet_core::rng::SplitMix64;

    /// Returns the least sum of squared errors over all 3ⁿ choices of trits, each with its best scale.
    fn least(weights: &[f32]) -> f64 {
        let power: f64 = weights.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
        let mut saved = 0f64;
        for choice in 1..3usize.pow(weights.len() as u32) {
            let (mut code, mut dot, mut count) = (choice, 0f64, 0.0);
            for &w in weights {
                let trit = (code % 3) as f64 - 1.0;
                code /= 3;
                dot += trit * f64::from(w);
                count += trit.abs();
            }
            if count > 0.0 {
                saved = saved.max(dot * dot / count);
            }
        }
        power - saved
    }

    #[test]
    fn nothing_that_trits_can_do_is_better() {
        let mut random = SplitMix64::new(5);
        for case in 0..60 {
            let weights: Vec<f32> = (0..1 + case % 8)
                .map(|_| match case % 3 {
                    0 => random.normal_pair()[0] as f32,
                    1 => (random.below(5) as f32 - 2.0) * 0.25,
                    _ => (random.unit() as f32).powi(8),
                })
                .collect();
            let bytes = weights.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>();
            let matrix = DenseMatrix::new(DenseType::F32, 1, weights.len(), bytes).unwrap();
            let (_, loss) = LeastSquares.quantize_measured(&matrix, &Settings::default()).unwrap();
            let (ours, least) = (loss.mse * weights.len() as f64, least(&weights));
            let power: f64 = weights.iter().map(|&w| f64::from(w).powi(2)).sum();
            assert!((ours - least).abs() <= 1e-6 * power, "{weights:?}: {ours} {least}");
        }
    }
}

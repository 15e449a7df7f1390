//! Stochastic rounding to trits.

use super::Absmean;
use crate::stored::Stored;
use crate::ternarize::{Cut, Rule, Tally, pack_by};
use bitnet_core::rng::SplitMix64;

/// Stochastic rounding: a weight becomes `sign(W)` with the probability `min(1, |W| / s)`, else 0.
///
/// Weight `i` of the matrix, in row-major order, uses number `i` of the seed's [`SplitMix64`], so the trits depend on
/// the seed alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stochastic {
    /// The seed.
    pub seed: u64,
    /// The scale rule.
    pub scale: StochasticScale,
}

/// The scale of stochastic rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StochasticScale {
    /// The largest magnitude; unbiased for every weight.
    #[default]
    Absmax,
    /// The mean of the magnitudes; larger weights are clamped to it.
    Absmean,
}

/// The largest magnitude and the sum of magnitudes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extent {
    largest: f32,
    sum: f64,
}

/// A scale and the random numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chance {
    seed: u64,
    scale: f32,
}

impl Tally for Extent {
    fn join(&mut self, next: Self) {
        self.largest = self.largest.max(next.largest);
        self.sum += next.sum;
    }
}

impl Rule for Stochastic {
    type Tally = Extent;
    type Cut = Chance;

    const NAME: &'static str = "stochastic";

    #[inline(always)]
    fn add<S: Stored>(&self, tally: &mut Extent, weights: &[S::Raw]) -> bool {
        let largest = weights.iter().fold(0, |m, &raw| m.max(S::value(raw).abs().to_bits()));
        tally.largest = tally.largest.max(f32::from_bits(largest));
        Absmean.add::<S>(&mut tally.sum, weights)
    }

    fn cut(&self, tally: Extent, count: usize) -> Chance {
        let scale = match self.scale {
            StochasticScale::Absmax => tally.largest,
            StochasticScale::Absmean => (tally.sum / count as f64) as f32,
        };
        Chance { seed: self.seed, scale }
    }
}

impl Cut for Chance {
    fn scale(self) -> f32 {
        self.scale
    }

    #[inline(always)]
    fn pack<S: Stored>(self, at: u64, values: &[S::Raw], words: &mut [u32]) {
        let mut random = SplitMix64::new(self.seed);
        random.skip(at);
        let scale = f64::from(self.scale);
        pack_by(values, words, |raw| {
            let value = S::value(raw);
            let counts = random.unit() * scale < f64::from(value.abs());
            1 + u8::from(counts) - 2 * u8::from(counts & (value < 0.0))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::dense::{DenseMatrix, DenseType};
    use crate::quantizer::{Quantizer, Settings};
    use crate::weights::dequantize_row;
    use bitnet_core::ternary::ScaleGranularity;

    fn matrix(rows: usize, values: &[f32]) -> DenseMatrix<Vec<u8>> {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        DenseMatrix::new(DenseType::F32, rows, values.len() / rows, bytes).unwrap()
    }

    #[test]
    fn weights_are_right_on_average() {
        let values = [0.0f32, 0.1, -0.25, 0.5, -0.9, 1.0, -1.0, 1e-3];
        let weights = matrix(1, &values);
        let mut sums = [0f64; 8];
        let rounds = 20_000u32;
        for seed in 0..u64::from(rounds) {
            let rule = Stochastic { seed, scale: StochasticScale::Absmax };
            let trits = rule.quantize(&weights, &Settings::default()).unwrap();
            let mut row = [0f32; 8];
            dequantize_row(&trits, 0, &mut row);
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(x));
        }
        for (value, sum) in values.iter().zip(sums) {
            let (w, n) = (f64::from(*value), f64::from(rounds));
            // Four standard deviations of the mean of ±1 with the probability |w|.
            let bound = 4.0 * (w.abs() * (1.0 - w.abs()) / n).sqrt() + 1e-12;
            assert!((sum / n - w).abs() <= bound, "{value}: {}", sum / n);
        }
    }

    #[test]
    fn the_mean_as_scale_cuts_large_weights() {
        let rule = Stochastic { seed: 1, scale: StochasticScale::Absmean };
        let trits =
            rule.quantize(&matrix(1, &[3.0, -3.0, 0.0, 2.0]), &Settings::default()).unwrap();
        assert_eq!((trits.to_trits(), trits.scales()), (vec![1, -1, 0, 1], &[2.0f32][..]));
    }

    #[test]
    fn trits_follow_from_the_seed_alone() {
        let mut random = SplitMix64::new(9);
        let values: Vec<f32> = (0..300 * 192).map(|_| random.normal_pair()[0] as f32).collect();
        let weights = matrix(300, &values);
        for granularity in
            [ScaleGranularity::Tensor, ScaleGranularity::Row, ScaleGranularity::Group(64)]
        {
            let with = |seed, threads| {
                let settings = Settings { granularity, threads, ..Settings::default() };
                let rule = Stochastic { seed, scale: StochasticScale::Absmax };
                rule.quantize_measured(&weights, &settings).unwrap()
            };
            let (trits, loss) = with(4, 1);
            for threads in [0, 2, 3, 64] {
                assert_eq!(with(4, threads), (trits.clone(), loss), "{granularity:?} {threads}");
            }
            assert_ne!(with(5, 1).0, trits);
        }
    }
}

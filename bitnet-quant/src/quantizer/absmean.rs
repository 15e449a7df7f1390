//! Quantisers whose scale is the mean or the median of the magnitudes.

use super::Magnitudes;
use crate::loss::Threshold;
use crate::stored::Stored;
use crate::sums::{Blocks, Lanes};
use crate::ternarize::Rule;

/// The minimum mean for computing a scale.
const MIN_MEAN: f32 = 1e-5;

/// BitNet b1.58: the scale is the mean of the magnitudes.
///
/// `s = 1 / max(1e-5, mean|W|)`, `trit = clamp(round_half_even(W * s), -1, 1)`, weight `= trit * (1 / s)`: in f32, the
/// mean in f64. A weight of exactly half the scale becomes 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Absmean;

/// Like [`Absmean`], with the median of the magnitudes, which is robust to large weights. For an even number of
/// weights, the median is the smaller of the two in the middle, as in PyTorch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Absmedian;

impl Rule for Absmean {
    /// The sum of the magnitudes.
    type Tally = f64;
    type Cut = Threshold;

    const NAME: &'static str = "absmean";

    #[inline(always)]
    fn add<S: Stored>(&self, tally: &mut f64, weights: &[S::Raw]) -> bool {
        let mut lanes = Lanes::default();
        let mut blocks = Blocks::<S>::new(weights);
        while let Some(block) = blocks.next() {
            lanes = lanes.add(block, |x| f64::from(x.abs()));
        }
        *tally += lanes.total();
        // A sum of finite f32 numbers is finite in f64; a sum with NaN or infinity is not.
        tally.is_finite()
    }

    #[inline(always)]
    fn cut(&self, tally: f64, count: usize) -> Threshold {
        rounding((tally / count as f64) as f32)
    }
}

impl Rule for Absmedian {
    type Tally = Magnitudes;
    type Cut = Threshold;

    const NAME: &'static str = "absmedian";

    #[inline(always)]
    fn add<S: Stored>(&self, tally: &mut Magnitudes, weights: &[S::Raw]) -> bool {
        tally.add::<S>(weights)
    }

    fn cut(&self, tally: Magnitudes, count: usize) -> Threshold {
        rounding(tally.ranked(count.saturating_sub(1) / 2))
    }
}

/// Returns the cut that rounds weights in units of `unit`, half to even, and clamps to -1..1.
#[inline(always)]
pub(super) fn rounding(unit: f32) -> Threshold {
    let s = 1.0 / unit.max(MIN_MEAN);
    // The reciprocal of the largest f32 is a power of two whose reciprocal overflows.
    Threshold { above: rounding_threshold(s), scale: (1.0 / s).min(f32::MAX) }
}

/// Returns the largest `t` for which `t * s` rounds to at most 1/2: rounding half to even and clamping to -1..1
/// maps exactly the weights of larger magnitude to ±1. `s` is positive.
#[inline(always)]
fn rounding_threshold(s: f32) -> f32 {
    let mut t = 0.5 / s;
    while t * s > 0.5 {
        t = t.next_down();
    }
    while t.next_up() * s <= 0.5 {
        t = t.next_up();
    }
    t
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnet_core::rng::SplitMix64;

    /// Scales over the whole range of means of magnitudes.
    fn multipliers() -> impl Iterator<Item = f32> {
        let mut random = SplitMix64::new(16);
        let wide = (0..400).map(move |_| {
            let exponent = random.below(145) as i32 - 127;
            (1.0 + random.unit() as f32) * 2f32.powi(exponent.min(16))
        });
        [1.0, 0.5, 2.0, 1.0 / 3.0, 3.0, 1.0 / MIN_MEAN, 1.0 / f32::MAX].into_iter().chain(wide)
    }

    #[test]
    fn threshold_matches_round_half_to_even() {
        for s in multipliers() {
            let t = rounding_threshold(s);
            let rounded = |x: f32| (x * s).round_ties_even().clamp(-1.0, 1.0);
            let from = t.to_bits().saturating_sub(2000);
            for x in (from..=t.to_bits() + 2000).map(f32::from_bits) {
                let trit = if x > t { 1.0 } else { 0.0 };
                assert_eq!((rounded(x), rounded(-x)), (trit, -trit), "{x} by {s}");
            }
        }
        let ties =
            [0.5, -0.5, 1.5, -1.5, 2.5].map(|x: f32| u8::from(x.abs() > rounding_threshold(1.0)));
        assert_eq!(ties, [0, 0, 1, 1, 1]);
    }
}

//! Scales that are a mean or a median of magnitudes, and weights that are rounded in units of them.

use super::{Magnitudes, quantizer};
use crate::stored::Stored;
use crate::sums::{Blocks, Lanes};
use crate::ternarize::{Rule, Threshold};

/// The smallest mean that a scale is made from.
const MIN_MEAN: f32 = 1e-5;

/// BitNet b1.58: the scale is the mean of the magnitudes.
///
/// `s = 1 / max(1e-5, mean|W|)`, `trit = clamp(round_half_even(W * s), -1, 1)`, weight `= trit * (1 / s)`: in f32, the
/// mean in f64. A weight of exactly half the scale becomes 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Absmean;

/// [`Absmean`] with the median of the magnitudes in place of their mean: large weights have no more say than others. Of an
/// even number of weights, the smaller one of the two in the middle is the median, as in PyTorch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Absmedian;

quantizer!(Absmean, Absmedian);

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
        // A sum of finite numbers of f32 is finite in f64, and one with NaN or infinity is not.
        tally.is_finite()
    }

    fn join(&self, tally: &mut f64, next: f64) {
        *tally += next;
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

    fn join(&self, tally: &mut Magnitudes, next: Magnitudes) {
        tally.join(next);
    }

    fn collect(&self, all: &mut Vec<Magnitudes>, next: Magnitudes) {
        Magnitudes::collect(all, next);
    }

    fn cut(&self, tally: Magnitudes, count: usize) -> Threshold {
        rounding(tally.ranked(count.saturating_sub(1) / 2))
    }
}

/// The cut that rounds weights in units of `unit`, half to even, and clamps them to -1..1.
#[inline(always)]
pub(super) fn rounding(unit: f32) -> Threshold {
    let s = 1.0 / unit.max(MIN_MEAN);
    // The reciprocal of the largest number is a power of two whose own reciprocal is out of range.
    Threshold { above: rounding_threshold(s), scale: (1.0 / s).min(f32::MAX) }
}

/// The largest number `t` for which `t * s` rounds to no more than 1/2: rounding half to even and clamping to -1..1
/// sends exactly the weights of a larger magnitude to ±1. `s` is more than 0.
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

    /// `s` of the whole range that means of magnitudes give.
    fn multipliers() -> impl Iterator<Item = f32> {
        let mut random = SplitMix64::new(16);
        let wide = (0..400).map(move |_| {
            let exponent = random.below(145) as i32 - 127;
            (1.0 + random.unit() as f32) * 2f32.powi(exponent.min(16))
        });
        [1.0, 0.5, 2.0, 1.0 / 3.0, 3.0, 1.0 / MIN_MEAN, 1.0 / f32::MAX].into_iter().chain(wide)
    }

    #[test]
    fn the_threshold_is_where_rounding_half_to_even_changes() {
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

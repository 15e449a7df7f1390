//! Unbiased low-bit quantisation of gradients.

use crate::{Error, Result};
use bitnet_core::rng::SplitMix64;

/// The quantiser's name in errors.
const NAME: &str = "gradients";

/// Quantises gradients stochastically to `levels` steps on each side of 0; the expectation is preserved.
///
/// With `s = max|g| / levels`, `|g| / s` rounds to one of the two adjacent integers so that the mean of `q * s` is `g`.
/// One level gives trits (TernGrad), 7 fit int4, 127 int8 (QSGD). The random numbers follow from the seed and the index
/// of the gradient in its tensor, so that parts can be quantised separately.
///
/// ```
/// use bitnet_quant::gradients::GradientQuantizer;
///
/// let mut q = [0i8; 3];
/// let scale = GradientQuantizer::new(127, 1)?.quantize(&[0.5, -1.0, 0.0], 0, &mut q)?;
/// assert_eq!((q[1], q[2]), (-127, 0));
/// assert!((f32::from(q[0]) * scale - 0.5).abs() < scale);
/// # Ok::<(), bitnet_quant::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GradientQuantizer {
    levels: u8,
    seed: u64,
}

impl GradientQuantizer {
    /// Creates a quantiser with 1 to 127 levels on each side of 0. Use a new seed for each training step.
    ///
    /// # Errors
    /// [`Error::BadParameter`] for another number of levels.
    pub fn new(levels: u8, seed: u64) -> Result<Self> {
        if (1..=127).contains(&levels) {
            return Ok(Self { levels, seed });
        }
        Err(Error::BadParameter {
            what: NAME,
            parameter: "levels",
            value: f64::from(levels),
            expected: "1 to 127",
        })
    }

    /// Quantises gradients, the first of which has the index `at` in its tensor. Returns the step size.
    ///
    /// # Errors
    /// [`Error::BadNumber`] for NaN or infinity (the column is the index in `gradients`),
    /// [`Error::Core`] if `q` has another length.
    pub fn quantize(&self, gradients: &[f32], at: u64, q: &mut [i8]) -> Result<f32> {
        if q.len() != gradients.len() {
            return Err(Error::Core(bitnet_core::Error::ShapeMismatch {
                op: NAME,
                operand: "q",
                got: vec![q.len()],
                expected: format!("[{}]", gradients.len()),
            }));
        }
        if let Some(col) = gradients.iter().position(|g| !g.is_finite()) {
            return Err(Error::BadNumber { format: NAME, row: 0, col, value: gradients[col] });
        }
        let largest = gradients.iter().fold(0f32, |m, g| m.max(g.abs()));
        let scale = largest / f32::from(self.levels);
        if scale == 0.0 {
            q.fill(0);
            return Ok(0.0);
        }
        let mut random = SplitMix64::new(self.seed);
        random.skip(at);
        for (q, &g) in q.iter_mut().zip(gradients) {
            let steps = f64::from(g.abs()) / f64::from(scale);
            let up = random.unit() < steps - steps.floor();
            // The f32 quotient may be off by one unit in the last place; the clamp limits the largest gradient.
            let steps = (steps.floor() + f64::from(up)).min(f64::from(self.levels));
            *q = if g < 0.0 { -steps } else { steps } as i8;
        }
        Ok(scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_right_on_average() {
        let gradients = [0.0f32, 0.01, -0.02, 0.3, -0.5, 0.77, 1.0, -1.0];
        for levels in [1u8, 2, 7, 127] {
            let (mut sums, rounds) = ([0f64; 8], 20_000u32);
            for seed in 0..u64::from(rounds) {
                let mut q = [0i8; 8];
                let quantizer = GradientQuantizer::new(levels, seed).unwrap();
                let scale = quantizer.quantize(&gradients, 0, &mut q).unwrap();
                for (sum, q) in sums.iter_mut().zip(q) {
                    *sum += f64::from(q) * f64::from(scale);
                }
            }
            for (sum, g) in sums.iter().zip(gradients) {
                // Four standard deviations; that of a step is at most half of it.
                let bound = 4.0 * 0.5 / f64::from(levels) / f64::from(rounds).sqrt();
                let mean = sum / f64::from(rounds);
                assert!((mean - f64::from(g)).abs() <= bound, "{levels} levels: {g} {mean}");
            }
        }
    }

    #[test]
    fn parts_are_quantised_as_the_whole() {
        let gradients: Vec<f32> = (0..100i8).map(|i| f32::from(i - 50)).collect();
        let quantizer = GradientQuantizer::new(3, 8).unwrap();
        let (mut whole, mut again) = ([0i8; 100], [0i8; 100]);
        let scale = quantizer.quantize(&gradients, 5, &mut whole).unwrap();
        assert_eq!(quantizer.quantize(&gradients, 5, &mut again).unwrap(), scale);
        assert_eq!(whole, again);
        // Both parts contain a gradient of the largest magnitude.
        let mut turned = gradients.clone();
        turned[99] = 50.0;
        quantizer.quantize(&turned, 5, &mut whole).unwrap();
        let (low, high) = again.split_at_mut(40);
        quantizer.quantize(&turned[..40], 5, low).unwrap();
        quantizer.quantize(&turned[40..], 45, high).unwrap();
        assert_eq!(whole, again);
    }

    #[test]
    fn what_can_not_be_quantised_is_refused() {
        assert!(GradientQuantizer::new(0, 0).is_err() && GradientQuantizer::new(128, 0).is_err());
        let quantizer = GradientQuantizer::new(1, 0).unwrap();
        for bad in [f32::NAN, f32::INFINITY] {
            let error = quantizer.quantize(&[0.0, bad], 0, &mut [0; 2]).unwrap_err();
            assert!(matches!(error, Error::BadNumber { col: 1, .. }), "{error}");
        }
        assert!(quantizer.quantize(&[0.0], 0, &mut [0; 2]).is_err());
        let mut q = [1i8; 2];
        assert_eq!(quantizer.quantize(&[0.0, -0.0], 0, &mut q), Ok(0.0));
        assert_eq!(q, [0; 2]);
        let tiny = f32::from_bits(1);
        assert_eq!(quantizer.quantize(&[tiny, -tiny], 0, &mut q), Ok(tiny));
        assert_eq!(q, [1, -1]);
    }
}

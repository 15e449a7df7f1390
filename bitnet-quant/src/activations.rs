//! Quantisation of activations to int8 or int4 with one scale per token.

use crate::{Error, Result};
use bitnet_core::simd::{self, Kernel, largest_magnitude};

/// `s = 127 / max(1e-5, max|x|)`, `q = clamp(round_half_even(x * s), -128, 127)`; returns `s` (BitNet b1.58).
///
/// The function of the scalar reference, so that quantisers and back ends agree.
///
/// # Panics
/// If `x` and `q` differ in length.
pub use bitnet_core::reference::quantize_activations as absmax_int8;

/// The minimum magnitude for computing a scale.
const MIN_LARGEST: f32 = 1e-5;
/// Adding 1.5·2²³ to a small number rounds it half to even and leaves the integer in the low bits.
const ROUND: f32 = 12_582_912.0;

/// The number of bits of a quantised activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActivationBits {
    /// -128 to 127; the range maps to 127.
    Int8,
    /// -8 to 7; the range maps to 7.
    Int4,
}

impl ActivationBits {
    /// Returns the largest quantised value.
    pub fn largest(self) -> f32 {
        match self {
            Self::Int8 => 127.0,
            Self::Int4 => 7.0,
        }
    }
}

/// The magnitude that maps to the largest quantised value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ActivationRange {
    /// The largest magnitude of the token.
    Absmax,
    /// A percentile of the token's magnitudes, as a share above 0 and at most 1; larger magnitudes
    /// are clamped.
    Percentile(f64),
    /// A static magnitude for every token, from calibration; larger magnitudes are clamped.
    Static(f32),
}

/// Quantises activations with one scale per token.
///
/// ```
/// use bitnet_quant::activations::{ActivationBits, ActivationQuantizer, ActivationRange};
///
/// let quantizer = ActivationQuantizer::new(ActivationBits::Int8, ActivationRange::Absmax)?;
/// let tokens = [0.5, -1.27, 0.0, 0.254, 0.0, 0.0]; // [2 tokens, 3]
/// let mut q = [0i8; 6];
/// let scales = quantizer.quantize(&tokens, 3, &mut q)?;
/// assert_eq!(q, [50, -127, 0, 127, 0, 0]);
/// let mut restored = [0f32; 6];
/// quantizer.dequantize(&q, &scales, &mut restored)?;
/// assert!(tokens.iter().zip(restored).all(|(x, y)| (x - y).abs() < 0.01));
/// # Ok::<(), bitnet_quant::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActivationQuantizer {
    bits: ActivationBits,
    range: ActivationRange,
}

impl ActivationQuantizer {
    /// Creates a quantiser.
    ///
    /// # Errors
    /// [`Error::BadParameter`] for a share outside 0 to 1 or a static magnitude that is not finite and above 0.
    pub fn new(bits: ActivationBits, range: ActivationRange) -> Result<Self> {
        let bad = |parameter, value, expected| {
            Err(Error::BadParameter { what: "activations", parameter, value, expected })
        };
        match range {
            ActivationRange::Percentile(share) if !(share > 0.0 && share <= 1.0) => {
                bad("percentile", share, "a share above 0 and at most 1")
            }
            ActivationRange::Static(largest) if !(largest.is_finite() && largest > 0.0) => {
                bad("static magnitude", f64::from(largest), "a finite number above 0")
            }
            _ => Ok(Self { bits, range }),
        }
    }

    /// Quantises `x` (`[tokens, width]`) to `q` of the same shape and returns the scale `s` of each token; a quantised
    /// value represents `q / s`.
    ///
    /// `s = largest / max(1e-5, magnitude)`, `q = clamp(round_half_even(x * s))`. A token with NaN or infinity gets the
    /// scale NaN and zeros, so that dequantising it gives NaN.
    ///
    /// # Errors
    /// [`Error::Core`] if `x` is not whole tokens or `q` differs from `x` in length.
    pub fn quantize(&self, x: &[f32], width: usize, q: &mut [i8]) -> Result<Vec<f32>> {
        if width == 0 || !x.len().is_multiple_of(width) {
            return Err(shape("x", x.len(), format!("whole tokens of {width}")));
        }
        if q.len() != x.len() {
            return Err(shape("q", q.len(), format!("[{}]", x.len())));
        }
        let level = simd::active()?;
        let mut room = Vec::new();
        let token = |(x, q): (&[f32], &mut [i8])| {
            let own = simd::run(level, Largest(x));
            let largest = match self.range {
                _ if !own.is_finite() => f32::NAN,
                ActivationRange::Absmax => own,
                ActivationRange::Percentile(share) => percentile(x, share, &mut room),
                ActivationRange::Static(largest) => largest,
            };
            // Uses the reciprocal, like PyTorch's division of a number by a tensor.
            let s = if largest.is_nan() {
                f32::NAN
            } else {
                (1.0 / largest.max(MIN_LARGEST)) * self.bits.largest()
            };
            simd::run(level, Rounding { x, q, s, largest: self.bits.largest() });
            s
        };
        Ok(x.chunks_exact(width).zip(q.chunks_exact_mut(width)).map(token).collect())
    }

    /// Computes `q / s` for each token.
    ///
    /// # Errors
    /// [`Error::Core`] if `out` differs from `q` in length, or `q` is not the same number of values per scale.
    pub fn dequantize(&self, q: &[i8], scales: &[f32], out: &mut [f32]) -> Result<()> {
        if out.len() != q.len() {
            return Err(shape("out", out.len(), format!("[{}]", q.len())));
        }
        if scales.is_empty() || !q.len().is_multiple_of(scales.len()) {
            return Err(shape("scales", scales.len(), format!("a divisor of {}", q.len())));
        }
        let width = (q.len() / scales.len()).max(1);
        for ((q, out), &s) in q.chunks(width).zip(out.chunks_mut(width)).zip(scales) {
            for (out, &q) in out.iter_mut().zip(q) {
                *out = f32::from(q) / s;
            }
        }
        Ok(())
    }
}

fn shape(operand: &'static str, got: usize, expected: String) -> Error {
    Error::Core(bitnet_core::Error::ShapeMismatch {
        op: "quantise activations",
        operand,
        got: vec![got],
        expected,
    })
}

/// Returns the magnitude with `share` of the magnitudes at or below it; all numbers are finite.
fn percentile(x: &[f32], share: f64, room: &mut Vec<u32>) -> f32 {
    room.clear();
    room.extend(x.iter().map(|x| x.abs().to_bits()));
    if room.is_empty() {
        return 0.0;
    }
    let rank = ((share * room.len() as f64).ceil() as usize).clamp(1, room.len()) - 1;
    f32::from_bits(*room.select_nth_unstable(rank).1)
}

/// Returns the largest magnitude of a token; NaN if it contains one.
struct Largest<'a>(&'a [f32]);

impl Kernel for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        largest_magnitude(self.0)
    }
}

/// `q = clamp(round_half_even(x * s), -largest - 1, largest)`.
struct Rounding<'a> {
    x: &'a [f32],
    q: &'a mut [i8],
    s: f32,
    largest: f32,
}

impl Kernel for Rounding<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (s, high, low) = (self.s, self.largest, -self.largest - 1.0);
        for (q, &x) in self.q.iter_mut().zip(self.x) {
            let scaled = x * s;
            let scaled = if scaled < high { scaled } else { high };
            let scaled = if scaled > low { scaled } else { low };
            let scaled = if (x * s).is_nan() { 0.0 } else { scaled };
            *q = (scaled + ROUND).to_bits() as i8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnet_core::reference::activation_scale;
    use bitnet_core::rng::SplitMix64;
    use bitnet_core::simd::IsaLevel;

    fn numbers(count: usize) -> Vec<f32> {
        let mut random = SplitMix64::new(2);
        let extreme = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-30];
        (0..count)
            .map(|i| match i % 97 {
                96 => extreme[i / 97 % extreme.len()],
                _ => random.normal_pair()[0] as f32 * 2f32.powi(i as i32 % 40 - 20),
            })
            .collect()
    }

    #[test]
    fn all_levels_equal_the_reference() {
        let ties: Vec<f32> = (-300..300i16).map(|i| f32::from(i) * 0.25).collect();
        let finite = numbers(1000).into_iter().filter(|x| x.is_finite()).collect();
        for x in [numbers(1000), finite, numbers(95), ties, vec![f32::NAN; 9], vec![0.0; 3]] {
            let mut expected = vec![0i8; x.len()];
            let s = absmax_int8(&x, &mut expected);
            for level in IsaLevel::available() {
                let mut q = vec![1i8; x.len()];
                let largest = simd::run(level, Largest(&x));
                assert_eq!(activation_scale(largest).to_bits(), s.to_bits(), "{level}");
                simd::run(level, Rounding { x: &x, q: &mut q, s, largest: 127.0 });
                assert_eq!(q, expected, "{level}");
            }
        }
    }

    #[test]
    fn token_with_nan_or_infinity_dequantises_to_nan() {
        let ranges = [
            ActivationRange::Absmax,
            ActivationRange::Percentile(0.5),
            ActivationRange::Static(2.0),
        ];
        for range in ranges {
            for bits in [ActivationBits::Int8, ActivationBits::Int4] {
                for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let quantizer = ActivationQuantizer::new(bits, range).unwrap();
                    let x = [1.0, wrong, 0.5, 1.0, 1.0, 0.5];
                    let (mut q, mut back) = ([9i8; 6], [0f32; 6]);
                    let scales = quantizer.quantize(&x, 3, &mut q).unwrap();
                    quantizer.dequantize(&q, &scales, &mut back).unwrap();
                    assert!(back[..3].iter().all(|x| x.is_nan()), "{range:?} {wrong}: {back:?}");
                    assert!(back[3..].iter().all(|x| x.is_finite()), "{range:?} {wrong}: {back:?}");
                }
            }
        }
    }

    #[test]
    fn ranges_say_what_is_clamped() {
        let x: Vec<f32> = (1..=100u8).map(f32::from).collect();
        let with = |bits, range| {
            let mut q = [0i8; 100];
            let quantizer = ActivationQuantizer::new(bits, range).unwrap();
            (quantizer.quantize(&x, 100, &mut q).unwrap()[0], q)
        };
        let (s, q) = with(ActivationBits::Int8, ActivationRange::Percentile(0.9));
        assert_eq!((s, q[89], q[99]), ((1.0f32 / 90.0) * 127.0, 127, 127));
        let (s, q) = with(ActivationBits::Int4, ActivationRange::Absmax);
        assert_eq!((s, q[99], q[0]), ((1.0f32 / 100.0) * 7.0, 7, 0));
        let (s, q) = with(ActivationBits::Int8, ActivationRange::Static(254.0));
        assert_eq!((s, q[99]), ((1.0f32 / 254.0) * 127.0, 50));
        let negative: Vec<f32> = x.iter().map(|x| -x).collect();
        let static4 = ActivationQuantizer::new(ActivationBits::Int4, ActivationRange::Static(7.0));
        let mut q = [0i8; 100];
        static4.unwrap().quantize(&negative, 50, &mut q).unwrap();
        assert_eq!(q[..9], [-1, -2, -3, -4, -5, -6, -7, -8, -8]);
    }

    #[test]
    fn invalid_settings_and_shapes_are_errors() {
        for share in [0.0, -0.1, 1.1, f64::NAN] {
            let range = ActivationRange::Percentile(share);
            let error = ActivationQuantizer::new(ActivationBits::Int8, range).unwrap_err();
            assert!(matches!(error, Error::BadParameter { .. }), "{error}");
        }
        for largest in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let range = ActivationRange::Static(largest);
            assert!(ActivationQuantizer::new(ActivationBits::Int8, range).is_err());
        }
        let quantizer =
            ActivationQuantizer::new(ActivationBits::Int8, ActivationRange::Absmax).unwrap();
        assert!(quantizer.quantize(&[1.0; 5], 2, &mut [0; 5]).is_err());
        assert!(quantizer.quantize(&[1.0; 4], 0, &mut [0; 4]).is_err());
        assert!(quantizer.quantize(&[1.0; 4], 2, &mut [0; 3]).is_err());
        assert!(quantizer.dequantize(&[1; 4], &[1.0; 3], &mut [0.0; 4]).is_err());
        assert!(quantizer.dequantize(&[1; 4], &[], &mut [0.0; 4]).is_err());
        assert!(quantizer.quantize(&[], 4, &mut []).unwrap().is_empty());
    }
}

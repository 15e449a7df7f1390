//! The exponential function in f32, without branches, so that it vectorises.
//!
//! `exp(x) = 2ⁿ · eʳ` with `n` the integer nearest to `x / ln 2` and `eʳ = 1 + r + r² · p(r)`, `p` of degree 5 fitted
//! to |r| <= ln 2 / 2. Only additions, multiplications and moves of bits: the same bits on every instruction set.
//! Within 0.9 · 2⁻²³ of the size of the exact result for every f32 in [`LOWEST`]..=88.722; 0 below, infinite above;
//! NaN of NaN.

/// Below this the result is 0; the exact one is less than 2e-38.
const LOWEST: f32 = -86.9;

/// Above this the result is beyond f32.
const HIGHEST: f32 = 88.722_83;

/// 1.5 · 2²³: added to a small number, it leaves the nearest integer in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// `ln 2` in two parts; the first has 9 bits, so that its product with `n` is exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// Coefficients of `p`, the highest first.
const P: [f32; 6] =
    [0.000_197_903_34, 0.001_394_470_5, 0.008_333_498, 0.041_666_295, 0.166_666_66, 0.5];

/// Returns `e` to the power of `x`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Comparisons and not `clamp`: a NaN must stay one.
    let above = if x < LOWEST { LOWEST } else { x };
    let inside = if above > HIGHEST { HIGHEST } else { above };
    let rounded = inside * std::f32::consts::LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = (inside - n * LN_2[0]) - n * LN_2[1];
    let mut p = P[0];
    for coefficient in &P[1..] {
        p = p * r + coefficient;
    }
    let power = p * (r * r) + r + 1.0;
    // n is in -125..=128: 2ⁿ⁻¹ is a normal number for each.
    let half = f32::from_bits((rounded.to_bits() << 23).wrapping_add(126 << 23));
    let result = power * half * 2.0;
    let result = if x > HIGHEST { f32::INFINITY } else { result };
    if x < LOWEST { 0.0 } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest error over every `step`th f32 in the range, in units of 2⁻²³ of the exact result.
    fn worst(step: usize) -> f64 {
        let ranges = [(0f32.to_bits(), HIGHEST.to_bits()), ((-0f32).to_bits(), LOWEST.to_bits())];
        let mut worst = 0f64;
        for (first, last) in ranges {
            for bits in (first..=last).step_by(step) {
                let x = f32::from_bits(bits);
                let exact = f64::from(x).exp();
                worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
            }
        }
        worst * f64::from(1u32 << 23)
    }

    #[test]
    fn error_is_within_the_bound() {
        let worst = worst(9973);
        println!("{worst} · 2⁻²³");
        assert!(worst <= 0.9, "{worst} · 2⁻²³");
    }

    #[test]
    #[ignore = "takes a minute in a release build: every f32 there is"]
    fn error_is_within_the_bound_for_every_f32() {
        let worst = worst(1);
        println!("{worst} · 2⁻²³");
        assert!(worst <= 0.9, "{worst} · 2⁻²³");
    }

    #[test]
    fn extremes_are_exact() {
        assert_eq!((exp(0.0), exp(-0.0)), (1.0, 1.0));
        assert_eq!((exp(f32::NEG_INFINITY), exp(-87.0), exp(f32::MIN)), (0.0, 0.0, 0.0));
        assert_eq!((exp(f32::INFINITY), exp(88.73)), (f32::INFINITY, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(HIGHEST).is_finite() && exp(LOWEST) > 0.0);
    }
}

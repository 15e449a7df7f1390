//! Branch-free elementary functions of f64, so that loops over them are vectorised.
//!
//! Arguments and results are f32. Each function states its relative error; rounded to f32, a result is off by at most
//! 0.5 ulp and that error in ulp of f32 (2⁻²⁴ of the number), which the tests check against 64-bit references.

use std::f64::consts::{LN_2, LOG2_E, SQRT_2};

/// Adding and subtracting it rounds to an integer, which is then in the lowest bits.
const ROUND: f64 = (3u64 << 51) as f64;

/// `c[0] + c[1]·x + …`
#[inline(always)]
pub(super) fn polynomial<const N: usize>(x: f64, c: [f64; N]) -> f64 {
    let mut sum = 0.0;
    for c in c.into_iter().rev() {
        sum = sum * x + c;
    }
    sum
}

/// e^x within 2⁻³⁹; infinite above 709, at least e⁻⁷⁰⁰ below.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, and e^r is its Taylor sum to r¹⁰.
#[inline(always)]
pub(super) fn exp(x: f64) -> f64 {
    let clamped = if x < -700.0 { -700.0 } else { x };
    let clamped = if clamped > 709.0 { 709.0 } else { clamped };
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN_2;
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    let e = polynomial(
        r,
        [
            1.0,
            1.0,
            1.0 / 2.0,
            1.0 / 6.0,
            1.0 / 24.0,
            1.0 / 120.0,
            1.0 / 720.0,
            1.0 / 5040.0,
            1.0 / 40320.0,
            1.0 / 362_880.0,
            1.0 / 3_628_800.0,
        ],
    ) * power;
    if x > 709.0 { f64::INFINITY } else { e }
}

/// ln x within 2⁻³⁹, for f32 numbers: NaN below zero, -∞ at zero.
///
/// x = 2ⁿ·m with m between √½ and √2, and ln m = 2·artanh((m - 1) / (m + 1)) by its odd series to s¹⁵.
#[inline(always)]
pub(super) fn log(x: f64) -> f64 {
    let bits = x.to_bits();
    let fraction = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    let high = fraction > SQRT_2;
    let m = if high { fraction * 0.5 } else { fraction };
    // The exponent, as the lowest bits of a number whose ulp is 1.
    let exponent = f64::from_bits((bits >> 52 & 2047) | ROUND.to_bits()) - ROUND;
    let n = exponent - if high { 1022.0 } else { 1023.0 };
    let s = (m - 1.0) / (m + 1.0);
    let series = polynomial(
        s * s,
        [2.0, 2.0 / 3.0, 2.0 / 5.0, 2.0 / 7.0, 2.0 / 9.0, 2.0 / 11.0, 2.0 / 13.0, 2.0 / 15.0],
    );
    let positive = if x == f64::INFINITY { x } else { n * LN_2 + s * series };
    let at_zero = if x == 0.0 { f64::NEG_INFINITY } else { f64::NAN };
    if x > 0.0 { positive } else { at_zero }
}

/// a to the power b, by the rules of IEEE 754, computed in f64 and rounded once.
#[inline(always)]
pub(super) fn pow(a: f32, b: f32) -> f32 {
    f64::from(a).powf(f64::from(b)) as f32
}

/// tanh x within 2⁻³³.
///
/// 1 - 2 / (e^2x + 1), which loses digits near zero: there its series to x⁷.
#[inline(always)]
pub(super) fn tanh(x: f64) -> f64 {
    let large = 1.0 - 2.0 / (exp(2.0 * x) + 1.0);
    let small = x * polynomial(x * x, [1.0, -1.0 / 3.0, 2.0 / 15.0, -17.0 / 315.0]);
    if x.abs() < 1.0 / 64.0 { small } else { large }
}

/// 1 / (1 + e^-x) within 2⁻³⁸.
#[inline(always)]
pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + exp(-x))
}

/// 1 - erf z for z ≥ 0, within 2⁻³⁶ up to z = 11, where it leaves the range of f32.
///
/// t·e^(-z²)·P(t) with t = 2 / (2 + z); P interpolates at the Chebyshev points of 2/13..1.
#[inline(always)]
fn erfc_positive(z: f64) -> f64 {
    let t = 2.0 / (2.0 + z);
    let p = polynomial(
        t - 0.5,
        [
            0.510_791_352_621_860_6,
            0.687_160_684_484_645_6,
            0.558_944_184_393_520_3,
            0.145_768_911_866_584_36,
            -0.172_085_194_400_769_16,
            -0.103_666_200_629_291_09,
            0.098_894_321_691_739_52,
            0.053_572_037_065_848_545,
            -0.084_744_862_978_604_12,
            -0.008_735_865_535_010_925,
            0.072_418_717_429_727_47,
            -0.033_553_149_089_196_765,
            -0.036_085_674_434_657_67,
            0.048_314_246_437_416_97,
            -0.017_133_887_240_877_065,
        ],
    );
    t * exp(-z * z) * p
}

/// The error function within 2⁻³³.
#[inline(always)]
pub(super) fn erf(x: f64) -> f64 {
    let rest = 1.0 - erfc_positive(x.abs());
    let far = if x < 0.0 { -rest } else { rest };
    // The Taylor sum to x¹³, in units of 2 / √π.
    let near = x
        * std::f64::consts::FRAC_2_SQRT_PI
        * polynomial(
            x * x,
            [1.0, -1.0 / 3.0, 1.0 / 10.0, -1.0 / 42.0, 1.0 / 216.0, -1.0 / 1320.0, 1.0 / 9360.0],
        );
    if x.abs() < 0.25 { near } else { far }
}

/// The cumulative normal distribution at x, within 2⁻³⁵ even where it is tiny.
#[inline(always)]
fn normal_share(x: f64) -> f64 {
    let tail = 0.5 * erfc_positive(x.abs() * std::f64::consts::FRAC_1_SQRT_2);
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// x times the cumulative normal distribution at x, within 2⁻³⁵.
#[inline(always)]
pub(super) fn gelu(x: f64) -> f64 {
    x * normal_share(x)
}

/// The derivative of [`gelu`]: the cumulative distribution plus x times the density.
#[inline(always)]
pub(super) fn gelu_slope(x: f64) -> f64 {
    const AT_ZERO: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2 / 2.0;
    normal_share(x) + x * AT_ZERO * exp(-0.5 * x * x)
}

/// √(2/π), which scales the argument of the hyperbolic tangent that approximates the error function.
const TANH_SCALE: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;

/// The factor of x in the approximate GELU: (1 + tanh u) / 2 is sigmoid(2u), which loses no digits below zero.
#[inline(always)]
fn tanh_share(x: f64) -> f64 {
    sigmoid(2.0 * TANH_SCALE * (x + 0.044715 * x * x * x))
}

/// The approximation of [`gelu`] by a hyperbolic tangent.
#[inline(always)]
pub(super) fn gelu_tanh(x: f64) -> f64 {
    x * tanh_share(x)
}

/// The derivative of [`gelu_tanh`].
#[inline(always)]
pub(super) fn gelu_tanh_slope(x: f64) -> f64 {
    let share = tanh_share(x);
    let inner = 2.0 * TANH_SCALE * (1.0 + 3.0 * 0.044715 * x * x);
    share + x * share * (1.0 - share) * inner
}

/// x / (1 + e^-x)
#[inline(always)]
pub(super) fn silu(x: f64) -> f64 {
    x / (1.0 + exp(-x))
}

/// The derivative of [`silu`].
#[inline(always)]
pub(super) fn silu_slope(x: f64) -> f64 {
    let share = sigmoid(x);
    share * (1.0 + x * (1.0 - share))
}

/// The derivative of [`sigmoid`], the same for x and -x.
#[inline(always)]
pub(super) fn sigmoid_slope(x: f64) -> f64 {
    let e = exp(-x.abs());
    e / ((1.0 + e) * (1.0 + e))
}

/// The derivative of [`tanh`].
#[inline(always)]
pub(super) fn tanh_slope(x: f64) -> f64 {
    4.0 * sigmoid_slope(2.0 * x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 65 521st f32, of both signs, subnormal and infinite ones among them.
    fn arguments() -> impl Iterator<Item = f32> {
        (0..=u32::MAX).step_by(65_521).map(f32::from_bits).filter(|x| !x.is_nan())
    }

    /// Asserts a relative error of at most `bound` wherever the result is a normal f32, and the same f32 elsewhere up
    /// to one step.
    #[track_caller]
    fn check(name: &str, bound: f64, f: impl Fn(f64) -> f64, reference: impl Fn(f64) -> f64) {
        for x in arguments() {
            let (got, expected) = (f(f64::from(x)), reference(f64::from(x)));
            let close = if expected.abs() >= f64::from(f32::MIN_POSITIVE)
                && expected.abs() <= f64::from(f32::MAX)
            {
                (got - expected).abs() <= bound * expected.abs()
            } else {
                let (got, expected) = (got as f32, expected as f32);
                got == expected
                    || (got.is_nan() && expected.is_nan())
                    || (got - expected).abs() <= f32::from_bits(1)
            };
            assert!(close, "{name}({x:e}) is {got:e}, not {expected:e}");
        }
        assert!(f(f64::NAN).is_nan(), "{name}(NaN)");
    }

    #[test]
    fn errors_are_within_the_stated_bounds() {
        check("exp", 2f64.powi(-39), exp, f64::exp);
        check("log", 2f64.powi(-39), log, f64::ln);
        check("tanh", 2f64.powi(-33), tanh, f64::tanh);
        check("erf", 2f64.powi(-33), erf, libm::erf);
        // Below -13 the cumulative distribution is below the range of f32, and so is the product with x.
        check("gelu", 2f64.powi(-35), gelu, |x| {
            if x == f64::NEG_INFINITY { f64::NAN } else { x * 0.5 * libm::erfc(-x * 0.5f64.sqrt()) }
        });
        check("silu", 2f64.powi(-38), silu, |x| x / (1.0 + (-x).exp()));
        check("sigmoid", 2f64.powi(-38), sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
        assert!(log(-1.0).is_nan());
        assert_eq!(log(1.0), 0.0);
        assert_eq!((exp(0.0), tanh(0.0), erf(0.0), sigmoid(0.0)), (1.0, 0.0, 0.0, 0.5));
        assert!(tanh(-0.0).is_sign_negative() && erf(-0.0).is_sign_negative());
    }
}

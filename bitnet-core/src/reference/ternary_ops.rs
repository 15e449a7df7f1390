//! Ternary layers, scalar: activation quantisation, exact integer dot products, rescaling.

use crate::simd::largest_magnitude;
use crate::ternary::{ScaleGranularity, TernaryMatrix};

/// The scale of a token whose largest magnitude is `largest`: 127 / max(1e-5, largest), computed as PyTorch divides
/// a number by a tensor, by the reciprocal, so that trained models see the very scale they were trained with.
///
/// NaN if `largest` is not finite: every result of a layer is divided by the scale, so a token that holds NaN or
/// infinity gives NaN everywhere instead of the zeros that its integers would give.
pub fn activation_scale(largest: f32) -> f32 {
    if largest.is_finite() { (1.0 / largest.max(1e-5)) * 127.0 } else { f32::NAN }
}

/// [`activation_scale`] of `within`, for a token whose own largest magnitude is `largest`: NaN if either is not finite.
pub fn activation_scale_within(largest: f32, within: f32) -> f32 {
    if largest.is_finite() { activation_scale(within) } else { f32::NAN }
}

/// Quantises one token: `scale =` [`activation_scale`]`(max|x|)`, `q = clamp(round_half_even(x * scale), -128, 127)`.
/// Returns the scale (BitNet b1.58, absmax per token).
///
/// A token that holds NaN or infinity has the scale NaN and quantises to zeros.
///
/// # Panics
/// If the lengths differ.
pub fn quantize_activations(x: &[f32], q: &mut [i8]) -> f32 {
    quantize_with(x, activation_scale(largest_magnitude(x)), q)
}

/// As [`quantize_activations`], with `within` in place of the token's largest magnitude; larger magnitudes are clamped.
///
/// # Panics
/// If the lengths differ.
pub fn quantize_activations_within(x: &[f32], within: f32, q: &mut [i8]) -> f32 {
    quantize_with(x, activation_scale_within(largest_magnitude(x), within), q)
}

fn quantize_with(x: &[f32], scale: f32, q: &mut [i8]) -> f32 {
    assert_eq!(x.len(), q.len());
    for (q, &x) in q.iter_mut().zip(x) {
        *q = (x * scale).round_ties_even().clamp(-128.0, 127.0) as i8;
    }
    scale
}

/// Dot products of each row's trits with `q` (`[cols]`), one for each group of the row: `[rows, groups]`.
///
/// # Panics
/// If `q` is not `cols` long.
pub fn ternary_dots(weight: &TernaryMatrix, q: &[i8]) -> Vec<i32> {
    assert_eq!(q.len(), weight.cols());
    let group = group_len(weight);
    let mut trits = vec![0i8; weight.cols()];
    let mut dots = Vec::with_capacity(weight.rows() * weight.cols().div_ceil(group.max(1)));
    for row in 0..weight.rows() {
        weight.unpack_row(row, &mut trits);
        for (t, q) in trits.chunks(group).zip(q.chunks(group)) {
            dots.push(t.iter().zip(q).map(|(&t, &q)| i32::from(t) * i32::from(q)).sum());
        }
    }
    dots
}

/// One token through a W1.58A8 layer: `out[row] = Σ_groups dot / activation_scale * weight_scale`.
///
/// # Panics
/// If the lengths do not fit.
pub fn bit_linear_int8(weight: &TernaryMatrix, x: &[f32], out: &mut [f32]) {
    let mut q = vec![0i8; x.len()];
    let activation_scale = quantize_activations(x, &mut q);
    rescaled_dots(weight, &q, activation_scale, out);
}

/// As [`bit_linear_int8`], with `largest` in place of the token's largest magnitude.
///
/// # Panics
/// If the lengths do not fit.
pub fn bit_linear_int8_within(weight: &TernaryMatrix, x: &[f32], largest: f32, out: &mut [f32]) {
    let mut q = vec![0i8; x.len()];
    let activation_scale = quantize_activations_within(x, largest, &mut q);
    rescaled_dots(weight, &q, activation_scale, out);
}

fn rescaled_dots(weight: &TernaryMatrix, q: &[i8], activation_scale: f32, out: &mut [f32]) {
    assert_eq!(out.len(), weight.rows());
    let dots = ternary_dots(weight, q);
    let groups = dots.len().checked_div(weight.rows()).unwrap_or(0);
    for (row, out) in out.iter_mut().enumerate() {
        let dots = &dots[row * groups..(row + 1) * groups];
        *out = match weight.granularity() {
            ScaleGranularity::Tensor => dots[0] as f32 / activation_scale * weight.scales()[0],
            ScaleGranularity::Row => dots[0] as f32 / activation_scale * weight.scales()[row],
            ScaleGranularity::Group(_) => {
                let scales = &weight.scales()[row * groups..(row + 1) * groups];
                let products = dots.iter().zip(scales).map(|(&d, &s)| f64::from(d) * f64::from(s));
                // From 0: `sum` begins with -0, which negative scales of empty groups would leave.
                let sum = products.fold(0.0, |sum, product| sum + product);
                (sum / f64::from(activation_scale)) as f32
            }
        };
    }
}

/// One token through a weight-only ternary layer: `out[row] = Σ trit * scale * x`. NaN or infinity gives NaN in every
/// output.
///
/// # Panics
/// If the lengths do not fit.
pub fn bit_linear_float(weight: &TernaryMatrix, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), weight.cols());
    assert_eq!(out.len(), weight.rows());
    let group = group_len(weight);
    if x.iter().any(|x| !x.is_finite()) {
        return out.fill(f32::NAN);
    }
    let mut trits = vec![0i8; weight.cols()];
    for (row, out) in out.iter_mut().enumerate() {
        weight.unpack_row(row, &mut trits);
        let mut sum = 0f64;
        for (index, (t, x)) in trits.chunks(group).zip(x.chunks(group)).enumerate() {
            let dot: f64 = t.iter().zip(x).map(|(&t, &x)| f64::from(t) * f64::from(x)).sum();
            sum += dot * f64::from(weight.scale_at(row, index * group));
        }
        *out = sum as f32;
    }
}

/// Weights along a row that share one scale.
fn group_len(weight: &TernaryMatrix) -> usize {
    match weight.granularity() {
        ScaleGranularity::Group(n) => n,
        ScaleGranularity::Tensor | ScaleGranularity::Row => weight.cols().max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_round_half_to_even_and_never_leave_int8() {
        let mut q = [0i8; 5];
        let scale = quantize_activations(&[127.0, 0.5, 1.5, -2.5, -127.0], &mut q);
        assert_eq!(scale, 1.0);
        assert_eq!(q, [127, 0, 2, -2, -127]);
        let mut q = [1i8; 3];
        assert_eq!(quantize_activations(&[0.0; 3], &mut q), (1.0f32 / 1e-5) * 127.0);
        assert_eq!(
            activation_scale(4.126_738_5),
            (1.0f32 / 4.126_738_5) * 127.0,
            "not the quotient"
        );
        assert_eq!(q, [0; 3]);
    }

    #[test]
    fn non_finite_activation_gives_nan_in_every_output() {
        let trits = TernaryMatrix::from_trits(
            2,
            3,
            &[1, 0, -1, 0, 0, 0],
            ScaleGranularity::Tensor,
            vec![0.5],
        )
        .unwrap();
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..3 {
                let mut x = [1.0f32, -2.0, 3.0];
                x[at] = wrong;
                let mut q = [1i8; 3];
                assert!(quantize_activations(&x, &mut q).is_nan());
                assert_eq!(q, [0; 3]);
                assert!(quantize_activations_within(&x, 2.0, &mut q).is_nan());
                let mut out = [0.0; 2];
                bit_linear_int8(&trits, &x, &mut out);
                assert!(out.iter().all(|out| out.is_nan()), "{x:?}: {out:?}");
                out = [0.0; 2];
                bit_linear_int8_within(&trits, &x, 2.0, &mut out);
                assert!(out.iter().all(|out| out.is_nan()), "{x:?}: {out:?}");
            }
        }
    }

    #[test]
    fn group_scales_apply_to_their_group() {
        let trits: Vec<i8> = (0..128).map(|i| if i < 64 { 1 } else { -1 }).collect();
        let m =
            TernaryMatrix::from_trits(1, 128, &trits, ScaleGranularity::Group(64), vec![1.0, 10.0])
                .unwrap();
        let x = vec![1.0; 128];
        let mut out = [0.0];
        bit_linear_float(&m, &x, &mut out);
        assert_eq!(out, [64.0 - 640.0]);
        bit_linear_int8(&m, &x, &mut out);
        assert_eq!(out, [64.0 - 640.0]);
    }

    #[test]
    fn groups_without_weights_give_positive_zero() {
        let groups = ScaleGranularity::Group(64);
        let m = TernaryMatrix::from_trits(1, 128, &[0; 128], groups, vec![-1.0, -2.0]).unwrap();
        let mut out = [f32::NAN];
        bit_linear_int8(&m, &[1.0; 128], &mut out);
        assert_eq!(out[0].to_bits(), 0.0f32.to_bits());
    }
}

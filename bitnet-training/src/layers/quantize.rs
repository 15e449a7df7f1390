//! The two fake quantisers of b1.58 training. Their gradient is the identity
//! (straight-through), so they have no backward function.
//!
//! ```text
//! weights      s = max(mean|W|, 1e-5)            w' = clamp(rne(W / s), -1, 1) · s         one s per tensor
//! activations  s = 127 / max(max|x|, 1e-5)       x' = clamp(rne(x · s), -128, 127) / s     one s per token
//! ```

/// Adding and subtracting 1.5·2²³ rounds to the nearest integer, ties to even, for |x| < 2²².
const ROUND: f32 = 12_582_912.0;

fn round_ties_even(x: f32) -> f32 {
    (x + ROUND) - ROUND
}

/// Returns the absmean scale of a tensor: `max(mean|W|, 1e-5)`, the mean taken in `f64`.
#[must_use]
pub fn ternary_scale(weights: &[f32]) -> f32 {
    let sum: f64 = weights.iter().map(|w| f64::from(w.abs())).sum();
    ((sum / weights.len().max(1) as f64) as f32).max(1e-5)
}

/// Writes `clamp(rne(W / s), -1, 1) · s` to `out` and returns `s`.
pub fn quantize_ternary(out: &mut [f32], weights: &[f32]) -> f32 {
    let scale = ternary_scale(weights);
    for (o, w) in out.iter_mut().zip(weights) {
        *o = round_ties_even((w / scale).clamp(-1.0, 1.0)) * scale;
    }
    scale
}

/// Returns the trits of [`quantize_ternary`] and the scale, for storage: `weight = trit · scale`.
#[must_use]
pub fn ternary_matrix(weights: &[f32]) -> (Vec<i8>, f32) {
    let scale = ternary_scale(weights);
    let trits =
        weights.iter().map(|w| round_ties_even((w / scale).clamp(-1.0, 1.0)) as i8).collect();
    (trits, scale)
}

/// Replaces every row of `x[tokens, width]` by its int8 image `q / s`.
pub fn fake_quantize_rows(x: &mut [f32], width: usize) {
    for row in x.chunks_exact_mut(width) {
        let max = row.iter().fold(1e-5f32, |m, x| m.max(x.abs()));
        let scale = 127.0 / max;
        for x in row {
            *x = round_ties_even((*x * scale).clamp(-128.0, 127.0)) / scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_follow_the_hand_computed_example() {
        // mean|W| = (0.5 + 0.25 + 0.125 + 0.125) / 4 = 0.25;
        // 0.125 / 0.25 = 0.5 is a tie and goes to even, that is to 0.
        let mut out = [9.0; 4];
        let scale = quantize_ternary(&mut out, &[0.5, -0.25, 0.125, -0.125]);
        assert_eq!(scale, 0.25);
        assert_eq!(out, [0.25, -0.25, 0.0, -0.0]);
    }

    #[test]
    fn zero_weights_take_the_smallest_scale() {
        let mut out = [1.0; 3];
        assert_eq!(quantize_ternary(&mut out, &[0.0; 3]), 1e-5);
        assert_eq!(out, [0.0; 3]);
    }

    #[test]
    fn activations_follow_the_hand_computed_example() {
        // max = 127, so s = 1: values round to integers, ties to even. The second row has its own scale.
        let mut x = [127.0, 0.5, 1.5, -2.5, 0.0, -254.0, 2.9, 3.1];
        fake_quantize_rows(&mut x, 4);
        assert_eq!(x, [127.0, 0.0, 2.0, -2.0, 0.0, -254.0, 2.0, 4.0]);
    }
}

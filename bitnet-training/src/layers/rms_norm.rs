//! Root-mean-square normalisation with a learned gain: `y = g * x / sqrt(mean(x²) + eps)`.

use bitnet_core::reference::rms_factor;

use super::dot;

/// Normalises each row of `x[tokens, width]` into `y`; `reciprocal[tokens]` stores `1 / rms` for the backward pass.
pub fn rms_norm_forward(y: &mut [f32], reciprocal: &mut [f32], x: &[f32], gain: &[f32], eps: f32) {
    let width = gain.len();
    for ((y, x), r) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(reciprocal) {
        *r = rms_factor(dot(x, x) / width as f32, eps);
        for ((y, x), g) in y.iter_mut().zip(x).zip(gain) {
            *y = x * *r * g;
        }
    }
}

/// Adds the gradient with respect to `x` to `dx` (or writes it,
/// if `accumulate` is false) and that of the gain to `dgain`.
///
/// With `n = x·r`: `dx = r · (g·dy - n · mean(g·dy·n))`, `dg += dy·n`.
pub fn rms_norm_backward(
    dx: &mut [f32],
    dgain: &mut [f32],
    dy: &[f32],
    x: &[f32],
    gain: &[f32],
    reciprocal: &[f32],
    accumulate: bool,
) {
    let width = gain.len();
    let rows = dx
        .chunks_exact_mut(width)
        .zip(dy.chunks_exact(width))
        .zip(x.chunks_exact(width))
        .zip(reciprocal);
    let mut scaled = vec![0.0; width];
    for (((dx, dy), x), &r) in rows {
        for i in 0..width {
            scaled[i] = gain[i] * dy[i];
            dgain[i] += dy[i] * x[i] * r;
        }
        let mean = dot(&scaled, x) * r * r / width as f32;
        for i in 0..width {
            let gradient = r * (scaled[i] - x[i] * mean);
            dx[i] = if accumulate { dx[i] + gradient } else { gradient };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::finite_difference::{assert_gradient, random};

    #[test]
    fn backward_agrees_with_finite_differences() {
        let (x, gain, dy) = (random(24, 1), random(12, 2), random(24, 3));
        let run = |x: &[f32], gain: &[f32]| {
            let (mut y, mut r) = (vec![0.0; 24], vec![0.0; 2]);
            rms_norm_forward(&mut y, &mut r, x, gain, 1e-5);
            (y, r)
        };
        let (mut dx, mut dgain) = (vec![0.0; 24], vec![0.0; 12]);
        rms_norm_backward(&mut dx, &mut dgain, &dy, &x, &gain, &run(&x, &gain).1, false);
        assert_gradient(&x, &dx, &dy, |x| run(x, &gain).0);
        assert_gradient(&gain, &dgain, &dy, |gain| run(&x, gain).0);
    }
}

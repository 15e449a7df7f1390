//! The gate of the feed-forward block: `u = relu(gate)² * up`.

/// Computes `u[tokens, width] = relu(gate)² · up`; `gate_up[tokens, 2·width]` has gate and up side by side.
pub fn gate_forward(u: &mut [f32], gate_up: &[f32], width: usize) {
    for (u, gu) in u.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
        let (gate, up) = gu.split_at(width);
        for ((u, g), up) in u.iter_mut().zip(gate).zip(up) {
            let g = relu(*g);
            *u = g * g * up;
        }
    }
}

/// Propagates NaN, unlike `max`, so that a diverging run shows in its loss.
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// Overwrites `d_gate_up[tokens, 2·width]` with `2·relu(gate)·up·du` and `relu(gate)²·du`.
pub fn gate_backward(d_gate_up: &mut [f32], du: &[f32], gate_up: &[f32], width: usize) {
    let rows = d_gate_up
        .chunks_exact_mut(2 * width)
        .zip(du.chunks_exact(width))
        .zip(gate_up.chunks_exact(2 * width));
    for ((d, du), gu) in rows {
        let (gate, up) = gu.split_at(width);
        let (d_gate, d_up) = d.split_at_mut(width);
        for i in 0..width {
            let g = relu(gate[i]);
            d_gate[i] = 2.0 * g * up[i] * du[i];
            d_up[i] = g * g * du[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::finite_difference::{assert_gradient, random};

    #[test]
    fn nan_in_the_gate_stays_nan() {
        let mut u = [0.0; 2];
        gate_forward(&mut u, &[f32::NAN, -1.0, 2.0, 2.0], 2);
        assert!(u[0].is_nan() && u[1] == 0.0, "{u:?}");
    }

    #[test]
    fn backward_agrees_with_finite_differences() {
        let (x, dy) = (random(20, 4), random(10, 5));
        let mut dx = vec![0.0; 20];
        gate_backward(&mut dx, &dy, &x, 5);
        assert_gradient(&x, &dx, &dy, |x| {
            let mut u = vec![0.0; 10];
            gate_forward(&mut u, x, 5);
            u
        });
    }
}

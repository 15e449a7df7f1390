//! The layers of the model, each an explicit pair `x_forward` / `x_backward` over row-major `f32` slices.
//!
//! A backward function takes the gradient of its output and fills or adds to the gradients of its inputs, as
//! documented. Every pair is tested against finite differences; quantisers use the
//! straight-through estimator (gradient = identity).
mod attention;
mod cross_entropy;
mod gate;
mod linear;
mod quantize;
mod rms_norm;
mod rotary;

pub use attention::{AttentionShape, attention_backward, attention_forward};
pub use cross_entropy::cross_entropy;
pub use gate::{gate_backward, gate_forward};
pub use linear::{linear_backward_input, linear_backward_weight, linear_forward};
pub use quantize::{fake_quantize_rows, quantize_ternary, ternary_matrix, ternary_scale};
pub use rms_norm::{rms_norm_backward, rms_norm_forward};
pub use rotary::RotaryTable;

/// Sum of `a[i] * b[i]` over eight interleaved partial sums: a fixed order that vectorises.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + tail
}

#[cfg(test)]
pub(crate) mod finite_difference;

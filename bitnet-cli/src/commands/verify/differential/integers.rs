//! The integers of ternary layers: the input on which they are compared, and where they differ.

use bitnet_core::Result;
use bitnet_core::backend::BitLinearIntegers;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;

/// Describes a matrix by its number: matrices are prepared layer by layer, seven per layer.
pub(super) fn place(number: usize, rows: usize, cols: usize) -> String {
    const PARTS: [&str; 7] =
        ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    format!(
        "ternary matrix {number} ([{rows}, {cols}]; blk.{}.{} if all are ternary)",
        number / 7,
        PARTS[number % 7]
    )
}

/// Describes the first difference.
pub(super) fn first_difference(
    expected: &BitLinearIntegers,
    got: &BitLinearIntegers,
) -> Option<String> {
    fn differ<T: PartialEq + Copy + std::fmt::Display>(
        what: &str,
        expected: &[T],
        got: &[T],
    ) -> Option<String> {
        if expected.len() != got.len() {
            return Some(format!("{} {what} instead of {}", got.len(), expected.len()));
        }
        let at = expected.iter().zip(got).position(|(a, b)| a != b)?;
        Some(format!("{what} {at} is {} instead of {}", got[at], expected[at]))
    }
    let bits = |scales: &[f32]| scales.iter().map(|s| s.to_bits()).collect::<Vec<_>>();
    differ("activation", &expected.activations, &got.activations)
        .or_else(|| {
            differ(
                "bits of scale",
                &bits(&expected.activation_scales),
                &bits(&got.activation_scales),
            )
        })
        .or_else(|| differ("dot product", &expected.dots, &got.dots))
}

/// Returns two test rows: values of all sizes with one outlier, and values whose quantisation has
/// ties.
pub(super) fn fixed_input(cols: usize, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut values = Vec::with_capacity(2 * cols);
    for index in 0..cols {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let unit = (state >> 40) as f32 / (1 << 24) as f32 * 2.0 - 1.0;
        values.push(if index == cols / 3 { 6.5 } else { unit * unit * unit * 3.0 });
    }
    values.extend((0..cols).map(|index| ((index * 37 % 255) as f32 - 127.0) / 2.0));
    BitNetTensor::from_f32(&[2, cols], &values, pool)
}

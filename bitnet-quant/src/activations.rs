//! Absmax quantisation of one token's activations to int8.

/// `s = 127 / max(1e-5, max|x|)`, `q = clamp(round_half_even(x * s), -128, 127)`; returns `s` (BitNet b1.58).
///
/// The same function as the oracle's, so that a quantiser and a back end can't disagree. A NaN becomes 0.
///
/// # Panics
/// If `x` and `q` differ in length.
pub use bitnet_core::reference::quantize_activations as absmax_int8;

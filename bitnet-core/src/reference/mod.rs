//! Each operation of [`crate::backend`], scalar and obvious: the oracle that every back end is held to.
//!
//! The functions of this module work on slices and state the arithmetic; [`ReferenceBackend`] puts them behind
//! the [`Backend`](crate::backend::Backend) trait. Sums of floats are accumulated in f64, so that the oracle is
//! nearer to the truth than what it judges.

mod cached;
mod ops;
mod recurrent;
mod reference_backend;
mod ternary_ops;

pub use ops::{activate, attention, embed, gate, linear, rms_factor, rms_norm, rope, to_f32};
pub use recurrent::{DeltaTokens, causal_conv, delta_rule, hadamard, length_factor, log_decay};
pub use reference_backend::ReferenceBackend;
pub use ternary_ops::{
    activation_scale, activation_scale_within, bit_linear_float, bit_linear_int8,
    bit_linear_int8_within, quantize_activations, quantize_activations_within, ternary_dots,
};

//! Quantisers and storage codecs between numbers and trits.
//!
//! - [`weights`]: absmean quantisation of weights, and the detection of weights that are ternary already.
//! - [`activations`]: absmax quantisation of one token's activations to int8.
//! - [`loss`]: how far restored numbers are from the original ones.
//! - [`codec`]: one file per storage format; a codec turns bytes into a
//!   [`TernaryMatrix`](bitnet_core::ternary::TernaryMatrix) or into rows of f32, and back.
//!
//! No container is known here: a caller finds the bytes of a tensor, names its format and shape, and hands them over.
#![forbid(unsafe_code)]

pub mod activations;
pub mod codec;
mod detect;
mod error;
pub mod loss;
mod stored;
mod sums;
mod ternarize;
pub mod weights;

pub use error::{Error, Result};

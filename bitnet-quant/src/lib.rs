//! Quantisers and storage codecs between numbers and trits.
//!
//! - [`weights`]: absmean quantisation of weights, and the detection of weights that are ternary already.
//! - [`quantizer`]: the other rules by which weights become trits, one file each.
//! - [`activations`]: activations in int8 or int4, one scale for each token.
//! - [`bit_linear`]: a linear layer with latent weights, on any back end, with straight-through gradients.
//! - [`gradients`]: gradients in few bits that are right on average.
//! - [`calibration`]: what is seen of activations while a model runs, and the ranges that follow.
//! - [`loss`]: how far restored numbers are from the original ones.
//! - [`mixed`]: which storage each tensor gets within a budget.
//! - [`codec`]: one file per storage format; a codec turns bytes into a
//!   [`TernaryMatrix`](bitnet_core::ternary::TernaryMatrix) or into rows of f32, and back.
//!
//! No container is known here: a caller finds the bytes of a tensor, names its format and shape, and hands them over.
#![forbid(unsafe_code)]

pub mod activations;
pub mod bit_linear;
pub mod calibration;
pub mod codec;
mod detect;
mod error;
pub mod gradients;
pub mod loss;
pub mod mixed;
mod parallel;
pub mod quantizer;
mod stored;
mod sums;
mod ternarize;
pub mod weights;

pub use error::{Error, Result};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

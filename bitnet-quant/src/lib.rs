//! Quantisers and storage codecs for ternary weights.
//!
//! # Tour
//!
//! A quantiser turns float weights into trits and scales; a codec turns these into stored bytes and back.
//!
//! ```
//! use bitnet_core::ternary::ScaleGranularity;
//! use bitnet_quant::codec::dense::{DenseMatrix, DenseType};
//! use bitnet_quant::codec::{TernaryStorage, i2_s::I2sLayout};
//! use bitnet_quant::quantizer::{Absmean, Quantizer, Settings};
//!
//! let bytes: Vec<u8> = (0..256).flat_map(|i| ((i % 7) as f32 - 3.0).to_le_bytes()).collect();
//! let weights = DenseMatrix::new(DenseType::F32, 2, 128, bytes)?; // [out, in]
//! let settings = Settings { granularity: ScaleGranularity::Tensor, ..Settings::default() };
//! let (trits, loss) = Absmean.quantize_measured(&weights, &settings)?;
//! assert!(loss.sqnr_db > 0.0);
//!
//! let storage = TernaryStorage::I2S(I2sLayout::X86);
//! let stored = storage.encode(&trits)?;
//! assert_eq!(stored.len(), storage.size(2, 128)?);
//! assert_eq!(storage.decode(&stored, 2, 128, None)?.to_trits(), trits.to_trits());
//! # Ok::<(), bitnet_quant::Error>(())
//! ```
//!
//! # Modules
//!
//! - [`weights`]: absmean quantisation of weights, and detection of weights that are already ternary.
//! - [`quantizer`]: further rules that turn weights into trits, one file each.
//! - [`activations`]: int8 and int4 quantisation of activations with one scale per token.
//! - [`bit_linear`]: a BitLinear layer on any back end, with straight-through gradients.
//! - [`gradients`]: unbiased low-bit quantisation of gradients.
//! - [`calibration`]: observers of activations, and static ranges from their statistics.
//! - [`loss`]: quantisation error.
//! - [`mixed`]: selection of a storage type per tensor within a budget.
//! - [`codec`]: storage formats, one file each; a codec converts bytes to a
//!   [`TernaryMatrix`](bitnet_core::ternary::TernaryMatrix) or to rows of f32, and back.
//!
//! This crate knows no container: the caller passes the bytes of a tensor with their format and shape.
#![forbid(unsafe_code)]

pub mod activations;
pub mod bit_linear;
pub mod calibration;
pub mod codec;
mod dequantize;
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

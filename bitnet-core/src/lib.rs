//! Memory, devices, tensors, ternary matrices and the reference operations of BitNet-Rust.
//!
//! The base of the other crates; independent of models and model files.
//!
//! - [`memory`]: a pool of aligned blocks with exact accounting, and [`memory::tensor`], strided tensors on pool-backed
//!   or mapped storage.
//! - [`kv`]: keys and values of a sequence, for attention.
//! - [`ternary`]: a matrix of trits with scales per tensor, row or group.
//! - [`backend`]: the operations of a back end and their operands: dense rows, prepared weights, the largest logits of
//!   an output head.
//! - [`prelude`]: the most used types.
//! - [`rng`]: seeded random numbers.
//! - [`mod@reference`]: scalar implementations of the operations, against which every back end is tested.
//! - [`simd`]: detection and selection of instruction sets.
//! - [`tensor`]: dense operations on tensors: element-wise, reductions, products, activations.
//! - [`device`]: devices, their capabilities, selection and fallback.
//! - [`stream`]: asynchronous work in order, and events that order streams.

pub mod backend;
pub mod device;
mod error;
pub mod kv;
pub mod memory;
mod os;
pub mod prelude;
pub mod reference;
pub mod rng;
pub mod simd;
pub mod stream;
mod sync;
pub mod tensor;
pub mod ternary;

pub use backend::dense;
pub use error::{Error, MemoryLimit, Result, file_advice};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../CONTRIBUTING.md")]
struct Contributing;

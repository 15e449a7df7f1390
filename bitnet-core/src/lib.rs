//! Memory, devices, tensors, ternary matrices and the reference operations of BitNet-Rust.
//!
//! The floor that everything else stands on. It names no model and reads no model file.
//!
//! - [`memory`]: a pool of aligned blocks that accounts for its bytes, and [`memory::tensor`], strided tensors on
//!   pool-backed or mapped storage.
//! - [`kv`]: keys and values of a sequence, as attention reads them.
//! - [`ternary`]: the central noun, a matrix of trits with scales per tensor, row or group.
//! - [`backend`]: the closed, short list of operations that a back end offers, and what they work on: dense rows, prepared
//!   weights, the largest logits of an output head.
//! - [`prelude`]: what most programs over this crate name.
//! - [`rng`]: random numbers that follow from a seed.
//! - [`mod@reference`]: each of those operations, scalar and obvious: the oracle that every back end is held to.
//! - [`simd`]: which instruction sets this processor has, and how to force one.
//! - [`tensor`]: dense operations on tensors: element-wise, reductions, products, activations.
//! - [`device`]: what computes, what it can do, which one is chosen, and what happens when it fails.
//! - [`stream`]: work that is done later, in order, and events that order streams.

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

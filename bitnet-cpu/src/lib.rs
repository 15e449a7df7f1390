//! The CPU back end of BitNet-Rust: ternary and dense kernels for every instruction set, chosen at run time.
//!
//! A kernel is written once over three small traits (products of 2-bit codes with 8-bit activations, lanes of f32,
//! products of 4-bit codes) and compiled for each instruction set; which one runs is decided when a [`CpuBackend`] is
//! made. Integers equal those of [`bitnet_core::reference`] bit for bit on every level,
//! and no result depends on the number of threads.
//!
//! ```
//! use bitnet_core::backend::{ActivationPrecision, Backend, Operations, Preparation};
//! use bitnet_core::memory::HybridMemoryPool;
//! use bitnet_core::memory::tensor::BitNetTensor;
//! use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
//! use bitnet_cpu::{CpuBackend, CpuOptions, proven_levels};
//!
//! # fn main() -> bitnet_core::Result<()> {
//! // Every level that this processor has passes a self-test before it is used.
//! for (level, proven) in proven_levels() {
//!     println!("{level}: {}", if proven { "proven" } else { "fails its self-test" });
//! }
//!
//! // The best proven level, two threads.
//! let cpu = CpuBackend::new(CpuOptions { threads: Some(2), isa: None })?;
//! println!("{}", cpu.describe());
//!
//! // A layer: prepare its weight once, then multiply. One scale for the whole matrix.
//! let matrix = TernaryMatrix::from_trits(2, 3, &[1, 0, -1, 1, 1, 1], ScaleGranularity::Tensor, vec![0.5])?;
//! let weight = cpu.prepare(matrix)?;
//! let pool = HybridMemoryPool::new()?;
//! let x = BitNetTensor::from_f32(&[1, 3], &[127.0, 2.0, 4.0], &pool)?; // [tokens, cols]
//! let mut out = BitNetTensor::zeros(&[1, 2], &pool)?; // [tokens, rows]
//! cpu.bit_linear(&x, ActivationPrecision::Int8, &[&*weight], &mut [&mut out])?;
//! assert_eq!(out.f32()?, [(127.0 - 4.0) * 0.5, (127.0 + 2.0 + 4.0) * 0.5]);
//! # Ok(())
//! # }
//! ```
//!
//! Inside, from the bottom: `isa` (what an instruction set supplies, and the choice at run time), `self_test` (which
//! levels are trusted), `threads`, `exec` (what an operation runs on), `activations` (quantised input), `ops` (one file
//! or folder for each operation), `backend`.

mod activations;
mod backend;
mod exec;
mod isa;
mod ops;
mod self_test;
mod threads;
mod traffic;

pub use backend::{CpuBackend, CpuOptions};
pub use isa::IntegerPeak;
pub use self_test::proven_levels;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

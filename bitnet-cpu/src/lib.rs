//! The CPU back end of BitNet-Rust: ternary and dense kernels for every instruction set, chosen at run time.
//!
//! A kernel is written once, over the few instructions of the `Isa` trait, and compiled for each instruction set;
//! which one runs is decided when a [`CpuBackend`] is made. Integers equal those of [`bitnet_core::reference`] bit
//! for bit on every level, and no result depends on the number of threads.

mod activations;
mod backend;
mod isa;
mod ops;
mod threads;
mod traffic;

pub use backend::{CpuBackend, CpuOptions};
pub use isa::{IntegerPeak, proven_levels};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

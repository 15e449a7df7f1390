//! Benchmarks of BitNet-Rust against its peers, with confidence intervals.
//!
//! `cargo bench --package bitnet-benchmarks` runs [`run`]. Every number comes from a separate process, and the
//! processes of compared subjects take turns.
#![forbid(unsafe_code)]

pub mod blocks;
mod command_line;
pub mod decoding;
pub mod filter;
pub mod footprint;
pub mod kernels;
pub mod layers;
mod machine;
mod peers;
mod processes;
pub mod products;
pub mod quantizing;
pub mod report;
mod running;
pub mod sampling;
pub mod smaps;
pub mod stats;
pub mod suite;
pub mod suites;
pub mod trace;
pub mod training;
pub mod worker;

pub use running::run;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

//! Checks of the source tree, run as tests.
//!
//! `cargo test -p xtask` reads every file that git tracks or would track and runs each check in [`checks`]. A check is
//! a pure function from a [`Tree`] to [`Finding`]s, so that its own test can pass it an invalid tree.
//!
//! ```
//! use xtask::{Tree, checks};
//!
//! let tree = Tree::from_texts(&[("bitnet-quant/src/lib.rs", "pub fn f() {}\n")]);
//! let findings = checks::headers::check(&tree);
//! assert!(findings[0].to_string().starts_with("bitnet-quant/src/lib.rs:1: begins without a `//!` line"));
//! ```
#![forbid(unsafe_code)]

pub mod checks;
mod finding;
mod rust_text;
pub mod shape;
mod tree;

pub use finding::Finding;
pub use rust_text::RustText;
pub use tree::{SourceFile, Tree};

/// The examples of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

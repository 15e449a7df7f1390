//! Tensors and dense operations against NumPy and PyTorch; `scripts/golden/tensors.py` wrote the expected results.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its answers has failed")]
#![allow(dead_code, reason = "each group of answers is read with what it needs")]

mod activations;
mod dtypes;
mod elementwise;
mod golden;
mod products;
mod reductions;
mod views;

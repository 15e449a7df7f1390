//! PQ2_0 of PrismML's llama.cpp: two bits per weight in order and an f16 scale per 128 weights.
//!
//! ```text
//! block  128 weights -> 34 bytes: d (f16), then qs[32]        value = d * (code - 1)
//!   bits      7 6    5 4    3 2    1 0
//!   byte i:   4i+3   4i+2   4i+1   4i
//! ```
//!
//! Source: PrismML's fork of llama.cpp, type 142: the blocks of 128 weights of [`super::q2_0`] under an id of their own.
//! Code 3 is a weight of twice the scale.

use super::q2_0;
use crate::Result;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::TernaryMatrix;

/// The format's name.
pub const FORMAT: &str = "PQ2_0";
/// Weights in a block.
pub const BLOCK: usize = 128;

/// Returns the bytes of a stored `[rows, cols]` matrix; columns are a multiple of 128.
///
/// # Errors
/// [`crate::Error::EmptyShape`], [`crate::Error::NotAMultiple`] or [`crate::Error::SizeOverflow`] for an unsupported
/// shape.
pub fn size(rows: usize, cols: usize) -> Result<usize> {
    q2_0::size_of(FORMAT, rows, cols, BLOCK)
}

/// Decodes a `[rows, cols]` matrix; equal scales are merged to one per row or tensor, unless there is a code 3.
/// The weights are in `pool`, if any.
///
/// # Errors
/// Errors of [`size`], [`crate::Error::Length`] if `bytes` has another length, [`crate::Error::BadScale`] for a
/// scale that is NaN or infinite.
pub fn decode(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    q2_0::decode_as(FORMAT, bytes, (rows, cols), BLOCK, pool)
}

/// Encodes a matrix and appends it to `out`, which is unchanged on error.
/// Scales are rounded to the nearest f16; a block of zeros gets the scale 0.
///
/// # Errors
/// Errors of [`size`], [`crate::Error::ScaleGranularity`] if weights of one block have different scales,
/// [`crate::Error::ScaleRange`] for a scale out of range of f16.
pub fn encode_into(matrix: &TernaryMatrix, out: &mut Vec<u8>) -> Result<()> {
    q2_0::encode_as(FORMAT, matrix, BLOCK, out)
}

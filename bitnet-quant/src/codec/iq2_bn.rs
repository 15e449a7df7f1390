//! IQ2_BN of ik_llama.cpp: two bits per weight and an f32 scale per row.
//!
//! ```text
//! row    d (f32), then blocks        value = d * (code - 1)
//! block  64 weights -> 16 bytes
//!   bits      7 6    5 4    3 2    1 0
//!   byte j:   48+j   32+j   16+j   j
//! ```
//!
//! Source: ikawrakow/ik_llama.cpp, `block_iq2_bn` and `quantize_iq2_bn`. Code 3, twice the scale, is not ternary.

use super::{planes, scales, shape};
use crate::Result;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, TernaryMatrix};

/// The format's name.
pub const FORMAT: &str = "IQ2_BN";
/// Weights in a block.
pub const BLOCK: usize = 64;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 16;
/// Bytes before the blocks of a row.
pub const META: usize = 4;

/// Returns the bytes of a stored `[rows, cols]` matrix; columns are a multiple of 64.
///
/// # Errors
/// [`crate::Error::EmptyShape`], [`crate::Error::NotAMultiple`] or [`crate::Error::SizeOverflow`] for an unsupported
/// shape.
pub fn size(rows: usize, cols: usize) -> Result<usize> {
    shape::row_scaled_size(FORMAT, rows, cols, META, BLOCK, BLOCK_BYTES)
}

/// Decodes a `[rows, cols]` matrix; equal row scales are merged to one per tensor.
/// The weights are in `pool`, if any.
///
/// # Errors
/// Errors of [`size`], [`crate::Error::Length`] if `bytes` has another length, [`crate::Error::NotTernary`] for
/// code 3, [`crate::Error::BadScale`] for a scale that is NaN or infinite.
pub fn decode(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    let size = (rows, cols, size(rows, cols)?);
    scales::decode_rows(FORMAT, bytes, size, cols, pool, |stored, words, scales| {
        let (meta, packed) = stored.split_at(META);
        let blocks = packed.as_chunks::<BLOCK_BYTES>().0;
        for (block, words) in blocks.iter().zip(words.as_chunks_mut::<4>().0) {
            *words = planes::gather(block);
        }
        scales.push_value(f32::from_le_bytes([meta[0], meta[1], meta[2], meta[3]]), words)
    })
}

/// Encodes a matrix and appends it to `out`, which is unchanged on error. A row of zeros gets the scale 0.
///
/// # Errors
/// Errors of [`size`], [`crate::Error::ScaleGranularity`] if weights of one row have different scales.
pub fn encode_into(matrix: &TernaryMatrix, out: &mut Vec<u8>) -> Result<()> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let row_bytes = size(rows, cols)? / rows;
    shape::only_trits(FORMAT, matrix)?;
    shape::append_rows(out, rows, row_bytes, &[], |row, stored| {
        let words = &matrix.row_words(row)[..cols / CODES_PER_WORD];
        let scale = scales::run_scale(FORMAT, "row", matrix, row, words, 0)?;
        let (meta, packed) = stored.split_at_mut(META);
        meta.copy_from_slice(&scale.to_le_bytes());
        let blocks = packed.as_chunks_mut::<BLOCK_BYTES>().0;
        for (block, words) in blocks.iter_mut().zip(words.as_chunks::<4>().0) {
            *block = planes::scatter(*words);
        }
        Ok(())
    })
}

//! Q2_0 of ggml: two bits per weight in order and an f16 scale per 64 (mainline) or 128 weights (older files).
//!
//! ```text
//! block  64 weights -> 18 bytes, 128 weights -> 34 bytes: d (f16), then qs        value = d * (code - 1)
//!   bits      7 6    5 4    3 2    1 0
//!   byte i:   4i+3   4i+2   4i+1   4i
//! ```
//!
//! Source: ggml, `block_q2_0`; the two block lengths share a type id and differ in the tensor's size. Code 3 is
//! a weight of twice the scale. [`super::pq2_0`] has the same blocks under its own id.

use super::{scales, shape};
use crate::{Error, Result};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, TernaryBuilder, TernaryMatrix};

/// The format's name.
pub const FORMAT: &str = "Q2_0";

/// Returns the bytes of a block of 64 or 128 weights.
fn block_bytes(format: &'static str, block: usize) -> Result<usize> {
    match block {
        64 | 128 => Ok(2 + block / 4),
        _ => Err(Error::UnknownBlock { format, block }),
    }
}

/// Returns the bytes of a stored `[rows, cols]` matrix in blocks of 64 or 128, which must divide the columns.
///
/// # Errors
/// [`Error::UnknownBlock`], [`Error::EmptyShape`], [`Error::NotAMultiple`] or [`Error::SizeOverflow`] for an
/// unsupported shape.
pub fn size(rows: usize, cols: usize, block: usize) -> Result<usize> {
    size_of(FORMAT, rows, cols, block)
}

/// Like [`size`], for a format of such blocks.
pub(super) fn size_of(
    format: &'static str,
    rows: usize,
    cols: usize,
    block: usize,
) -> Result<usize> {
    shape::blocked_size(format, rows, cols, block.max(1), block_bytes(format, block)?)
}

/// Decodes a `[rows, cols]` matrix; equal scales are merged to one per row or tensor, unless there is a code 3.
/// The weights are in `pool`, if any.
///
/// # Errors
/// Errors of [`size`], [`Error::Length`] if `bytes` has another length, [`Error::BadScale`] for a scale that is
/// NaN or infinite.
pub fn decode(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    block: usize,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    decode_as(FORMAT, bytes, (rows, cols), block, pool)
}

/// Like [`decode`], for a `(rows, cols)` matrix in a format of such blocks.
pub(super) fn decode_as(
    format: &'static str,
    bytes: &[u8],
    (rows, cols): (usize, usize),
    block: usize,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    let size = (rows, cols, size_of(format, rows, cols, block)?);
    let block_bytes = block_bytes(format, block)?;
    let builder = |rows, cols| Ok(TernaryBuilder::in_pool(rows, cols, pool)?.accept_doubled());
    scales::build_rows(format, bytes, size, block, builder, |stored, words, scales| {
        let blocks = words.chunks_exact_mut(block / CODES_PER_WORD);
        for (packed, words) in stored.chunks_exact(block_bytes).zip(blocks) {
            for (word, four) in words.iter_mut().zip(packed[2..].as_chunks::<4>().0) {
                *word = u32::from_le_bytes(*four);
            }
            scales.push([packed[0], packed[1]], words)?;
        }
        Ok(())
    })
}

/// Encodes a matrix and appends it to `out`, which is unchanged on error.
/// Scales are rounded to the nearest f16; a block of zeros gets the scale 0.
///
/// # Errors
/// Errors of [`size`], [`Error::ScaleGranularity`] if weights of one block have different scales, [`Error::ScaleRange`]
/// for a scale out of range of f16.
pub fn encode_into(matrix: &TernaryMatrix, block: usize, out: &mut Vec<u8>) -> Result<()> {
    encode_as(FORMAT, matrix, block, out)
}

/// Like [`encode_into`], for a format of such blocks.
pub(super) fn encode_as(
    format: &'static str,
    matrix: &TernaryMatrix,
    block: usize,
    out: &mut Vec<u8>,
) -> Result<()> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    size_of(format, rows, cols, block)?;
    let block_bytes = block_bytes(format, block)?;
    let room = if block == 64 { "64 weights" } else { "128 weights" };
    shape::append_rows(out, rows, cols / block * block_bytes, &[], |row, stored| {
        let blocks = stored.chunks_exact_mut(block_bytes);
        let words = matrix.row_words(row).chunks_exact(block / CODES_PER_WORD);
        for (index, (stored, words)) in blocks.zip(words).enumerate() {
            let scale = scales::run_scale(format, room, matrix, row, words, index)?;
            stored[..2].copy_from_slice(&scales::f16_scale(format, row, index, scale)?);
            let (fours, _) = stored[2..].as_chunks_mut::<4>();
            for (four, word) in fours.iter_mut().zip(words) {
                *four = word.to_le_bytes();
            }
        }
        Ok(())
    })
}

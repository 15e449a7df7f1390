//! TQ2_0 of ggml: two bits per weight and an f16 scale per 256 weights.
//!
//! ```text
//! block  256 weights -> 66 bytes: qs[64], then d (f16)        value = d * (code - 1)
//! qs     two halves of 32 bytes, each for 128 weights
//!   bits      7 6     5 4     3 2     1 0
//!   byte m:   96+m    64+m    32+m    m
//! ```
//!
//! Source: ggml, `block_tq2_0`. Code 3, twice the scale, is not ternary; no encoder writes it.

use super::{planes, scales, shape};
use crate::Result;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, TernaryMatrix};

/// The format's name.
pub const FORMAT: &str = "TQ2_0";
/// Weights in a block.
pub const BLOCK: usize = 256;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 66;
/// Bytes of codes in a block.
const CODES: usize = 64;

/// Returns the bytes of a stored `[rows, cols]` matrix; columns are a multiple of 256.
///
/// # Errors
/// [`crate::Error::EmptyShape`], [`crate::Error::NotAMultiple`] or [`crate::Error::SizeOverflow`] for an unsupported
/// shape.
pub fn size(rows: usize, cols: usize) -> Result<usize> {
    shape::blocked_size(FORMAT, rows, cols, BLOCK, BLOCK_BYTES)
}

/// Decodes a `[rows, cols]` matrix; equal scales are merged to one per row or tensor.
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
    scales::decode_rows(FORMAT, bytes, size, BLOCK, pool, |stored, words, scales| {
        let blocks = words.chunks_exact_mut(BLOCK / CODES_PER_WORD);
        for (block, words) in stored.chunks_exact(BLOCK_BYTES).zip(blocks) {
            unpack(&block[..CODES], words);
            scales.push([block[CODES], block[CODES + 1]], words)?;
        }
        Ok(())
    })
}

/// The 256 codes of a block, in sixteen words.
fn unpack(packed: &[u8], words: &mut [u32]) {
    let (sixteens, _) = packed.as_chunks::<16>();
    for (halves, words) in sixteens.chunks_exact(2).zip(words.chunks_exact_mut(8)) {
        for (half, bytes) in halves.iter().enumerate() {
            for (plane, word) in planes::gather(bytes).into_iter().enumerate() {
                words[2 * plane + half] = word;
            }
        }
    }
}

/// Encodes a matrix and appends it to `out`, which is unchanged on error.
/// Scales are rounded to the nearest f16; a block of zeros gets the scale 0.
///
/// # Errors
/// Errors of [`size`], [`crate::Error::ScaleGranularity`] if weights of one block have different scales,
/// [`crate::Error::ScaleRange`] for a scale out of range of f16.
pub fn encode_into(matrix: &TernaryMatrix, out: &mut Vec<u8>) -> Result<()> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    size(rows, cols)?;
    shape::only_trits(FORMAT, matrix)?;
    shape::append_rows(out, rows, cols / BLOCK * BLOCK_BYTES, &[], |row, stored| {
        let (blocks, _) = stored.as_chunks_mut::<BLOCK_BYTES>();
        let words = matrix.row_words(row).chunks_exact(BLOCK / CODES_PER_WORD);
        for (index, (block, words)) in blocks.iter_mut().zip(words).enumerate() {
            let scale = scales::run_scale(FORMAT, "256 weights", matrix, row, words, index)?;
            pack(words, &mut block[..CODES]);
            block[CODES..].copy_from_slice(&scales::f16_scale(FORMAT, row, index, scale)?);
        }
        Ok(())
    })
}

/// The code bytes of a block in sixteen words.
fn pack(words: &[u32], packed: &mut [u8]) {
    let (sixteens, _) = packed.as_chunks_mut::<16>();
    for (halves, words) in sixteens.chunks_exact_mut(2).zip(words.chunks_exact(8)) {
        for (half, bytes) in halves.iter_mut().enumerate() {
            *bytes = planes::scatter([0, 1, 2, 3].map(|plane| words[2 * plane + half]));
        }
    }
}

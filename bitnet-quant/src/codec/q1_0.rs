//! Q1_0 of ggml: one bit per weight in order and an f16 scale per 128 weights. No weight is zero.
//!
//! ```text
//! block  128 weights -> 18 bytes: d (f16), then qs[16]        value = bit ? d : -d
//!   bit       7      6      5      4      3      2      1      0
//!   byte i:   8i+7   8i+6   8i+5   8i+4   8i+3   8i+2   8i+1   8i
//! ```
//!
//! Source: ggml, `block_q1_0`. Every byte decodes to trits -1 and +1.

use super::{scales, shape};
use crate::{Error, Result};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, TernaryMatrix};

/// The format's name.
pub const FORMAT: &str = "Q1_0";
/// Weights in a block.
pub const BLOCK: usize = 128;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 18;
/// Bytes of the scale before the bits.
const SCALE: usize = 2;
/// The low bits of sixteen codes, set for the code of zero.
const ZEROS: u32 = 0x5555_5555;

/// Returns the bytes of a stored `[rows, cols]` matrix; columns are a multiple of 128.
///
/// # Errors
/// [`Error::EmptyShape`], [`Error::NotAMultiple`] or [`Error::SizeOverflow`] for an unsupported shape.
pub fn size(rows: usize, cols: usize) -> Result<usize> {
    shape::blocked_size(FORMAT, rows, cols, BLOCK, BLOCK_BYTES)
}

/// Decodes a `[rows, cols]` matrix; equal scales are merged to one per row or tensor.
/// The weights are in `pool`, if any.
///
/// # Errors
/// Errors of [`size`], [`Error::Length`] if `bytes` has another length, [`Error::BadScale`] for a scale that is NaN or
/// infinite.
pub fn decode(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    let size = (rows, cols, size(rows, cols)?);
    scales::decode_rows(FORMAT, bytes, size, BLOCK, pool, |stored, words, scales| {
        let blocks = words.chunks_exact_mut(BLOCK / CODES_PER_WORD);
        for (packed, words) in stored.chunks_exact(BLOCK_BYTES).zip(blocks) {
            for (word, &two) in words.iter_mut().zip(packed[SCALE..].as_chunks::<2>().0) {
                *word = spread(u16::from_le_bytes(two));
            }
            scales.push([packed[0], packed[1]], words)?;
        }
        Ok(())
    })
}

/// Returns the codes of sixteen bits: 2 for a set one, 0 for a clear one.
fn spread(bits: u16) -> u32 {
    let x = u32::from(bits);
    let x = (x | (x << 8)) & 0x00ff_00ff;
    let x = (x | (x << 4)) & 0x0f0f_0f0f;
    let x = (x | (x << 2)) & 0x3333_3333;
    ((x | (x << 1)) & ZEROS) << 1
}

/// Returns the upper bits of sixteen codes, the inverse of [`spread`].
fn close_up(codes: u32) -> u16 {
    let x = (codes >> 1) & ZEROS;
    let x = (x | (x >> 1)) & 0x3333_3333;
    let x = (x | (x >> 2)) & 0x0f0f_0f0f;
    let x = (x | (x >> 4)) & 0x00ff_00ff;
    (x | (x >> 8)) as u16
}

/// Encodes a matrix without zeros and appends it to `out`, which is unchanged on error.
/// Scales are rounded to the nearest f16.
///
/// # Errors
/// Errors of [`size`], [`Error::NotBinary`] for a weight of zero, [`Error::ScaleGranularity`] if weights of one block
/// have different scales, [`Error::ScaleRange`] for a scale out of range of f16.
pub fn encode_into(matrix: &TernaryMatrix, out: &mut Vec<u8>) -> Result<()> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    size(rows, cols)?;
    shape::only_trits(FORMAT, matrix)?;
    shape::append_rows(out, rows, cols / BLOCK * BLOCK_BYTES, &[], |row, stored| {
        let words = &matrix.row_words(row)[..cols / CODES_PER_WORD];
        no_zero(row, words)?;
        let words = words.chunks_exact(BLOCK / CODES_PER_WORD);
        for (index, (stored, words)) in stored.chunks_exact_mut(BLOCK_BYTES).zip(words).enumerate()
        {
            let scale = scales::run_scale(FORMAT, "128 weights", matrix, row, words, index)?;
            stored[..SCALE].copy_from_slice(&scales::f16_scale(FORMAT, row, index, scale)?);
            let (twos, _) = stored[SCALE..].as_chunks_mut::<2>();
            for (two, &word) in twos.iter_mut().zip(words) {
                *two = close_up(word).to_le_bytes();
            }
        }
        Ok(())
    })
}

/// Rejects a row with a weight of zero.
fn no_zero(row: usize, words: &[u32]) -> Result<()> {
    let Some(index) = words.iter().position(|word| word & ZEROS != 0) else { return Ok(()) };
    let within = (words[index] & ZEROS).trailing_zeros() as usize / 2;
    Err(Error::NotBinary { format: FORMAT, row, col: CODES_PER_WORD * index + within })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_codes_are_inverse() {
        for bits in 0..=u16::MAX {
            let codes = spread(bits);
            assert_eq!(close_up(codes), bits);
            for j in 0..16 {
                assert_eq!((codes >> (2 * j)) & 3, 2 * u32::from((bits >> j) & 1), "{bits:#x} {j}");
            }
        }
    }
}

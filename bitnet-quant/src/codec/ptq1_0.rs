//! PTQ1_0 of PrismML's llama.cpp: five weights per byte in base 3 and an f16 scale per 128 weights.
//!
//! ```text
//! block  128 weights -> 28 bytes: qs[24], qh[2], then d (f16)        value = d * (code - 1)
//! byte   as in TQ1_0
//!
//! bytes        weight of byte b, digit n
//! qs[0..16]    n*16 + b               n = 0..5
//! qs[16..24]   80 + n*8 + (b - 16)    n = 0..5
//! qh[0..2]     120 + n*2 + b          n = 0..4, the fifth digit is 0
//! ```
//!
//! Source: PrismML's fork of llama.cpp, type 143. Every byte decodes to trits.

use super::{scales, shape, tq1_0};
use crate::Result;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, TernaryMatrix};

/// The format's name.
pub const FORMAT: &str = "PTQ1_0";
/// Weights in a block.
pub const BLOCK: usize = 128;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 28;
/// Bytes of codes in a block.
const CODES: usize = 26;
/// Words of a block.
const WORDS: usize = BLOCK / CODES_PER_WORD;

/// Returns the bytes of a stored `[rows, cols]` matrix; columns are a multiple of 128.
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
/// Errors of [`size`], [`crate::Error::Length`] if `bytes` has another length, [`crate::Error::BadScale`] for a
/// scale that is NaN or infinite.
pub fn decode(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    let size = (rows, cols, size(rows, cols)?);
    scales::decode_rows(FORMAT, bytes, size, BLOCK, pool, |stored, words, scales| {
        let (blocks, _) = stored.as_chunks::<BLOCK_BYTES>();
        for (block, words) in blocks.iter().zip(words.as_chunks_mut::<WORDS>().0) {
            *words = unpack(block);
            scales.push([block[CODES], block[CODES + 1]], words)?;
        }
        Ok(())
    })
}

/// Returns the 128 codes of a block.
fn unpack(block: &[u8; BLOCK_BYTES]) -> [u32; WORDS] {
    let (mut first, mut rest) = ([0; 16], [0; 16]);
    first.copy_from_slice(&block[..16]);
    rest[..CODES - 16].copy_from_slice(&block[16..CODES]);
    let [a, b, c, d, e] = tq1_0::unpack_sixteen(&first);
    // Of each digit: eight codes from `qs`, two from `qh`.
    let mut last = 0u128;
    for (n, codes) in tq1_0::unpack_sixteen(&rest).into_iter().enumerate() {
        last |= u128::from(codes & 0xffff) << (16 * n);
        if n < 4 {
            last |= u128::from((codes >> 16) & 0xf) << (80 + 4 * n);
        }
    }
    [a, b, c, d, e, last as u32, (last >> 32) as u32, (last >> 64) as u32]
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
        let (words, _) = matrix.row_words(row).as_chunks::<WORDS>();
        for (index, (block, words)) in blocks.iter_mut().zip(words).enumerate() {
            let scale = scales::run_scale(FORMAT, "128 weights", matrix, row, words, index)?;
            block[..CODES].copy_from_slice(&pack(words));
            block[CODES..].copy_from_slice(&scales::f16_scale(FORMAT, row, index, scale)?);
        }
        Ok(())
    })
}

/// Returns the code bytes of a block, the inverse of [`unpack`].
fn pack(&[a, b, c, d, e, last @ ..]: &[u32; WORDS]) -> [u8; CODES] {
    let last = last.iter().rev().fold(0u128, |all, &word| (all << 32) | u128::from(word));
    let mut digits = [0u32; 5];
    for (n, codes) in digits.iter_mut().enumerate() {
        *codes = (last >> (16 * n)) as u32 & 0xffff;
        if n < 4 {
            *codes |= ((last >> (80 + 4 * n)) as u32 & 0xf) << 16;
        }
    }
    let mut packed = [0; CODES];
    packed[..16].copy_from_slice(&tq1_0::pack_sixteen([a, b, c, d, e]));
    packed[16..].copy_from_slice(&tq1_0::pack_sixteen(digits)[..CODES - 16]);
    packed
}

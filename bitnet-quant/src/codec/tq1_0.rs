//! TQ1_0 of ggml: five weights per byte in base 3 and an f16 scale per 256 weights.
//!
//! ```text
//! block  256 weights -> 54 bytes: qs[48], qh[4], then d (f16)        value = d * (code - 1)
//! byte   ceil(q * 256 / 243), q = c0*81 + c1*27 + c2*9 + c3*3 + c4; digit n is ((byte * 3^n mod 256) * 3) >> 8
//!
//! bytes        weight of byte b, digit n
//! qs[0..32]    n*32 + b               n = 0..5
//! qs[32..48]   160 + n*16 + (b - 32)  n = 0..5
//! qh[0..4]     240 + n*4 + b          n = 0..4, the fifth digit is 0
//! ```
//!
//! Source: ggml, `block_tq1_0`. Every byte decodes to trits.

use super::{planes, scales, shape};
use crate::Result;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, TernaryMatrix};

/// The format's name.
pub const FORMAT: &str = "TQ1_0";
/// Weights in a block.
pub const BLOCK: usize = 256;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 54;
/// Bytes of codes in a block.
const CODES: usize = 52;
/// For each sixteen bytes: the first weight, and the distance to the weights of the next digit.
const PLACES: [(usize, usize); 3] = [(0, 2), (1, 2), (10, 1)];
/// Powers of three.
const POW3: [u8; 5] = [1, 3, 9, 27, 81];

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
        let (blocks, _) = words.as_chunks_mut::<{ BLOCK / CODES_PER_WORD }>();
        for (block, words) in stored.chunks_exact(BLOCK_BYTES).zip(blocks) {
            unpack(&block[..CODES], words);
            scales.push([block[CODES], block[CODES + 1]], words)?;
        }
        Ok(())
    })
}

/// Returns the five digits of every byte: the first four in bit pairs from the low end, and the fifth.
const DIGITS: ([u8; 256], [u8; 256]) = {
    let (mut four, mut fifth) = ([0u8; 256], [0u8; 256]);
    let mut byte = 0;
    while byte < 256 {
        let mut n = 0;
        while n < 5 {
            let digit = (((byte * POW3[n] as usize) % 256 * 3) >> 8) as u8;
            if n < 4 {
                four[byte] |= digit << (2 * n);
            } else {
                fifth[byte] = digit;
            }
            n += 1;
        }
        byte += 1;
    }
    (four, fifth)
};

/// Returns the codes of sixteen bytes, one word per digit.
#[inline(always)]
pub(super) fn unpack_sixteen(bytes: &[u8; 16]) -> [u32; 5] {
    let (four, fifth) = (&DIGITS.0, &DIGITS.1);
    let [a, b, c, d] = planes::gather(&bytes.map(|byte| four[usize::from(byte)]));
    [a, b, c, d, planes::gather(&bytes.map(|byte| fifth[usize::from(byte)]))[0]]
}

/// The 256 codes of a block.
fn unpack(packed: &[u8], words: &mut [u32; BLOCK / CODES_PER_WORD]) {
    let four = &DIGITS.0;
    let (sixteens, last) = packed.as_chunks::<16>();
    for (bytes, (first, step)) in sixteens.iter().zip(PLACES) {
        for (n, word) in unpack_sixteen(bytes).into_iter().enumerate() {
            words[first + n * step] = word;
        }
    }
    let last =
        last.iter().rev().fold(0u32, |x, &byte| (x << 8) | u32::from(four[usize::from(byte)]));
    words[15] = planes::transpose_four(last);
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
        let (words, _) = matrix.row_words(row).as_chunks::<{ BLOCK / CODES_PER_WORD }>();
        for (index, (block, words)) in blocks.iter_mut().zip(words).enumerate() {
            let scale = scales::run_scale(FORMAT, "256 weights", matrix, row, words, index)?;
            pack(words, &mut block[..CODES]);
            block[CODES..].copy_from_slice(&scales::f16_scale(FORMAT, row, index, scale)?);
        }
        Ok(())
    })
}

/// Returns the byte of four codes in bit pairs from the low end, the most significant digit first, and a fifth code in
/// bits 8, 9.
const BYTES: [u8; 1024] = {
    let mut bytes = [0u8; 1024];
    let mut codes = 0;
    while codes < 1024 {
        let (mut q, mut n) = (0, 0);
        while n < 5 {
            q = 3 * q + ((codes >> (2 * n)) & 3);
            n += 1;
        }
        // Code 3 has no byte.
        bytes[codes] = if q < 243 { (q * 256).div_ceil(243) as u8 } else { 0 };
        codes += 1;
    }
    bytes
};

/// Returns the sixteen bytes of codes, one word per digit, the inverse of [`unpack_sixteen`].
#[inline(always)]
pub(super) fn pack_sixteen([a, b, c, d, fifth]: [u32; 5]) -> [u8; 16] {
    let mut bytes = planes::scatter([a, b, c, d]);
    for (j, byte) in bytes.iter_mut().enumerate() {
        *byte = BYTES[usize::from(*byte) | (((fifth >> (2 * j)) & 3) as usize) << 8];
    }
    bytes
}

/// Returns the code bytes of a block, the inverse of [`unpack`].
fn pack(words: &[u32; BLOCK / CODES_PER_WORD], packed: &mut [u8]) {
    let (sixteens, last) = packed.as_chunks_mut::<16>();
    for (bytes, (first, step)) in sixteens.iter_mut().zip(PLACES) {
        *bytes = pack_sixteen([0, 1, 2, 3, 4].map(|n| words[first + n * step]));
    }
    let four = planes::transpose_four(words[15]).to_le_bytes();
    for (byte, four) in last.iter_mut().zip(four) {
        *byte = BYTES[usize::from(four)];
    }
}

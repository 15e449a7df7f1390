//! IQ1_BN of ik_llama.cpp: five weights per byte in base 3 and an f16 scale per row.
//!
//! ```text
//! row    d (f16), then blocks        value = d * (code - 1)
//! block  64 weights -> 13 bytes: ql[12], extra
//! byte   ceil(q * 256 / 243), q = c0 + c1*3 + c2*9 + c3*27 + c4*81; digit n is ((byte * 3^(4-n) mod 256) * 3) >> 8
//!
//! bytes         weight of byte b, digit n
//! ql[3g..3g+3]  16g + 5*(b - 3g) + n   g = 0..4, n = 0..5
//! extra         16n + 15               n = 0..4, the fifth digit is 0
//! ```
//!
//! Source: ikawrakow/ik_llama.cpp, `block_iq1_bn` and `quantize_iq1_bn`. Every byte decodes to trits.

use super::{scales, shape};
use crate::Result;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, TernaryMatrix};

/// The format's name.
pub const FORMAT: &str = "IQ1_BN";
/// Weights in a block.
pub const BLOCK: usize = 64;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 13;
/// Bytes before the blocks of a row.
pub const META: usize = 2;
/// Words of a block.
const WORDS: usize = BLOCK / CODES_PER_WORD;

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
/// Errors of [`size`], [`crate::Error::Length`] if `bytes` has another length, [`crate::Error::BadScale`] for a
/// scale that is NaN or infinite.
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
        for (block, words) in blocks.iter().zip(words.as_chunks_mut::<WORDS>().0) {
            *words = unpack(block);
        }
        scales.push([meta[0], meta[1]], words)
    })
}

/// Returns the five digits of every byte in bit pairs, the first in the lowest.
const DIGITS: [u16; 256] = {
    let mut digits = [0u16; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut n, mut power) = (0, 81);
        while n < 5 {
            digits[byte] |= ((((byte * power) % 256 * 3) >> 8) as u16) << (2 * n);
            n += 1;
            power /= 3;
        }
        byte += 1;
    }
    digits
};

/// Returns the byte of five codes in bit pairs; code 3 is invalid.
const BYTES: [u8; 1024] = {
    let mut bytes = [0u8; 1024];
    let mut codes = 0;
    while codes < 1024 {
        let (mut q, mut n) = (0, 5);
        while n > 0 {
            n -= 1;
            q = 3 * q + ((codes >> (2 * n)) & 3);
        }
        bytes[codes] = if q < 243 { (q * 256).div_ceil(243) as u8 } else { 0 };
        codes += 1;
    }
    bytes
};

/// Returns the 64 codes of a block.
fn unpack(block: &[u8; BLOCK_BYTES]) -> [u32; WORDS] {
    let (groups, extra) = (block.as_chunks::<3>().0, DIGITS[usize::from(block[12])]);
    let mut words = [0; WORDS];
    for (g, (word, bytes)) in words.iter_mut().zip(groups).enumerate() {
        let [a, b, c] = bytes.map(|byte| u32::from(DIGITS[usize::from(byte)]));
        *word = a | (b << 10) | (c << 20) | (u32::from((extra >> (2 * g)) & 3) << 30);
    }
    words
}

/// Encodes a matrix and appends it to `out`, which is unchanged on error.
/// Scales are rounded to the nearest f16; a row of zeros gets the scale 0.
///
/// # Errors
/// Errors of [`size`], [`crate::Error::ScaleGranularity`] if weights of one row have different scales,
/// [`crate::Error::ScaleRange`] for a scale out of range of f16.
pub fn encode_into(matrix: &TernaryMatrix, out: &mut Vec<u8>) -> Result<()> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let row_bytes = size(rows, cols)? / rows;
    shape::only_trits(FORMAT, matrix)?;
    shape::append_rows(out, rows, row_bytes, &[], |row, stored| {
        let words = &matrix.row_words(row)[..cols / CODES_PER_WORD];
        let scale = scales::run_scale(FORMAT, "row", matrix, row, words, 0)?;
        let (meta, packed) = stored.split_at_mut(META);
        meta.copy_from_slice(&scales::f16_scale(FORMAT, row, 0, scale)?);
        let blocks = packed.as_chunks_mut::<BLOCK_BYTES>().0;
        for (block, words) in blocks.iter_mut().zip(words.as_chunks::<WORDS>().0) {
            *block = pack(words);
        }
        Ok(())
    })
}

/// Returns the bytes of a block, the inverse of [`unpack`].
fn pack(words: &[u32; WORDS]) -> [u8; BLOCK_BYTES] {
    let byte = |codes: u32| BYTES[codes as usize & 1023];
    let mut block = [0; BLOCK_BYTES];
    let mut extra = 0;
    for (g, (bytes, word)) in block.as_chunks_mut::<3>().0.iter_mut().zip(words).enumerate() {
        *bytes = [byte(*word), byte(word >> 10), byte(word >> 20)];
        extra |= (word >> 30) << (2 * g);
    }
    block[12] = byte(extra);
    block
}

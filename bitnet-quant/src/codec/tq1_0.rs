//! TQ1_0 of ggml: five weights a byte in base 3 and an f16 scale for every 256.
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
use bitnet_core::ternary::{CODES_PER_WORD, TernaryBuilder, TernaryMatrix};

/// The format's name.
pub const FORMAT: &str = "TQ1_0";
/// Weights in a block.
pub const BLOCK: usize = 256;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 54;
/// Bytes of codes in a block.
const CODES: usize = 52;
/// Each run of bytes that share a layout: first byte, bytes, first weight, digits in a byte.
const RUNS: [(usize, usize, usize, usize); 3] = [(0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4)];
/// Powers of three.
const POW3: [u8; 5] = [1, 3, 9, 27, 81];

/// Bytes of a stored `[rows, cols]` matrix; columns are a multiple of 256.
///
/// # Errors
/// [`crate::Error::EmptyShape`], [`crate::Error::NotAMultiple`] or [`crate::Error::SizeOverflow`] for a shape that
/// the format can't hold.
pub fn size(rows: usize, cols: usize) -> Result<usize> {
    shape::blocked_size(FORMAT, rows, cols, BLOCK, BLOCK_BYTES)
}

/// Reads a `[rows, cols]` matrix; scales that are equal collapse to one per row or tensor.
///
/// # Errors
/// Those of [`size`], [`crate::Error::Length`] if `bytes` is not exactly that long, [`crate::Error::BadScale`] for a
/// scale that is NaN or infinite.
pub fn decode(bytes: &[u8], rows: usize, cols: usize) -> Result<TernaryMatrix> {
    decode_in(bytes, rows, cols, None)
}

/// As [`decode`], with the weights in `pool`, if there is one.
///
/// # Errors
/// As [`decode`].
pub fn decode_in(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    shape::exact_len(FORMAT, rows, cols, bytes.len(), size(rows, cols)?)?;
    let mut builder = TernaryBuilder::in_pool(rows, cols, pool)?;
    let mut scales = scales::BlockScales::new(FORMAT, cols, BLOCK);
    let mut words = vec![0u32; cols / CODES_PER_WORD];
    for packed in bytes.chunks_exact(cols / BLOCK * BLOCK_BYTES) {
        let (blocks, _) = words.as_chunks_mut::<{ BLOCK / CODES_PER_WORD }>();
        for (block, words) in packed.chunks_exact(BLOCK_BYTES).zip(blocks) {
            unpack(&block[..CODES], words);
            scales.push([block[CODES], block[CODES + 1]], words)?;
        }
        builder.push_words(&words)?;
    }
    let (granularity, scales) = scales.finish();
    Ok(builder.finish(granularity, scales)?)
}

/// The five digits of every byte: the first four in bit pairs from the bottom, and the fifth.
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

/// The 256 codes of a block.
fn unpack(packed: &[u8], words: &mut [u32; BLOCK / CODES_PER_WORD]) {
    let (four, fifth) = (&DIGITS.0, &DIGITS.1);
    let (sixteens, last) = packed.as_chunks::<16>();
    // Where the words of sixteen bytes begin, and how far those of the next digit are.
    for (bytes, (first, step)) in sixteens.iter().zip([(0, 2), (1, 2), (10, 1)]) {
        let digits = planes::gather(&bytes.map(|byte| four[usize::from(byte)]));
        for (n, word) in digits.into_iter().enumerate() {
            words[first + n * step] = word;
        }
        words[first + 4 * step] = planes::gather(&bytes.map(|byte| fifth[usize::from(byte)]))[0];
    }
    let last =
        last.iter().rev().fold(0u32, |x, &byte| (x << 8) | u32::from(four[usize::from(byte)]));
    words[15] = planes::turn_four(last);
}

/// Writes a matrix. Scales are rounded to the nearest f16; a block of zeros gets the scale 0.
///
/// # Errors
/// Those of [`size`], [`crate::Error::ScaleGranularity`] if weights of one block differ in scale,
/// [`crate::Error::ScaleRange`] for a scale that f16 can't hold.
pub fn encode(matrix: &TernaryMatrix) -> Result<Vec<u8>> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let mut out = shape::buffer(size(rows, cols)?)?;
    let mut trits = vec![0i8; cols];
    for row in 0..rows {
        matrix.unpack_row(row, &mut trits);
        for (block, weights) in trits.chunks_exact(BLOCK).enumerate() {
            let run = block * BLOCK..(block + 1) * BLOCK;
            let scale = scales::run_scale(FORMAT, "256 weights", matrix, row, &trits, run)?;
            out.extend_from_slice(&pack(weights));
            out.extend_from_slice(&scales::f16_scale(FORMAT, row, block, scale)?);
        }
    }
    Ok(out)
}

/// The code bytes of a block of 256 trits.
fn pack(weights: &[i8]) -> [u8; CODES] {
    let mut packed = [0u8; CODES];
    for (byte, bytes, weight, digits) in RUNS {
        for (j, packed) in packed[byte..byte + bytes].iter_mut().enumerate() {
            let value: u16 = (0..digits)
                .map(|n| (weights[weight + n * bytes + j] + 1) as u16 * u16::from(POW3[4 - n]))
                .sum();
            *packed = (value * 256).div_ceil(243) as u8;
        }
    }
    packed
}

//! 3:4-sparse trits in 1.25 bits: exactly one of every four weights is zero. Scales are separate.
//!
//! ```text
//! four weights -> 5 bits:  4 3  place p of the zero
//!                          2..0 signs of the other three in order, the first in bit 2, set for -1
//! 32 weights -> 5 bytes, little-endian: group g in bits 5g..5g+4
//! ```
//!
//! The idea is Sherry's (arXiv 2601.07892), which defines no file format; the bit order is defined here. All 32 codes
//! are valid.

use super::shape;
use crate::{Error, Result};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, ScaleGranularity, TernaryBuilder, TernaryMatrix};

/// The format's name.
pub const FORMAT: &str = "3:4 sparse";
/// Weights in a block.
pub const BLOCK: usize = 32;
/// Bytes of a block.
pub const BLOCK_BYTES: usize = 5;

/// Returns the bytes of the codes of a `[rows, cols]` matrix; columns are a multiple of 32.
///
/// # Errors
/// [`Error::EmptyShape`], [`Error::NotAMultiple`] or [`Error::SizeOverflow`] for an unsupported shape.
pub fn size(rows: usize, cols: usize) -> Result<usize> {
    shape::blocked_size(FORMAT, rows, cols, BLOCK, BLOCK_BYTES)
}

/// The four 2-bit codes of each group, the first in the lowest bits.
const FOURS: [u8; 32] = {
    let mut fours = [0u8; 32];
    let mut group = 0;
    while group < 32 {
        let (mut place, mut sign) = (0, 3);
        while place < 4 {
            let code = if place == group >> 3 {
                1
            } else {
                sign -= 1;
                if (group >> sign) & 1 == 1 { 0 } else { 2 }
            };
            fours[group] |= code << (2 * place);
            place += 1;
        }
        group += 1;
    }
    fours
};

/// The group of four codes; 32 if they do not have exactly one zero.
const GROUPS: [u8; 256] = {
    let mut groups = [32u8; 256];
    let mut group = 0;
    while group < 32 {
        groups[FOURS[group as usize] as usize] = group;
        group += 1;
    }
    groups
};

/// Decodes a `[rows, cols]` matrix with its scales.
/// The weights are in `pool`, if any.
///
/// # Errors
/// Errors of [`size`], [`Error::Length`] if `bytes` has another length, [`Error::Core`] if the scales do not fit.
pub fn decode(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    granularity: ScaleGranularity,
    scales: Vec<f32>,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    let size = size(rows, cols)?;
    shape::exact_len(FORMAT, rows, cols, bytes.len(), size)?;
    let mut builder = TernaryBuilder::in_pool(rows, cols, pool)?;
    let mut words = vec![0u32; cols / CODES_PER_WORD];
    for packed in bytes.chunks_exact(size / rows) {
        let blocks = packed.as_chunks::<BLOCK_BYTES>().0.iter();
        for (&[a, b, c, d, e], words) in blocks.zip(words.as_chunks_mut::<2>().0) {
            let bits = u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]);
            let four = |group: usize| u32::from(FOURS[(bits >> (5 * group)) as usize & 31]);
            for (half, word) in words.iter_mut().enumerate() {
                *word = (0..4).fold(0, |word, g| word | (four(4 * half + g) << (8 * g)));
            }
        }
        builder.push_words(&words)?;
    }
    Ok(builder.finish(granularity, scales)?)
}

/// Encodes the codes of a matrix; the caller stores the scales.
///
/// # Errors
/// Errors of [`size`], [`Error::NotSparse`] for four weights without exactly one zero.
pub fn encode(matrix: &TernaryMatrix) -> Result<Vec<u8>> {
    let size = size(matrix.rows(), matrix.cols())?;
    Ok(shape::encoded(size, |out| encode_into(matrix, out))?.0)
}

/// Like [`encode`], appended to `out`, which is unchanged on error.
///
/// # Errors
/// Same as [`encode`].
pub fn encode_into(matrix: &TernaryMatrix, out: &mut Vec<u8>) -> Result<()> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let row_bytes = size(rows, cols)? / rows;
    shape::only_trits(FORMAT, matrix)?;
    shape::append_rows(out, rows, row_bytes, &[], |row, packed| {
        let words = &matrix.row_words(row)[..cols / CODES_PER_WORD];
        let mut wrong = 0;
        let blocks = packed.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut();
        for (block, words) in blocks.zip(words.as_chunks::<2>().0) {
            let both = u64::from(words[0]) | (u64::from(words[1]) << 32);
            let mut bits = 0;
            for (g, four) in both.to_le_bytes().into_iter().enumerate() {
                let group = GROUPS[usize::from(four)];
                wrong |= group;
                bits |= u64::from(group & 31) << (5 * g);
            }
            block.copy_from_slice(&bits.to_le_bytes()[..BLOCK_BYTES]);
        }
        if wrong < 32 { Ok(()) } else { Err(not_sparse(row, words)) }
    })
}

/// Returns the first group of four weights of a row without exactly one zero.
fn not_sparse(row: usize, words: &[u32]) -> Error {
    let fours = words.iter().flat_map(|word| word.to_le_bytes());
    let (index, four) =
        fours.enumerate().find(|(_, four)| GROUPS[usize::from(*four)] == 32).unwrap_or_default();
    let zeros = (0..4).filter(|place| (four >> (2 * place)) & 3 == 1).count();
    Error::NotSparse { format: FORMAT, row, col: 4 * index, zeros }
}

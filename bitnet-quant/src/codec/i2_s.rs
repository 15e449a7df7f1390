//! I2_S of bitnet.cpp: two bits per weight and one f32 scale per tensor.
//!
//! ```text
//! codes  rows * cols / 4 bytes, no row padding       code = trit + 1; 3 reads as 0
//! scale  f32, little-endian, at byte rows * cols / 4
//! pad    28 bytes: zeros, garbage or copies of the scale
//!
//! canonical: 128 weights -> 32 bytes       arm64: 64 weights -> 16 bytes
//!   bits  7 6   5 4   3 2   1 0               7 6   5 4   3 2   1 0
//!   byte p: p   32+p  64+p  96+p         byte p: p  16+p  32+p  48+p
//! x4: four rows a byte, cols bytes for rows r..r+4
//!   byte k: [r][k] [r+1][k] [r+2][k] [r+3][k], from the top bits down
//! ```
//!
//! Source: microsoft/BitNet, `src/ggml-bitnet-mad.cpp`. Files do not state their layout; published files are
//! canonical.

use super::{planes, scales, shape};
use crate::{Error, Result};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, ScaleGranularity, TernaryBuilder, TernaryMatrix};
use std::str::FromStr;

/// The format's name.
pub const FORMAT: &str = "I2_S";
/// Bytes after the codes: the scale and its padding.
const TAIL: usize = 32;

/// The byte layout of I2_S.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum I2sLayout {
    /// 128 weights in 32 bytes: published files, x86 builds, converters. Columns are a multiple of 128.
    #[default]
    X86,
    /// 64 weights in 16 bytes: ARM builds since 2025-11. Columns are a multiple of 64.
    Arm64,
    /// Four rows a byte: builds without `ACT_PARALLEL`. Rows are a multiple of 4.
    X4,
}

impl I2sLayout {
    /// Returns the name that [`FromStr`] parses: `canonical`, `arm64` or `x4`.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86 => "canonical",
            Self::Arm64 => "arm64",
            Self::X4 => "x4",
        }
    }

    /// Returns the bytes of a block, each with four weights of a row; `None` if a byte holds four rows.
    fn block_bytes(self) -> Option<usize> {
        match self {
            Self::X86 => Some(32),
            Self::Arm64 => Some(16),
            Self::X4 => None,
        }
    }
}

impl FromStr for I2sLayout {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::X86, Self::Arm64, Self::X4]
            .into_iter()
            .find(|layout| layout.name() == name)
            .ok_or_else(|| Error::UnknownLayout { name: name.to_owned() })
    }
}

/// Returns the bytes of a stored `[rows, cols]` matrix: `rows * cols / 4 + 32`.
///
/// # Errors
/// [`Error::EmptyShape`], [`Error::NotAMultiple`] or [`Error::SizeOverflow`] for an unsupported shape.
pub fn size(rows: usize, cols: usize, layout: I2sLayout) -> Result<usize> {
    let codes = match layout.block_bytes() {
        Some(block) => shape::blocked_size(FORMAT, rows, cols, 4 * block, block)?,
        None => {
            shape::not_empty(FORMAT, rows, cols)?;
            shape::multiple(FORMAT, "rows", rows, 4)?;
            shape::blocked_size(FORMAT, rows / 4, cols, 1, 1)?
        }
    };
    codes.checked_add(TAIL).ok_or(Error::SizeOverflow { format: FORMAT, rows, cols })
}

/// Decodes a `[rows, cols]` matrix with one scale.
/// The weights are in `pool`, if any.
///
/// # Errors
/// Errors of [`size`], [`Error::Length`] if `bytes` has another length, [`Error::BadScale`] for a scale that is
/// NaN or infinite.
pub fn decode(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    layout: I2sLayout,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    let size = size(rows, cols, layout)?;
    shape::exact_len(FORMAT, rows, cols, bytes.len(), size)?;
    let (codes, tail) = bytes.split_at(size - TAIL);
    let scale = f32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    if !scale.is_finite() {
        return Err(Error::BadScale { format: FORMAT, row: 0, block: 0, value: scale });
    }
    let mut builder = TernaryBuilder::in_pool(rows, cols, pool)?;
    let width = cols.div_ceil(CODES_PER_WORD);
    match layout.block_bytes() {
        Some(block) => {
            let mut words = vec![0u32; width];
            for packed in codes.chunks_exact(cols / 4) {
                let (sixteens, _) = packed.as_chunks::<16>();
                let halves = block / 16;
                for (bytes, words) in
                    sixteens.chunks_exact(halves).zip(words.chunks_exact_mut(4 * halves))
                {
                    for (half, bytes) in bytes.iter().enumerate() {
                        for (plane, word) in planes::gather(bytes).into_iter().rev().enumerate() {
                            words[plane * halves + half] = only_trits(word);
                        }
                    }
                }
                builder.push_words(&words)?;
            }
        }
        None => {
            let mut four = [0; 4].map(|_| vec![0u32; width]);
            for packed in codes.chunks_exact(cols) {
                let [a, b, c, d] = &mut four;
                planes::gather_rows(packed, [d, c, b, a], only_trits);
                for words in &four {
                    builder.push_words(words)?;
                }
            }
        }
    }
    Ok(builder.finish(ScaleGranularity::Tensor, vec![scale])?)
}

/// Replaces code 3 by 1 in sixteen codes.
#[inline]
fn only_trits(word: u32) -> u32 {
    word & !((word << 1) & word & 0xaaaa_aaaa)
}

/// Encodes a matrix; the padding after the scale is zero.
///
/// # Errors
/// Errors of [`size`], [`Error::ScaleGranularity`] if the weights have different scales.
pub fn encode(matrix: &TernaryMatrix, layout: I2sLayout) -> Result<Vec<u8>> {
    let size = size(matrix.rows(), matrix.cols(), layout)?;
    Ok(shape::encoded(size, |out| encode_into(matrix, layout, out))?.0)
}

/// Like [`encode`], appended to `out`, which is unchanged on error.
///
/// # Errors
/// Same as [`encode`].
pub fn encode_into(matrix: &TernaryMatrix, layout: I2sLayout, out: &mut Vec<u8>) -> Result<()> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    size(rows, cols, layout)?;
    shape::only_trits(FORMAT, matrix)?;
    let mut tail = [0; TAIL];
    tail[..4].copy_from_slice(&scales::tensor_scale(FORMAT, matrix)?.to_le_bytes());
    match layout.block_bytes() {
        Some(block) => shape::append_rows(out, rows, cols / 4, &tail, |row, packed| {
            pack_blocks(matrix.row_words(row), block / 16, packed);
            Ok(())
        }),
        None => shape::append_rows(out, rows / 4, cols, &tail, |four, packed| {
            let row = |plane: usize| matrix.row_words(4 * four + plane);
            planes::scatter_rows([row(3), row(2), row(1), row(0)], packed);
            Ok(())
        }),
    }
}

/// Encodes a row in blocks of `16 * halves` bytes, the first plane in the top bits.
fn pack_blocks(words: &[u32], halves: usize, packed: &mut [u8]) {
    let blocks = packed.as_chunks_mut::<16>().0.chunks_exact_mut(halves);
    for (bytes, words) in blocks.zip(words.chunks_exact(4 * halves)) {
        for (half, bytes) in bytes.iter_mut().enumerate() {
            let plane = |n: usize| words[n * halves + half];
            *bytes = planes::scatter([plane(3), plane(2), plane(1), plane(0)]);
        }
    }
}

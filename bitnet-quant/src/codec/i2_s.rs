//! I2_S of bitnet.cpp: two bits a weight and one f32 scale for the tensor.
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
//! Source: microsoft/BitNet, `src/ggml-bitnet-mad.cpp`. Nothing in a file says which layout it has; published files
//! are canonical.

use super::{planes, scales, shape};
use crate::{Error, Result};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, ScaleGranularity, TernaryBuilder, TernaryMatrix};
use std::str::FromStr;

/// The format's name.
pub const FORMAT: &str = "I2_S";
/// Bytes after the codes: the scale and its padding.
const TAIL: usize = 32;

/// Which of the three layouts that share the name I2_S.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum I2sLayout {
    /// 128 weights in 32 bytes: published files, x86 builds, converters. Columns are a multiple of 128.
    #[default]
    X86,
    /// 64 weights in 16 bytes: what ARM builds have written since 2025-11. Columns are a multiple of 64.
    Arm64,
    /// Four rows a byte: builds without `ACT_PARALLEL`. Rows are a multiple of 4.
    X4,
}

impl I2sLayout {
    /// The name that [`FromStr`] reads: `canonical`, `arm64` or `x4`.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86 => "canonical",
            Self::Arm64 => "arm64",
            Self::X4 => "x4",
        }
    }

    /// Bytes of a block, each with four weights; `None` where a byte holds four rows.
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

/// Bytes of a stored `[rows, cols]` matrix: `rows * cols / 4 + 32`.
///
/// # Errors
/// [`Error::EmptyShape`], [`Error::NotAMultiple`] or [`Error::SizeOverflow`] for a shape that the layout can't hold.
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

/// Reads a `[rows, cols]` matrix with one scale.
///
/// # Errors
/// Those of [`size`], [`Error::Length`] if `bytes` is not exactly that long, [`Error::BadScale`] for a scale that is
/// NaN or infinite.
pub fn decode(bytes: &[u8], rows: usize, cols: usize, layout: I2sLayout) -> Result<TernaryMatrix> {
    decode_in(bytes, rows, cols, layout, None)
}

/// As [`decode`], with the weights in `pool`, if there is one.
///
/// # Errors
/// As [`decode`].
pub fn decode_in(
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
            let mut four = vec![0u32; 4 * width];
            for packed in codes.chunks_exact(cols) {
                for (k, bytes) in packed.chunks(16).enumerate() {
                    let mut sixteen = [0; 16];
                    sixteen[..bytes.len()].copy_from_slice(bytes);
                    for (plane, word) in planes::gather(&sixteen).into_iter().rev().enumerate() {
                        four[plane * width + k] = only_trits(word);
                    }
                }
                for words in four.chunks_exact(width) {
                    builder.push_words(words)?;
                }
            }
        }
    }
    Ok(builder.finish(ScaleGranularity::Tensor, vec![scale])?)
}

/// Sixteen codes, of which 3 becomes 1.
#[inline]
fn only_trits(word: u32) -> u32 {
    word & !((word << 1) & word & 0xaaaa_aaaa)
}

/// Writes a matrix; the padding after the scale is zero.
///
/// # Errors
/// Those of [`size`], [`Error::ScaleGranularity`] if the weights do not share one scale.
pub fn encode(matrix: &TernaryMatrix, layout: I2sLayout) -> Result<Vec<u8>> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let size = size(rows, cols, layout)?;
    let scale = scales::tensor_scale(FORMAT, matrix)?;
    let mut out = shape::buffer(size)?;
    out.resize(size, 0);
    let (codes, tail) = out.split_at_mut(size - TAIL);
    tail[..4].copy_from_slice(&scale.to_le_bytes());
    let mut trits = vec![0i8; cols];
    match layout.block_bytes() {
        Some(block) => {
            for (row, packed) in codes.chunks_exact_mut(cols / 4).enumerate() {
                matrix.unpack_row(row, &mut trits);
                for (packed, trits) in
                    packed.chunks_exact_mut(block).zip(trits.chunks_exact(4 * block))
                {
                    for (plane, trits) in trits.chunks_exact(block).enumerate() {
                        pack_plane(trits, plane, packed);
                    }
                }
            }
        }
        None => {
            for (four, packed) in codes.chunks_exact_mut(cols).enumerate() {
                for plane in 0..4 {
                    matrix.unpack_row(4 * four + plane, &mut trits);
                    pack_plane(&trits, plane, packed);
                }
            }
        }
    }
    Ok(out)
}

/// Sets the bit pair `plane`, counted from the top, of each byte.
fn pack_plane(trits: &[i8], plane: usize, packed: &mut [u8]) {
    let shift = 6 - 2 * plane;
    for (byte, &trit) in packed.iter_mut().zip(trits) {
        *byte |= ((trit + 1) as u8) << shift;
    }
}

//! TL1 of bitnet.cpp: two weights per nibble, tiled for a kernel on Arm. The scale is separate.
//!
//! ```text
//! nibble  3 * c0 + c1 for two adjacent weights with the codes c0, c1; 9..15 are undefined
//! byte    the nibbles of four neighbouring weights, the first two in bits 7..4
//! order   bytes of [rows / bm] [cols / bk] [bm / bmm] [bk / by] [bmm / 16] [by / 4] [16 rows], by = 256 / bmm
//! ```
//!
//! The tile sizes `bm`, `bk` and `bmm` come from the `kernel_config.ini` of a build; files do not store them. In a GGUF
//! file 32 unused bytes follow, and the scale is the tensor `<name>_scale`. Source: microsoft/BitNet,
//! `convert-hf-to-gguf-bitnet.py`, `preprocess_weights_tl1`.

use super::{scales, shape};
use crate::{Error, Result};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{ScaleGranularity, TernaryBuilder, TernaryMatrix};

/// The format's name.
pub const FORMAT: &str = "TL1";

/// Tile sizes, by their names in `kernel_config.ini`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tiles {
    /// Rows of a tile.
    pub bm: usize,
    /// Columns of a tile.
    pub bk: usize,
    /// Rows of a strip of the tile.
    pub bmm: usize,
}

impl Tiles {
    /// Returns the columns of a strip.
    fn by(self) -> usize {
        256 / self.bmm
    }

    fn check(self) -> Result<()> {
        let problem = if !matches!(self.bmm, 32 | 64) {
            "bmm is not 32 or 64"
        } else if self.bm == 0 || !self.bm.is_multiple_of(self.bmm) {
            "bm is not a multiple of bmm"
        } else if self.bk == 0 || !self.bk.is_multiple_of(self.by()) {
            "bk is not a multiple of 256 / bmm"
        } else {
            return Ok(());
        };
        Err(Error::BadTiles { format: FORMAT, problem })
    }

    /// Iterates over the row and the first of four columns of each byte of `bm` rows, in byte order.
    fn places(self, cols: usize) -> impl Iterator<Item = (usize, usize)> {
        let (strips, steps, parts) = (self.bm / self.bmm, self.bk / self.by(), self.bmm / 16);
        let quads = self.by() / 4;
        (0..self.bm * cols / 4).map(move |byte| {
            let (rest, lane) = (byte / 16, byte % 16);
            let (rest, quad) = (rest / quads, rest % quads);
            let (rest, part) = (rest / parts, rest % parts);
            let (rest, step) = (rest / steps, rest % steps);
            let (tile, strip) = (rest / strips, rest % strips);
            let row = strip * self.bmm + part * 16 + lane;
            (row, tile * self.bk + step * self.by() + 4 * quad)
        })
    }
}

/// Returns the bytes of the codes of a `[rows, cols]` matrix, two bits a weight.
///
/// # Errors
/// [`Error::BadTiles`] for invalid tile sizes, [`Error::EmptyShape`], [`Error::NotAMultiple`] or
/// [`Error::SizeOverflow`] for a shape that they do not divide.
pub fn size(rows: usize, cols: usize, tiles: Tiles) -> Result<usize> {
    tiles.check()?;
    shape::not_empty(FORMAT, rows, cols)?;
    shape::multiple(FORMAT, "rows", rows, tiles.bm)?;
    shape::multiple(FORMAT, "columns", cols, tiles.bk)?;
    shape::blocked_size(FORMAT, rows, cols, 4, 1)
}

/// Decodes a `[rows, cols]` matrix whose weights are `scale * trit`.
/// The weights are in `pool`, if any.
///
/// # Errors
/// Errors of [`size`], [`Error::Length`] if `bytes` has another length, [`Error::UnknownCode`] for a nibble above 8,
/// [`Error::BadScale`] for a scale that is NaN or infinite.
pub fn decode(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    tiles: Tiles,
    scale: f32,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    let size = size(rows, cols, tiles)?;
    shape::exact_len(FORMAT, rows, cols, bytes.len(), size)?;
    if !scale.is_finite() {
        return Err(Error::BadScale { format: FORMAT, row: 0, block: 0, value: scale });
    }
    let mut builder = TernaryBuilder::in_pool(rows, cols, pool)?;
    let mut codes = vec![0u8; tiles.bm * cols];
    for (slab, packed) in bytes.chunks_exact(tiles.bm * cols / 4).enumerate() {
        for (&byte, (row, col)) in packed.iter().zip(tiles.places(cols)) {
            let (first, second) = (byte >> 4, byte & 15);
            if first > 8 || second > 8 {
                let (code, col) = if first > 8 { (first, col) } else { (second, col + 2) };
                let row = slab * tiles.bm + row;
                return Err(Error::UnknownCode { format: FORMAT, row, col, code });
            }
            codes[row * cols + col..][..4].copy_from_slice(&[
                first / 3,
                first % 3,
                second / 3,
                second % 3,
            ]);
        }
        for codes in codes.chunks_exact(cols) {
            builder.push_row(codes)?;
        }
    }
    Ok(builder.finish(ScaleGranularity::Tensor, vec![scale])?)
}

/// Encodes the codes of a matrix and returns them with its one scale.
///
/// # Errors
/// Errors of [`size`], [`Error::ScaleGranularity`] if the weights have different scales.
pub fn encode(matrix: &TernaryMatrix, tiles: Tiles) -> Result<(Vec<u8>, f32)> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let mut out = shape::buffer(size(rows, cols, tiles)?)?;
    shape::only_trits(FORMAT, matrix)?;
    let scale = scales::tensor_scale(FORMAT, matrix)?;
    let mut trits = vec![0i8; tiles.bm * cols];
    for slab in (0..rows).step_by(tiles.bm) {
        for (row, trits) in trits.chunks_exact_mut(cols).enumerate() {
            matrix.unpack_row(slab + row, trits);
        }
        out.extend(tiles.places(cols).map(|(row, col)| {
            let four = &trits[row * cols + col..][..4];
            let nibble = |two: &[i8]| (3 * two[0] + two[1] + 4) as u8;
            (nibble(&four[..2]) << 4) | nibble(&four[2..])
        }));
    }
    Ok((out, scale))
}

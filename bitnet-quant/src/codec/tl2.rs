//! TL2 of bitnet.cpp: three weights in five bits, tiled for a kernel on x86. The scale is separate.
//!
//! ```text
//! v        9 * t0 + 3 * t1 + t2 for three neighbouring trits, -13..13
//! columns  the first cols - cols % bk are stored by threes, the others by twos
//! 1. |v|   a byte for six adjacent weights, the first three in bits 7..4; 14, 15 are undefined
//!          order [rows / bm] [cols / bk] [bm / 32] [bk / 6] [32 rows]
//! 2. v < 0 a bit for three weights, 16-bit words, little-endian; bit 15 - 2t of word j: the t-th three of row j,
//!          bit 14 - 2t: that of row 16 + j; order [rows / bm] [cols / bk] [bm / 32] [bk / 24] [16 words]
//! 3. twos  a byte for four adjacent weights, 3 * t0 + t1 + 4 of the first two in bits 7..4; 9..15 are undefined
//!          order [rows / bm] [columns / 32] [bm / 32] [8] [32 rows]
//! rows     of 32, in parts 1 and 3: 0..8, 16..24, 8..16, 24..32
//! ```
//!
//! The tile sizes come from the `kernel_config.ini` of a build; files do not store them. GGUF files pad the tensor
//! further, and the scale is the tensor `<name>_scale`. Source: microsoft/BitNet, `convert-hf-to-gguf-bitnet.py`,
//! `preprocess_weights_tl2`, which supports only `bmm` = 32.

use super::{scales, shape};
use crate::{Error, Result};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{ScaleGranularity, TernaryBuilder, TernaryMatrix};
use std::ops::Range;

/// The format's name.
pub const FORMAT: &str = "TL2";
/// Rows of a strip: `bmm`.
const STRIP: usize = 32;
/// Columns of a tile of twos.
const TWOS: usize = 32;

/// Tile sizes, by their names in `kernel_config.ini`; `bmm` is 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tiles {
    /// Rows of a tile, a multiple of 32.
    pub bm: usize,
    /// Columns of a tile, a multiple of 24.
    pub bk: usize,
}

/// The parts of a stored matrix.
#[derive(Debug, Clone, Copy)]
struct Parts {
    tiles: Tiles,
    cols: usize,
    /// Columns stored in threes.
    threes: usize,
    /// Bytes of each part.
    bytes: [usize; 3],
}

impl Parts {
    fn new(rows: usize, cols: usize, tiles: Tiles) -> Result<Self> {
        let bad = |problem| Err(Error::BadTiles { format: FORMAT, problem });
        if tiles.bm == 0 || !tiles.bm.is_multiple_of(STRIP) {
            return bad("bm is not a multiple of 32");
        }
        if tiles.bk == 0 || !tiles.bk.is_multiple_of(24) {
            return bad("bk is not a multiple of 24");
        }
        shape::not_empty(FORMAT, rows, cols)?;
        shape::multiple(FORMAT, "rows", rows, tiles.bm)?;
        let twos = cols % tiles.bk;
        shape::multiple(FORMAT, "columns after those of whole tiles", twos, TWOS)?;
        // At most the number of weights, which fits.
        shape::blocked_size(FORMAT, rows, cols, 1, 1)?;
        let threes = cols - twos;
        let bytes = [rows * (threes / 6), rows * (threes / 24), rows * (twos / 4)];
        Ok(Self { tiles, cols, threes, bytes })
    }

    fn size(&self) -> usize {
        self.bytes.iter().sum()
    }

    /// Returns the bytes of `bm` rows in part `part`.
    fn slab(&self, part: usize, slab: usize, rows: usize) -> Range<usize> {
        let before: usize = self.bytes[..part].iter().sum();
        let len = self.bytes[part] / (rows / self.tiles.bm);
        before + slab * len..before + (slab + 1) * len
    }

    /// Iterates over the row and the first column of each unit in `bm` rows whose
    /// tiles have `tile` columns in steps of `step`.
    fn places(
        &self,
        cols: Range<usize>,
        tile: usize,
        step: usize,
        lanes: usize,
    ) -> impl Iterator<Item = (usize, usize)> {
        let (strips, steps) = (self.tiles.bm / STRIP, tile / step);
        (0..self.tiles.bm / STRIP * lanes * (cols.len() / step)).map(move |place| {
            let (rest, lane) = (place / lanes, place % lanes);
            let (rest, at) = (rest / steps, rest % steps);
            let (column, strip) = (rest / strips, rest % strips);
            (strip * STRIP + lane, cols.start + column * tile + at * step)
        })
    }

    /// Part 1: the row and the first of six columns of each byte.
    fn magnitudes(&self) -> impl Iterator<Item = (usize, usize)> {
        self.places(0..self.threes, self.tiles.bk, 6, STRIP).map(swapped)
    }

    /// Part 2: the first row and the first of 24 columns of each word.
    fn signs(&self) -> impl Iterator<Item = (usize, usize)> {
        self.places(0..self.threes, self.tiles.bk, 24, STRIP / 2)
    }

    /// Part 3: the row and the first of four columns of each byte.
    fn twos(&self) -> impl Iterator<Item = (usize, usize)> {
        self.places(self.threes..self.cols, TWOS, 4, STRIP).map(swapped)
    }
}

/// Swaps the second and the third eight of 32 rows.
fn swapped((row, col): (usize, usize)) -> (usize, usize) {
    let eight = row / 8 % 4;
    let row = if matches!(eight, 1 | 2) { row - 8 * eight + 8 * (3 - eight) } else { row };
    (row, col)
}

/// Returns the bytes of the codes of a `[rows, cols]` matrix, without the padding of a GGUF file.
///
/// # Errors
/// [`Error::BadTiles`] for invalid tile sizes, [`Error::EmptyShape`], [`Error::NotAMultiple`] or
/// [`Error::SizeOverflow`] for a shape that they do not divide.
pub fn size(rows: usize, cols: usize, tiles: Tiles) -> Result<usize> {
    Ok(Parts::new(rows, cols, tiles)?.size())
}

/// Decodes a `[rows, cols]` matrix whose weights are `scale * trit`.
/// The weights are in `pool`, if any.
///
/// # Errors
/// Errors of [`size`], [`Error::Length`] if `bytes` has another length, [`Error::UnknownCode`] for an undefined nibble,
/// [`Error::BadScale`] for a scale that is NaN or infinite.
pub fn decode(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    tiles: Tiles,
    scale: f32,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    let parts = Parts::new(rows, cols, tiles)?;
    shape::exact_len(FORMAT, rows, cols, bytes.len(), parts.size())?;
    if !scale.is_finite() {
        return Err(Error::BadScale { format: FORMAT, row: 0, block: 0, value: scale });
    }
    let mut builder = TernaryBuilder::in_pool(rows, cols, pool)?;
    let mut codes = vec![0u8; tiles.bm * cols];
    for slab in 0..rows / tiles.bm {
        let part = |part: usize| &bytes[parts.slab(part, slab, rows)];
        let unknown = |row: usize, col: usize, code: u8| {
            let row = slab * tiles.bm + row;
            Err(Error::UnknownCode { format: FORMAT, row, col, code })
        };
        for (&byte, (row, col)) in part(0).iter().zip(parts.magnitudes()) {
            for (nibble, col) in [(byte >> 4, col), (byte & 15, col + 3)] {
                if nibble > 13 {
                    return unknown(row, col, nibble);
                }
                let v = nibble + 13;
                codes[row * cols + col..][..3].copy_from_slice(&[v / 9, v / 3 % 3, v % 3]);
            }
        }
        for (word, (row, col)) in part(1).as_chunks::<2>().0.iter().zip(parts.signs()) {
            let word = u16::from_le_bytes(*word);
            for bit in (0..16).filter(|bit| (word >> (15 - bit)) & 1 == 1) {
                let (row, col) = (row + bit % 2 * 16, col + bit / 2 * 3);
                codes[row * cols + col..][..3].iter_mut().for_each(|code| *code = 2 - *code);
            }
        }
        for (&byte, (row, col)) in part(2).iter().zip(parts.twos()) {
            for (nibble, col) in [(byte >> 4, col), (byte & 15, col + 2)] {
                if nibble > 8 {
                    return unknown(row, col, nibble);
                }
                codes[row * cols + col..][..2].copy_from_slice(&[nibble / 3, nibble % 3]);
            }
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
    let parts = Parts::new(rows, cols, tiles)?;
    shape::only_trits(FORMAT, matrix)?;
    let scale = scales::tensor_scale(FORMAT, matrix)?;
    let mut out = shape::buffer(parts.size())?;
    out.resize(parts.size(), 0);
    let mut trits = vec![0i8; tiles.bm * cols];
    for slab in 0..rows / tiles.bm {
        for (row, trits) in trits.chunks_exact_mut(cols).enumerate() {
            matrix.unpack_row(slab * tiles.bm + row, trits);
        }
        let three = |row: usize, col: usize| {
            let t = &trits[row * cols + col..][..3];
            9 * t[0] + 3 * t[1] + t[2]
        };
        let two = |row: usize, col: usize| {
            let t = &trits[row * cols + col..][..2];
            (3 * t[0] + t[1] + 4) as u8
        };
        for (byte, (row, col)) in out[parts.slab(0, slab, rows)].iter_mut().zip(parts.magnitudes())
        {
            *byte = (three(row, col).unsigned_abs() << 4) | three(row, col + 3).unsigned_abs();
        }
        let signs = out[parts.slab(1, slab, rows)].as_chunks_mut::<2>().0;
        for (word, (row, col)) in signs.iter_mut().zip(parts.signs()) {
            let negative = |bit: usize| three(row + bit % 2 * 16, col + bit / 2 * 3) < 0;
            let bits = (0..16).fold(0, |bits, bit| (bits << 1) | u16::from(negative(bit)));
            *word = bits.to_le_bytes();
        }
        for (byte, (row, col)) in out[parts.slab(2, slab, rows)].iter_mut().zip(parts.twos()) {
            *byte = (two(row, col) << 4) | two(row, col + 2);
        }
    }
    Ok((out, scale))
}

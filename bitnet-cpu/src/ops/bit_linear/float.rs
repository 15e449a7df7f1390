//! Ternary weights times f32 activations: weight-only quantisation.
//!
//! A row (or group) is summed in 16 lanes, which are then added in pairs; groups are added in f64. With `n` elements
//! in a row or group the result lies within `(n / 16 + 8) · 2⁻²⁴ · Σ |trit·x| · scale` of the exact one.

use std::ops::Range;

use super::weight::{CpuMatrix, row_scales};
use super::{Part, Share};
use crate::activations::{FLOAT_BLOCK, TILE, float_width, tiles};
use crate::isa::{CodeBlock, FloatBlock, HalfCodeBlock, Isa, Op};
use crate::ops::dot::fold;
use crate::ops::pieces::pieces;
use bitnet_core::ternary::{ROW_BLOCK, ScaleGranularity};

/// Rows that pass over a tile of tokens before the next tile is taken.
const ROWS: usize = 32;

/// Rows that are summed together, so that their sums do not wait for one another.
const TOGETHER: usize = 4;

/// `Σ trit · x` of `T` tokens with `R` rows over some blocks, as many of each row.
#[inline(always)]
fn block_sums<I: Isa, const T: usize, const R: usize>(
    isa: I,
    rows: [&[HalfCodeBlock]; R],
    x: &[[FloatBlock; T]],
) -> [[f32; T]; R] {
    let mut lanes = [[isa.splat(0.0); T]; R];
    let mut rows = rows;
    for codes in &mut rows {
        *codes = &codes[..x.len()];
    }
    for (block, x) in x.iter().enumerate() {
        for (lanes, codes) in lanes.iter_mut().zip(&rows) {
            for (plane, trits) in isa.trits(&codes[block]).into_iter().enumerate() {
                for (lanes, x) in lanes.iter_mut().zip(x) {
                    *lanes = isa.mul_add(trits, isa.load(&x.0[plane]), *lanes);
                }
            }
        }
    }
    let mut sums = [[0f32; T]; R];
    for (sum, lanes) in sums.as_flattened_mut().iter_mut().zip(lanes.as_flattened()) {
        *sum = fold(&isa.store(*lanes));
    }
    sums
}

/// `Σ trit · scale · x` of `T` tokens with `R` rows from `row` on, whose codes are `codes`.
#[inline(always)]
fn row_sums<I: Isa, const T: usize, const R: usize>(
    isa: I,
    weight: &CpuMatrix,
    row: usize,
    codes: &[CodeBlock],
    x: &[[FloatBlock; T]],
) -> [[f64; T]; R] {
    let codes: &[HalfCodeBlock] = codes.as_flattened().as_chunks().0;
    let width = codes.len() / R;
    let blocks = match weight.granularity() {
        ScaleGranularity::Tensor | ScaleGranularity::Row => width.max(1),
        ScaleGranularity::Group(n) => n / FLOAT_BLOCK,
    };
    let mut scales: [&[f32]; R] = [&[]; R];
    for (index, scales) in scales.iter_mut().enumerate() {
        *scales = row_scales(weight, row + index);
    }
    let mut sums = [[0f64; T]; R];
    // The padding of the last block has no scale, and needs none.
    for (group, x) in x.chunks(blocks).enumerate().take(scales[0].len()) {
        let mut rows: [&[HalfCodeBlock]; R] = [&[]; R];
        for (index, row) in rows.iter_mut().enumerate() {
            *row = &codes[index * width + group * blocks..][..x.len()];
        }
        let groups = block_sums::<I, T, R>(isa, rows, x);
        for ((sums, groups), scales) in sums.iter_mut().zip(groups).zip(&scales) {
            for (sum, dot) in sums.iter_mut().zip(groups) {
                *sum += f64::from(dot) * f64::from(scales[group]);
            }
        }
    }
    sums
}

/// The kernel of [`super::bit_linear`] on f32 activations.
pub(super) struct Float<'a> {
    pub(super) x: &'a [FloatBlock],
    pub(super) tokens: usize,
    pub(super) parts: Share<'a>,
}

impl Float<'_> {
    /// Some rows, whose codes are `codes`, with a tile of tokens: `R` rows at a time.
    #[inline(always)]
    fn tile<I: Isa, const T: usize, const R: usize>(
        isa: I,
        x: &[FloatBlock],
        part: &mut Part<'_>,
        tile: Range<usize>,
        rows: Range<usize>,
        codes: &[CodeBlock],
    ) {
        let width = float_width(part.weight.cols());
        let (x, _) = x[tile.start * width..tile.end * width].as_chunks::<T>();
        let row_blocks = part.weight.padded_cols() / ROW_BLOCK;
        for few in pieces(rows.clone(), R) {
            let codes = &codes[(few.start - rows.start) * row_blocks..][..few.len() * row_blocks];
            if few.len() == R {
                let sums = row_sums::<I, T, R>(isa, part.weight, few.start, codes, x);
                part.write(&tile, few.start, &sums);
                continue;
            }
            for (index, row) in few.enumerate() {
                let codes = &codes[index * row_blocks..][..row_blocks];
                let sums = row_sums::<I, T, 1>(isa, part.weight, row, codes, x);
                part.write(&tile, row, &sums);
            }
        }
    }
}

impl Part<'_> {
    /// Writes the sums of a tile of tokens with the rows from `row` on.
    #[inline(always)]
    fn write<const T: usize>(&mut self, tile: &Range<usize>, row: usize, sums: &[[f64; T]]) {
        for (row, sums) in (row - self.rows.start..).zip(sums) {
            for (token, &sum) in tile.clone().zip(sums) {
                self.out[token][row] = sum as f32;
            }
        }
    }
}

impl Op for Float<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { x, tokens, parts } = self;
        let mut unpacked = Vec::new();
        for mut part in parts {
            for rows in pieces(part.rows.clone(), ROWS) {
                let row_blocks = part.weight.padded_cols() / ROW_BLOCK;
                let codes = match part.weight {
                    CpuMatrix::Canonical(_) => {
                        &part.weight.blocks()[rows.start * row_blocks..rows.end * row_blocks]
                    }
                    CpuMatrix::Packed(matrix) => {
                        unpacked.resize(rows.len() * row_blocks, [0; 8]);
                        matrix.unpack(rows.clone(), &mut unpacked);
                        &unpacked
                    }
                };
                for tile in tiles(tokens) {
                    let rows = rows.clone();
                    match tile.len() {
                        // Registers hold sixteen sums.
                        TILE if I::PAIRS => {
                            Self::tile::<I, TILE, TOGETHER>(isa, x, &mut part, tile, rows, codes);
                        }
                        TILE => Self::tile::<I, TILE, 1>(isa, x, &mut part, tile, rows, codes),
                        _ => Self::tile::<I, 1, TOGETHER>(isa, x, &mut part, tile, rows, codes),
                    }
                }
            }
        }
    }
}

//! Ternary weights times f32 activations: weight-only quantisation.
//!
//! A row (or group) is summed in 16 lanes, which are then added in pairs; groups are added in f64. With `n` elements
//! in a row or group the result lies within `(n / 16 + 8) · 2⁻²⁴ · Σ |trit·x| · scale` of the exact one.

use std::ops::Range;

use super::weight::{CpuMatrix, row_blocks, row_scales};
use super::{Part, Share};
use crate::activations::{FLOAT_BLOCK, TILE, float_width, tiles};
use crate::isa::{CodeBlock, FloatBlock, HalfCodeBlock, Isa, Op};
use crate::ops::dot::fold;
use bitnet_core::ternary::{ROW_BLOCK, ScaleGranularity};

/// Rows that pass over a tile of tokens before the next tile is taken.
const ROWS: usize = 32;

/// `Σ trit · x` of `T` tokens over some blocks.
#[inline(always)]
fn block_sums<I: Isa, const T: usize>(
    isa: I,
    codes: &[HalfCodeBlock],
    x: &[[FloatBlock; T]],
) -> [f32; T] {
    let mut lanes = [isa.splat(0.0); T];
    for (codes, x) in codes.iter().zip(x) {
        for (plane, trits) in isa.trits(codes).into_iter().enumerate() {
            for (lanes, x) in lanes.iter_mut().zip(x) {
                *lanes = isa.mul_add(trits, isa.load(&x.0[plane]), *lanes);
            }
        }
    }
    let mut sums = [0f32; T];
    for (sum, lanes) in sums.iter_mut().zip(lanes) {
        *sum = fold(&isa.store(lanes));
    }
    sums
}

/// `Σ trit · scale · x` of `T` tokens with one row.
#[inline(always)]
fn row_sums<I: Isa, const T: usize>(
    isa: I,
    weight: &CpuMatrix,
    row: usize,
    codes: &[CodeBlock],
    x: &[[FloatBlock; T]],
) -> [f64; T] {
    let codes = codes.as_flattened().as_chunks().0;
    let blocks = match weight.granularity() {
        ScaleGranularity::Tensor | ScaleGranularity::Row => codes.len().max(1),
        ScaleGranularity::Group(n) => n / FLOAT_BLOCK,
    };
    let mut sums = [0f64; T];
    // The padding of the last block has no scale, and needs none.
    let groups = codes.chunks(blocks).zip(x.chunks(blocks)).zip(row_scales(weight, row));
    for ((codes, x), &scale) in groups {
        for (sum, group) in sums.iter_mut().zip(block_sums(isa, codes, x)) {
            *sum += f64::from(group) * f64::from(scale);
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
    #[inline(always)]
    fn tile<I: Isa, const T: usize>(
        isa: I,
        x: &[FloatBlock],
        part: &mut Part<'_>,
        tile: Range<usize>,
        rows: Range<usize>,
        unpacked: &[CodeBlock],
    ) {
        let width = float_width(part.weight.cols());
        let (x, _) = x[tile.start * width..tile.end * width].as_chunks::<T>();
        let width_blocks = part.weight.padded_cols() / ROW_BLOCK;
        for (index, row) in rows.enumerate() {
            let codes = match part.weight {
                CpuMatrix::Canonical(matrix) => row_blocks(matrix, row),
                CpuMatrix::Packed(_) => &unpacked[index * width_blocks..][..width_blocks],
            };
            let sums = row_sums::<I, T>(isa, part.weight, row, codes, x);
            for (token, sum) in tile.clone().zip(sums) {
                part.out[token][row - part.rows.start] = sum as f32;
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
            for start in part.rows.clone().step_by(ROWS) {
                let rows = start..(start + ROWS).min(part.rows.end);
                if let CpuMatrix::Packed(matrix) = part.weight {
                    unpacked.resize(ROWS * part.weight.padded_cols() / ROW_BLOCK, [0; 8]);
                    matrix.unpack(rows.clone(), &mut unpacked);
                }
                for tile in tiles(tokens) {
                    if tile.len() == TILE {
                        Self::tile::<I, TILE>(isa, x, &mut part, tile, rows.clone(), &unpacked);
                    } else {
                        Self::tile::<I, 1>(isa, x, &mut part, tile, rows.clone(), &unpacked);
                    }
                }
            }
        }
    }
}

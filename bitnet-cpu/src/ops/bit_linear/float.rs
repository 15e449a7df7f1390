//! Ternary weights times f32 activations: weight-only quantisation.
//!
//! A row (or group) is summed in 32 lanes, one for each index of a plane, which are then added in pairs; groups are
//! added in f64. With `n` elements in a row or group the result lies within `(n / 32 + 8) · 2⁻²⁴ · Σ |trit·x| · scale`
//! of the exact one.

use std::ops::Range;

use super::{Part, row_blocks, row_scales};
use crate::activations::{FloatBlock, TILE, tiles};
use crate::isa::{CodeBlock, Isa, Op};
use bitnet_core::ternary::{ROW_BLOCK, ScaleGranularity, TernaryMatrix};

/// Rows that pass over a tile of tokens before the next tile is taken.
const ROWS: usize = 32;

/// Adds `trit · x` over some blocks to the lanes of `T` tokens; lane `b` takes index `b` of every plane.
#[inline(always)]
fn block_lanes<I: Isa, const T: usize>(
    isa: I,
    codes: &[CodeBlock],
    x: &[[FloatBlock; T]],
    lanes: &mut [[f32; 32]; T],
) {
    for (codes, x) in codes.iter().zip(x) {
        let mut bytes = [0u8; 32];
        for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(codes) {
            *bytes = word.to_le_bytes();
        }
        for plane in 0..4 {
            let mut trits = [0f32; 32];
            for (trit, &byte) in trits.iter_mut().zip(&bytes) {
                *trit = (i32::from((byte >> (2 * plane)) & 3) - 1) as f32;
            }
            for (lanes, x) in lanes.iter_mut().zip(x) {
                for ((lane, &trit), &x) in lanes.iter_mut().zip(&trits).zip(&x.0[plane]) {
                    *lane = isa.mul_add(trit, x, *lane);
                }
            }
        }
    }
}

/// The sum of sixteen lanes, in pairs.
#[inline(always)]
fn fold(lanes: &[f32]) -> f32 {
    let mut four = [0f32; 4];
    for lanes in lanes.chunks_exact(8) {
        for (i, four) in four.iter_mut().enumerate() {
            *four += lanes[i] + lanes[i + 4];
        }
    }
    (four[0] + four[2]) + (four[1] + four[3])
}

/// `Σ trit · scale · x` of `T` tokens with one row.
#[inline(always)]
fn row_sums<I: Isa, const T: usize>(
    isa: I,
    weight: &TernaryMatrix,
    row: usize,
    x: &[[FloatBlock; T]],
) -> [f64; T] {
    let (codes, scales) = (row_blocks(weight, row), row_scales(weight, row));
    let (blocks, halves) = match weight.granularity() {
        ScaleGranularity::Tensor | ScaleGranularity::Row => (codes.len().max(1), None),
        ScaleGranularity::Group(n) if n % ROW_BLOCK == 0 => (n / ROW_BLOCK, None),
        ScaleGranularity::Group(n) => (1, Some(n / (ROW_BLOCK / 2))),
    };
    let mut sums = [0f64; T];
    for (index, (codes, x)) in codes.chunks(blocks).zip(x.chunks(blocks)).enumerate() {
        let mut lanes = [[0f32; 32]; T];
        block_lanes(isa, codes, x, &mut lanes);
        for (sum, lanes) in sums.iter_mut().zip(&lanes) {
            for (half, lanes) in lanes.as_chunks::<16>().0.iter().enumerate() {
                let group = halves.map_or(index, |n| (2 * index + half) / n);
                // The second half of the last block may be padding: it has no scale, and its sum is zero.
                let scale = scales.get(group).map_or(0.0, |&scale| f64::from(scale));
                *sum += f64::from(fold(lanes)) * scale;
            }
        }
    }
    sums
}

/// The kernel of [`super::bit_linear`] on f32 activations.
pub(super) struct Float<'a> {
    pub(super) x: &'a [FloatBlock],
    pub(super) tokens: usize,
    pub(super) parts: Vec<Part<'a>>,
}

impl Float<'_> {
    #[inline(always)]
    fn tile<I: Isa, const T: usize>(
        isa: I,
        x: &[FloatBlock],
        part: &mut Part<'_>,
        tile: Range<usize>,
        rows: Range<usize>,
    ) {
        let width = part.weight.padded_cols() / ROW_BLOCK;
        let (x, _) = x[tile.start * width..tile.end * width].as_chunks::<T>();
        for row in rows {
            let sums = row_sums::<I, T>(isa, part.weight, row, x);
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
        for mut part in parts {
            for start in part.rows.clone().step_by(ROWS) {
                let rows = start..(start + ROWS).min(part.rows.end);
                for tile in tiles(tokens) {
                    if tile.len() == TILE {
                        Self::tile::<I, TILE>(isa, x, &mut part, tile, rows.clone());
                    } else {
                        Self::tile::<I, 1>(isa, x, &mut part, tile, rows.clone());
                    }
                }
            }
        }
    }
}

//! Ternary weights times 8-bit activations, exact in 32 bits, for tiles of tokens.
//!
//! `Σ trit·q = Σ code·q - Σ q`; the second sum is known from the quantisation. `|Σ trit·q| ≤ 128 · cols`, so results
//! fit 32 bits up to 2²⁴ columns; sums on the way may wrap without harm.

use std::ops::Range;

use super::{Part, groups, row_blocks, row_scales};
use crate::activations::{Quantized, TILE, tiles};
use crate::isa::{ActivationBlock, CodeBlock, Isa, Op};
use bitnet_core::ternary::{ROW_BLOCK, ScaleGranularity, TernaryMatrix};

/// Rows that pass over a tile of tokens before the next tile is taken: their codes stay in the nearest cache.
const ROWS: usize = 32;

/// `Σ code·x` of `T` tokens over some blocks: the sums over elements 0..64 and 64..128 of all blocks.
#[inline(always)]
pub(crate) fn block_sums<I: Isa, const T: usize>(
    isa: I,
    codes: &[CodeBlock],
    x: &[[ActivationBlock; T]],
) -> [[i32; 2]; T] {
    let mut sums = [isa.zero(); T];
    let run = I::RUN.min(codes.len()).max(1);
    for (codes, x) in codes.chunks(run).zip(x.chunks(run)) {
        let mut runs = [isa.start(); T];
        for (codes, x) in codes.iter().zip(x) {
            let codes = isa.unpack(codes);
            for (run, x) in runs.iter_mut().zip(x) {
                *run = isa.multiply_add(*run, codes, x);
            }
        }
        for (sums, run) in sums.iter_mut().zip(runs) {
            *sums = isa.widen(*sums, run);
        }
    }
    let mut halves = [[0; 2]; T];
    for (halves, sums) in halves.iter_mut().zip(sums) {
        *halves = isa.halves(sums);
    }
    halves
}

/// How a row is cut: elements that share a scale.
#[derive(Clone, Copy)]
enum Cut {
    /// One scale for the row.
    Whole,
    /// Groups of whole blocks.
    Blocks(usize),
    /// Groups of an odd number of half blocks.
    Halves(usize),
}

impl Cut {
    fn of(weight: &TernaryMatrix) -> Self {
        match weight.granularity() {
            ScaleGranularity::Tensor | ScaleGranularity::Row => Self::Whole,
            ScaleGranularity::Group(n) if n % ROW_BLOCK == 0 => Self::Blocks(n / ROW_BLOCK),
            ScaleGranularity::Group(n) => Self::Halves(n / (ROW_BLOCK / 2)),
        }
    }

    /// `Σ q` of each group of a token, from those of each half block.
    fn group_sums(self, halves: &[i32], groups: usize, out: &mut Vec<i32>) {
        let len = match self {
            Self::Whole => halves.len().max(1),
            Self::Blocks(n) => 2 * n,
            Self::Halves(n) => n,
        };
        let start = out.len();
        out.extend(halves.chunks(len).map(|group| group.iter().sum::<i32>()).take(groups));
        out.resize(start + groups, 0);
    }
}

/// `Σ code·x` of `T` tokens with one row, group by group, into `out` (`[T, groups]`, zeroed).
#[inline(always)]
fn row_sums<I: Isa, const T: usize>(
    isa: I,
    cut: Cut,
    codes: &[CodeBlock],
    x: &[[ActivationBlock; T]],
    groups: usize,
    out: &mut [i32],
) {
    let blocks = match cut {
        Cut::Whole => codes.len().max(1),
        Cut::Blocks(n) => n,
        Cut::Halves(_) => 1,
    };
    for (index, (codes, x)) in codes.chunks(blocks).zip(x.chunks(blocks)).enumerate() {
        for (halves, out) in block_sums(isa, codes, x).iter().zip(out.chunks_exact_mut(groups)) {
            if let Cut::Halves(n) = cut {
                for (half, &sum) in halves.iter().enumerate() {
                    // The second half of the last block may be padding, whose sum is zero.
                    let group = ((2 * index + half) / n).min(groups - 1);
                    out[group] = out[group].wrapping_add(sum);
                }
            } else {
                out[index] = halves[0].wrapping_add(halves[1]);
            }
        }
    }
}

/// Calls `give(token, row, dots)` for some tokens (one tile) and rows, where `dots` holds one sum a group.
#[inline(always)]
fn tile_dots<I: Isa, const T: usize>(
    isa: I,
    weight: &TernaryMatrix,
    x: &Quantized,
    tile: Range<usize>,
    rows: Range<usize>,
    give: &mut impl FnMut(usize, usize, &[i32]),
) {
    let (cut, groups) = (Cut::of(weight), groups(weight));
    let (blocks, _) = x.tile(&tile).as_chunks::<T>();
    let mut sums = Vec::with_capacity(T * groups);
    for token in tile.clone() {
        cut.group_sums(x.sums(token), groups, &mut sums);
    }
    let mut dots = vec![0i32; T * groups];
    for row in rows {
        dots.fill(0);
        row_sums(isa, cut, row_blocks(weight, row), blocks, groups, &mut dots);
        for (dot, sum) in dots.iter_mut().zip(&sums) {
            *dot = dot.wrapping_sub(*sum);
        }
        for (token, dots) in tile.clone().zip(dots.chunks_exact(groups)) {
            give(token, row, dots);
        }
    }
}

/// [`tile_dots`] for all tokens.
#[inline(always)]
fn all_dots<I: Isa>(
    isa: I,
    weight: &TernaryMatrix,
    x: &Quantized,
    tokens: usize,
    rows: Range<usize>,
    mut give: impl FnMut(usize, usize, &[i32]),
) {
    if groups(weight) == 0 {
        return;
    }
    for start in rows.clone().step_by(ROWS) {
        let rows = start..(start + ROWS).min(rows.end);
        for tile in tiles(tokens) {
            if tile.len() == TILE {
                tile_dots::<I, TILE>(isa, weight, x, tile, rows.clone(), &mut give);
            } else {
                tile_dots::<I, 1>(isa, weight, x, tile, rows.clone(), &mut give);
            }
        }
    }
}

/// `Σ_groups dot * weight_scale / activation_scale`, in the reference's own words.
#[inline(always)]
fn rescale(weight: &TernaryMatrix, row: usize, dots: &[i32], activation_scale: f32) -> f32 {
    let scales = row_scales(weight, row);
    match (weight.granularity(), dots, scales) {
        (ScaleGranularity::Tensor | ScaleGranularity::Row, [dot], [scale]) => {
            *dot as f32 / activation_scale * scale
        }
        _ => {
            let sum: f64 =
                dots.iter().zip(scales).map(|(&d, &s)| f64::from(d) * f64::from(s)).sum();
            (sum / f64::from(activation_scale)) as f32
        }
    }
}

/// The kernel of [`super::bit_linear`] on quantised activations.
pub(super) struct Int8<'a> {
    pub(super) x: &'a Quantized,
    pub(super) tokens: usize,
    pub(super) parts: Vec<Part<'a>>,
}

impl Op for Int8<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { x, tokens, parts } = self;
        for Part { weight, rows, mut out } in parts {
            let first = rows.start;
            if weight.cols() == 0 {
                out.iter_mut().for_each(|out| out.fill(0.0));
            }
            all_dots(isa, weight, x, tokens, rows, |token, row, dots| {
                out[token][row - first] = rescale(weight, row, dots, x.scales[token]);
            });
        }
    }
}

/// The kernel of [`super::bit_linear_integers`]: `[tokens, rows, groups]`.
pub(super) struct Integers<'a> {
    pub(super) x: &'a Quantized,
    pub(super) tokens: usize,
    pub(super) weight: &'a TernaryMatrix,
}

impl Op for Integers<'_> {
    type Output = Vec<i32>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Vec<i32> {
        let Self { x, tokens, weight } = self;
        let (rows, groups) = (weight.rows(), groups(weight));
        let mut all = vec![0; tokens * rows * groups];
        all_dots(isa, weight, x, tokens, 0..rows, |token, row, dots| {
            let at = (token * rows + row) * groups;
            all[at..at + groups].copy_from_slice(dots);
        });
        all
    }
}

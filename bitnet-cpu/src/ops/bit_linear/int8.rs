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

/// Half blocks that share a scale, if not the whole row does.
fn group_halves(weight: &TernaryMatrix) -> Option<usize> {
    match weight.granularity() {
        ScaleGranularity::Tensor | ScaleGranularity::Row => None,
        ScaleGranularity::Group(n) => Some(n / (ROW_BLOCK / 2)),
    }
}

/// Sums of half blocks (`[halves]`) to those of groups (`[groups]`); padding behind the last group is left out.
#[inline(always)]
fn group_sums(halves: &[i32], len: Option<usize>, out: &mut [i32]) {
    let len = len.unwrap_or(halves.len()).max(1);
    for (out, group) in out.iter_mut().zip(halves.chunks(len)) {
        *out = group.iter().fold(0, |sum, half| sum.wrapping_add(*half));
    }
}

/// `Σ code·x` of `T` tokens over each half block of a row, into `halves` (`[T, 2 * blocks]`).
#[inline(always)]
fn half_sums<I: Isa, const T: usize>(
    isa: I,
    codes: &[CodeBlock],
    x: &[[ActivationBlock; T]],
    halves: &mut [i32],
) {
    let width = 2 * codes.len();
    for (k, (codes, x)) in codes.iter().zip(x).enumerate() {
        let codes = isa.unpack(codes);
        for (t, x) in x.iter().enumerate() {
            let run = isa.multiply_add(isa.start(), codes, x);
            let sums = isa.halves(isa.widen(isa.zero(), run));
            halves[t * width + 2 * k..][..2].copy_from_slice(&sums);
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
    let (len, groups) = (group_halves(weight), groups(weight));
    let (blocks, _) = x.tile(&tile).as_chunks::<T>();
    let mut sums = vec![0i32; T * groups];
    for (token, sums) in tile.clone().zip(sums.chunks_exact_mut(groups)) {
        group_sums(x.sums(token), len, sums);
    }
    let mut dots = vec![0i32; T * groups];
    let mut halves = vec![0i32; if len.is_some() { T * 2 * x.width } else { 0 }];
    for row in rows {
        let codes = row_blocks(weight, row);
        if len.is_some() {
            half_sums(isa, codes, blocks, &mut halves);
            let tokens = dots.chunks_exact_mut(groups).zip(halves.chunks_exact(2 * x.width));
            for (dots, halves) in tokens {
                group_sums(halves, len, dots);
            }
        } else {
            for (dot, [low, high]) in dots.iter_mut().zip(block_sums(isa, codes, blocks)) {
                *dot = low.wrapping_add(high);
            }
        }
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

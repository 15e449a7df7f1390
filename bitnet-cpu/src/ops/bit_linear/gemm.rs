//! Ternary weights times 8-bit activations, exact in 32 bits, for tiles of tokens.
//!
//! `Σ trit·q = Σ code·q - Σ q`; the second sum is known from the quantisation. `|Σ trit·q| ≤ 128 · cols`, so results
//! fit 32 bits up to 2²⁴ columns; sums on the way may wrap without harm.
//!
//! From the bottom: `weight` (rows of codes), `dot` (one token), `tile8` (eight tokens), `panel` (prompts) and
//! `grouped` (scales for groups), and here tiles of four and two and the division of tokens into tiles. A row is
//! unpacked once for a tile, or with a panel once for all tokens. Long rows are taken in pieces for which the
//! activations of a tile stay in the nearest cache. Weights with five trits in a byte go their own way (`packed`), but for
//! prompts, which unpack them into the same panels.

use std::ops::Range;

use super::dot::{SingleDots, WeightRows};
use super::grouped::{GroupRows, group_halves};
use super::panel::{PanelGemm, use_panels};
use super::sink::DotSink;
use super::tile8::{ROWS, TILE_BLOCKS, Tile8Dots, groups_fit_tiles, tile8_by_groups};
use super::weight::{CpuMatrix, groups};
use super::{Part, Share};
use crate::activations::{Quantized, int8_tiles};
use crate::isa::{ActivationBlock, CodeBlock, Isa, Op};
use bitnet_core::Result;
use bitnet_core::memory::HybridMemoryPool;

/// `sums + Σ code·x` of `T` tokens over at most [`Int8Dot::ACC16_BLOCKS`] blocks.
#[inline(always)]
fn flushed_tile<I: Isa, const T: usize>(
    isa: I,
    mut sums: [I::Acc32; T],
    codes: &[CodeBlock],
    x: &[[ActivationBlock; T]],
) -> [I::Acc32; T] {
    let mut accs = [isa.zero_acc16(); T];
    for (codes, x) in codes.iter().zip(x) {
        let codes = isa.unpack(codes);
        for (acc, x) in accs.iter_mut().zip(x) {
            *acc = isa.multiply_add(*acc, codes, x);
        }
    }
    for (sums, acc) in sums.iter_mut().zip(accs) {
        *sums = isa.flush_acc(*sums, acc);
    }
    sums
}

/// `Σ code·x` of `T` tokens with one row.
#[inline(always)]
fn one_row<I: Isa, const T: usize>(
    isa: I,
    codes: &[CodeBlock],
    x: &[[ActivationBlock; T]],
) -> [i32; T] {
    /// Blocks between flushes: a divisor of the widths that models have.
    const BLOCKS: usize = 10;
    const { assert!(I::ACC16_BLOCKS >= BLOCKS) };
    let mut sums = [isa.zero_acc32(); T];
    let (codes_10, codes) = codes.as_chunks::<BLOCKS>();
    let (x_10, x) = x.as_chunks::<BLOCKS>();
    for (codes, x) in codes_10.iter().zip(x_10) {
        sums = flushed_tile(isa, sums, codes, x);
    }
    if !x.is_empty() {
        sums = flushed_tile(isa, sums, codes, x);
    }
    let mut out = [0; T];
    let (fours, rest) = sums.as_chunks::<4>();
    let (out_fours, out_rest) = out.as_chunks_mut::<4>();
    for (out, sums) in out_fours.iter_mut().zip(fours) {
        *out = isa.reduce_add(*sums);
    }
    for (out, sums) in out_rest.iter_mut().zip(rest) {
        let [low, high] = isa.reduce_add_halves(*sums);
        *out = low.wrapping_add(high);
    }
    out
}

/// `Σ trit·q` of a tile of `T` tokens with up to [`ROWS`] rows of a weight without groups.
#[inline(always)]
fn plain_dots<I: Isa, const T: usize>(
    isa: I,
    weight: &CpuMatrix,
    x: &Quantized,
    tile: &Range<usize>,
    rows: &Range<usize>,
) -> [[i32; ROWS]; T] {
    let mut dots = [[0; ROWS]; T];
    for (dots, token) in dots.iter_mut().zip(tile.clone()) {
        *dots = [x.starts[token]; ROWS];
    }
    let (blocks, _) = x.tile(tile).as_chunks::<T>();
    let len = (TILE_BLOCKS / T).min(x.width);
    let mut by_row = [[0i32; T]; ROWS];
    for (piece, blocks) in blocks.chunks(len).enumerate() {
        let first = piece * len;
        for (dots, row) in by_row.iter_mut().zip(rows.clone()) {
            let codes = &weight.row_blocks(row)[first..first + blocks.len()];
            let sums = one_row::<I, T>(isa, codes, blocks);
            for (dot, sum) in dots.iter_mut().zip(sums) {
                *dot = dot.wrapping_add(sum);
            }
        }
    }
    for (t, dots) in dots.iter_mut().enumerate() {
        for (dot, sums) in dots.iter_mut().zip(&by_row) {
            *dot = dot.wrapping_add(sums[t]);
        }
    }
    dots
}

/// The dots of one token with some rows.
#[inline(always)]
fn token_dots<I: Isa>(
    isa: I,
    weight: &CpuMatrix,
    x: &Quantized,
    tile: Range<usize>,
    rows: Range<usize>,
    sink: &mut DotSink<'_, '_>,
) {
    if let Some(len) = group_halves(weight) {
        return GroupRows { weight, len, x, rows }.dots::<I, 1>(isa, &tile, sink);
    }
    let mut dots = [x.starts[tile.start]; ROWS];
    let dots = &mut dots[..rows.len()];
    let (x, first) = (x.tile(&tile), rows.start);
    isa.run(SingleDots { weight, x, rows: WeightRows::From(first), dots });
    sink.push(isa, tile.start, first, dots);
}

/// The dots of some tokens (one tile) with some rows.
#[inline(always)]
fn tile_dots<I: Isa, const T: usize>(
    isa: I,
    weight: &CpuMatrix,
    x: &Quantized,
    tile: Range<usize>,
    rows: Range<usize>,
    sink: &mut DotSink<'_, '_>,
) {
    if let Some(len) = group_halves(weight) {
        return GroupRows { weight, len, x, rows }.dots::<I, T>(isa, &tile, sink);
    }
    let dots = plain_dots::<I, T>(isa, weight, x, &tile, &rows);
    for (token, dots) in tile.zip(&dots) {
        sink.push(isa, token, rows.start, &dots[..rows.len()]);
    }
}

/// The dots of all tokens with some rows of a weight.
struct AllDots<'a, 'b> {
    weight: &'a CpuMatrix,
    x: &'a Quantized,
    tokens: usize,
    rows: Range<usize>,
    sink: DotSink<'a, 'b>,
    pool: &'a HybridMemoryPool,
}

impl Op for AllDots<'_, '_> {
    type Output = Result<()>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<()> {
        let Self { weight, x, tokens, rows, mut sink, pool } = self;
        if use_panels::<I>(weight, x, tokens) {
            PanelGemm::new(weight, x, tokens, pool)?.dots(isa, rows, &mut sink);
        } else if let CpuMatrix::Packed(matrix) = weight {
            matrix.dots(isa, x, tokens, rows, &mut sink);
        } else {
            all_dots(isa, weight, x, tokens, rows, &mut sink);
        }
        Ok(())
    }
}

#[inline(always)]
fn all_dots<I: Isa>(
    isa: I,
    weight: &CpuMatrix,
    x: &Quantized,
    tokens: usize,
    rows: Range<usize>,
    sink: &mut DotSink<'_, '_>,
) {
    if groups(weight) == 0 {
        return;
    }
    let mut tile8 = None;
    for start in rows.clone().step_by(ROWS) {
        let rows = start..(start + ROWS).min(rows.end);
        for tile in int8_tiles(tokens) {
            let rows = rows.clone();
            match tile.len() {
                8 => match group_halves(weight) {
                    None => {
                        let dots = tile8.get_or_insert_with(Tile8Dots::new);
                        dots.compute(isa, weight, x, tile, rows, sink);
                    }
                    Some(len) if groups_fit_tiles::<I>(len) => {
                        tile8_by_groups(isa, weight, len, x, tile, rows, sink);
                    }
                    Some(len) => {
                        GroupRows { weight, len, x, rows }.dots::<I, 8>(isa, &tile, sink);
                    }
                },
                4 => tile_dots::<I, 4>(isa, weight, x, tile, rows, sink),
                2 => tile_dots::<I, 2>(isa, weight, x, tile, rows, sink),
                _ => token_dots(isa, weight, x, tile, rows, sink),
            }
        }
    }
}

/// The kernel of [`super::bit_linear`] on quantised activations.
pub(super) struct Int8Gemm<'a> {
    pub(super) x: &'a Quantized,
    pub(super) tokens: usize,
    pub(super) parts: Share<'a>,
    pub(super) pool: &'a HybridMemoryPool,
}

impl Op for Int8Gemm<'_> {
    type Output = Result<()>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<()> {
        let Self { x, tokens, parts, pool } = self;
        for Part { weight, rows, mut out } in parts {
            if weight.cols() == 0 {
                out.iter_mut().for_each(|out| out.fill(0.0));
                continue;
            }
            let sink = DotSink::Rescale { weight, first: rows.start, x, out: &mut out };
            isa.run(AllDots { weight, x, tokens, rows, sink, pool })?;
        }
        Ok(())
    }
}

/// The kernel of [`super::bit_linear_integers`]: `[tokens, rows, groups]`.
pub(super) struct IntegerDots<'a> {
    pub(super) x: &'a Quantized,
    pub(super) tokens: usize,
    pub(super) weight: &'a CpuMatrix,
    pub(super) pool: &'a HybridMemoryPool,
}

impl Op for IntegerDots<'_> {
    type Output = Result<Vec<i32>>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<Vec<i32>> {
        let Self { x, tokens, weight, pool } = self;
        let (rows, groups) = (weight.rows(), groups(weight));
        let mut all = vec![0; tokens * rows * groups];
        let sink = DotSink::Integers { all: &mut all, rows, groups };
        isa.run(AllDots { weight, x, tokens, rows: 0..rows, sink, pool })?;
        Ok(all)
    }
}

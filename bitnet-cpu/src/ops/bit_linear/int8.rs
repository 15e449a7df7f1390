//! Ternary weights times 8-bit activations, exact in 32 bits, for tiles of tokens.
//!
//! `Σ trit·q = Σ code·q - Σ q`; the second sum is known from the quantisation. `|Σ trit·q| ≤ 128 · cols`, so results
//! fit 32 bits up to 2²⁴ columns; sums on the way may wrap without harm.
//!
//! One token passes four rows at once, so that four sums are added across lanes together; more tokens pass one row
//! in tiles, so that a row is unpacked once for up to eight of them. Long rows are taken in pieces for which the
//! activations of a tile stay in the nearest cache.

use std::ops::Range;

use super::eight::{Dots, eight_by_groups, in_tiles};
use super::groups::{GroupRows, group_halves};
use super::sink::DotSink;
use super::{Part, Share, groups, row_blocks};
use crate::activations::{Quantized, int8_tiles};
use crate::isa::{ActivationBlock, CodeBlock, Isa, Op};
use bitnet_core::ternary::TernaryMatrix;

/// Rows that pass over a tile of tokens before the next tile is taken: their codes stay in the nearest caches.
pub(super) const ROWS: usize = 128;

/// Bytes by which codes are asked for before they are needed: enough for the time that memory takes to answer, and
/// near enough for the processor's own prefetching to take it for one stream.
const AHEAD_BYTES: usize = 2560;

/// Rows of a length by which codes are asked for before they are needed.
#[inline(always)]
pub(super) fn rows_ahead(blocks: usize) -> usize {
    AHEAD_BYTES.div_ceil((blocks * size_of::<CodeBlock>()).max(1))
}

/// Activation blocks of a tile that are taken together: 20 KiB.
pub(super) const TILE_BLOCKS: usize = 160;

/// `sums + Σ code·x` of one token over `N` blocks, `N` at most [`Isa::SINGLE_RUN`]: without a branch.
#[inline(always)]
fn single_run<I: Isa, const N: usize>(
    isa: I,
    sums: I::Sums,
    codes: &[CodeBlock; N],
    x: &[ActivationBlock; N],
) -> I::Sums {
    let mut run = isa.start_single();
    for (codes, x) in codes.iter().zip(x) {
        run = isa.add_single(run, codes, x);
    }
    isa.widen_single(sums, run)
}

/// `Σ code·x` of one token over some blocks, lanes not yet added. `ahead` are codes that will be needed soon.
#[inline(always)]
fn single_sums<I: Isa>(
    isa: I,
    codes: &[CodeBlock],
    x: &[ActivationBlock],
    ahead: *const CodeBlock,
) -> I::Sums {
    const { assert!(I::SINGLE_RUN >= 8) };
    let mut sums = isa.zero();
    let mut block = 0;
    let (codes_8, codes) = codes.as_chunks::<8>();
    let (x_8, x) = x.as_chunks::<8>();
    for (codes, x) in codes_8.iter().zip(x_8) {
        prefetch::<I, 8>(isa, ahead.wrapping_add(block));
        sums = single_run(isa, sums, codes, x);
        block += 8;
    }
    let (codes_4, codes) = codes.as_chunks::<4>();
    let (x_4, x) = x.as_chunks::<4>();
    for (codes, x) in codes_4.iter().zip(x_4) {
        prefetch::<I, 4>(isa, ahead.wrapping_add(block));
        sums = single_run(isa, sums, codes, x);
        block += 4;
    }
    let (codes_2, codes) = codes.as_chunks::<2>();
    let (x_2, x) = x.as_chunks::<2>();
    for (codes, x) in codes_2.iter().zip(x_2) {
        prefetch::<I, 2>(isa, ahead.wrapping_add(block));
        sums = single_run(isa, sums, codes, x);
        block += 2;
    }
    if let ([codes, ..], [x, ..]) = (codes, x) {
        prefetch::<I, 1>(isa, ahead.wrapping_add(block));
        sums = single_run(isa, sums, &[*codes], &[*x]);
    }
    sums
}

/// Asks for the lines of `N` blocks.
#[inline(always)]
fn prefetch<I: Isa, const N: usize>(isa: I, blocks: *const CodeBlock) {
    for line in (0..N).step_by(2) {
        isa.prefetch(blocks.wrapping_add(line));
    }
}

/// `Σ code·x` of one token over some blocks: the sums over elements 0..64 and 64..128 of all blocks.
#[inline(always)]
pub(crate) fn block_sums<I: Isa>(isa: I, codes: &[CodeBlock], x: &[ActivationBlock]) -> [i32; 2] {
    isa.halves(single_sums(isa, codes, x, codes.as_ptr()))
}

/// `Σ code·x` of one token with four rows.
#[inline(always)]
fn four_rows<I: Isa>(
    isa: I,
    codes: [&[CodeBlock]; 4],
    x: &[ActivationBlock],
    ahead: [*const CodeBlock; 4],
) -> [i32; 4] {
    // One row after another: the processor's own prefetching follows one stream better than four.
    let mut sums = [isa.zero(); 4];
    for (sums, (codes, ahead)) in sums.iter_mut().zip(codes.into_iter().zip(ahead)) {
        *sums = single_sums(isa, codes, x, ahead);
    }
    isa.whole(sums)
}

/// `sums + Σ code·x` of `T` tokens over at most [`Isa::RUN`] blocks.
#[inline(always)]
fn tile_run<I: Isa, const T: usize>(
    isa: I,
    mut sums: [I::Sums; T],
    codes: &[CodeBlock],
    x: &[[ActivationBlock; T]],
) -> [I::Sums; T] {
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
    sums
}

/// `Σ code·x` of `T` tokens with one row.
#[inline(always)]
fn one_row<I: Isa, const T: usize>(
    isa: I,
    codes: &[CodeBlock],
    x: &[[ActivationBlock; T]],
) -> [i32; T] {
    /// Blocks of a run: a divisor of the widths that models have.
    const BLOCKS: usize = 10;
    const { assert!(I::RUN >= BLOCKS) };
    let mut sums = [isa.zero(); T];
    let (codes_10, codes) = codes.as_chunks::<BLOCKS>();
    let (x_10, x) = x.as_chunks::<BLOCKS>();
    for (codes, x) in codes_10.iter().zip(x_10) {
        sums = tile_run(isa, sums, codes, x);
    }
    if !x.is_empty() {
        sums = tile_run(isa, sums, codes, x);
    }
    let mut out = [0; T];
    let (fours, rest) = sums.as_chunks::<4>();
    let (out_fours, out_rest) = out.as_chunks_mut::<4>();
    for (out, sums) in out_fours.iter_mut().zip(fours) {
        *out = isa.whole(*sums);
    }
    for (out, sums) in out_rest.iter_mut().zip(rest) {
        let [low, high] = isa.halves(*sums);
        *out = low.wrapping_add(high);
    }
    out
}

/// `Σ trit·q` of a tile of `T` tokens with up to [`ROWS`] rows of a weight without groups.
#[inline(always)]
fn plain_dots<I: Isa, const T: usize>(
    isa: I,
    weight: &TernaryMatrix,
    x: &Quantized,
    tile: &Range<usize>,
    rows: &Range<usize>,
) -> [[i32; ROWS]; T] {
    let mut dots = [[0; ROWS]; T];
    for (dots, token) in dots.iter_mut().zip(tile.clone()) {
        *dots = [x.whole_sum(token).wrapping_neg(); ROWS];
    }
    let (blocks, _) = x.tile(tile).as_chunks::<T>();
    let len = (TILE_BLOCKS / T).min(x.width);
    let mut by_row = [[0i32; T]; ROWS];
    for (piece, blocks) in blocks.chunks(len).enumerate() {
        let first = piece * len;
        for (dots, row) in by_row.iter_mut().zip(rows.clone()) {
            let codes = &row_blocks(weight, row)[first..first + blocks.len()];
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

/// Rows of a weight.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// One after the other, from this one on.
    From(usize),
    /// This one plus each of these.
    Listed(usize, &'a [u32]),
}

impl Rows<'_> {
    #[inline(always)]
    fn row(self, index: usize) -> usize {
        match self {
            Self::From(first) => first + index,
            Self::Listed(first, rest) => first + rest[index] as usize,
        }
    }
}

/// `dots[i] += Σ code·x` of one token with the rows of a weight, one for each dot.
pub(crate) struct SingleDots<'a> {
    pub(crate) weight: &'a TernaryMatrix,
    pub(crate) x: &'a [ActivationBlock],
    pub(crate) rows: Rows<'a>,
    pub(crate) dots: &'a mut [i32],
}

impl Op for SingleDots<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { weight, x, rows: of, dots } = self;
        let len = dots.len();
        let (all, _) = weight.words().as_chunks();
        let codes = |row: usize| &all[row * x.len()..(row + 1) * x.len()];
        let rows_ahead = rows_ahead(x.len());
        let (fours, rest) = dots.as_chunks_mut::<4>();
        for (index, dots) in fours.iter_mut().enumerate() {
            let mut rows: [&[CodeBlock]; 4] = [&[]; 4];
            let mut ahead = [all.as_ptr(); 4];
            for i in 0..4 {
                let at = 4 * index + i;
                rows[i] = codes(of.row(at));
                ahead[i] = ahead[i].wrapping_add(of.row((at + rows_ahead).min(len - 1)) * x.len());
            }
            for (dot, sum) in dots.iter_mut().zip(four_rows(isa, rows, x, ahead)) {
                *dot = dot.wrapping_add(sum);
            }
        }
        for (index, dot) in rest.iter_mut().enumerate() {
            let [low, high] = block_sums(isa, codes(of.row(len / 4 * 4 + index)), x);
            *dot = dot.wrapping_add(low).wrapping_add(high);
        }
    }
}

/// The dots of one token with some rows.
#[inline(always)]
fn token_dots<I: Isa>(
    isa: I,
    weight: &TernaryMatrix,
    x: &Quantized,
    tile: Range<usize>,
    rows: Range<usize>,
    sink: &mut DotSink<'_, '_>,
) {
    if let Some(len) = group_halves(weight) {
        return GroupRows { weight, len, x, rows }.dots::<I, 1>(isa, &tile, sink);
    }
    let mut dots = [x.whole_sum(tile.start).wrapping_neg(); ROWS];
    let dots = &mut dots[..rows.len()];
    let (x, first) = (x.tile(&tile), rows.start);
    isa.run(SingleDots { weight, x, rows: Rows::From(first), dots });
    sink.push(isa, tile.start, first, dots);
}

/// The dots of some tokens (one tile) with some rows.
#[inline(always)]
fn tile_dots<I: Isa, const T: usize>(
    isa: I,
    weight: &TernaryMatrix,
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
    weight: &'a TernaryMatrix,
    x: &'a Quantized,
    tokens: usize,
    rows: Range<usize>,
    sink: DotSink<'a, 'b>,
}

impl Op for AllDots<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { weight, x, tokens, rows, mut sink } = self;
        all_dots(isa, weight, x, tokens, rows, &mut sink);
    }
}

#[inline(always)]
fn all_dots<I: Isa>(
    isa: I,
    weight: &TernaryMatrix,
    x: &Quantized,
    tokens: usize,
    rows: Range<usize>,
    sink: &mut DotSink<'_, '_>,
) {
    if groups(weight) == 0 {
        return;
    }
    let mut dots = None;
    for start in rows.clone().step_by(ROWS) {
        let rows = start..(start + ROWS).min(rows.end);
        for tile in int8_tiles(tokens) {
            let rows = rows.clone();
            match tile.len() {
                8 => match group_halves(weight) {
                    None => {
                        let dots = dots.get_or_insert_with(Dots::new);
                        dots.eight(isa, weight, x, tile, rows, sink);
                    }
                    Some(len) if in_tiles::<I>(len) => {
                        eight_by_groups(isa, weight, len, x, tile, rows, sink);
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
pub(super) struct Int8<'a> {
    pub(super) x: &'a Quantized,
    pub(super) tokens: usize,
    pub(super) parts: Share<'a>,
}

impl Op for Int8<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { x, tokens, parts } = self;
        for Part { weight, rows, mut out } in parts {
            if weight.cols() == 0 {
                out.iter_mut().for_each(|out| out.fill(0.0));
            }
            let sink = DotSink::Rescale { weight, first: rows.start, x, out: &mut out };
            isa.run(AllDots { weight, x, tokens, rows, sink });
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
        let sink = DotSink::Integers { all: &mut all, rows, groups };
        isa.run(AllDots { weight, x, tokens, rows: 0..rows, sink });
        all
    }
}

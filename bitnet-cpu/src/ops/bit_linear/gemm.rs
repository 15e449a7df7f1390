//! Ternary weights times 8-bit activations, exact in 32 bits, for tiles of tokens.
//!
//! `Σ trit·q = Σ code·q - Σ q`; the second sum is known from the quantisation. `|Σ trit·q| ≤ 128 · cols`, so results
//! fit 32 bits up to 2²⁴ columns; sums on the way may wrap without harm.
//!
//! From the bottom: `weight` (rows of codes), `dot` (one token), `few` (two to seven tokens), `tile8` (eight tokens),
//! `panel` (prompts) and `grouped` (scales for groups), and here the division of tokens into tiles. A row is
//! unpacked once for a tile, or with a panel once for all tokens. Long rows are taken in pieces for which the
//! activations of a tile stay in the nearest cache. Weights with five trits in a byte (`packed`) take the same paths.

use std::ops::Range;

use super::dot::{SingleDots, WeightRows};
use super::few::{Rest, few_dots};
use super::grouped::{GroupRows, group_halves};
use super::panel::{PanelGemm, use_panels};
use super::sink::DotSink;
use super::tile8::{ROWS, Tile8Dots, groups_fit_tiles, tile8_by_groups};
use super::weight::{CpuMatrix, groups};
use super::{Part, Share};
use crate::activations::{Quantized, int8_tiles};
use crate::isa::{Isa, Op};
use bitnet_core::Result;
use bitnet_core::memory::HybridMemoryPool;

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
        let blocks = x.tile(&tile).as_chunks::<1>().0;
        return GroupRows { weight, len, x, rows }.dots(isa, &tile, blocks, sink);
    }
    let mut dots = [x.starts[tile.start]; ROWS];
    let dots = &mut dots[..rows.len()];
    let (x, first) = (x.tile(&tile), rows.start);
    isa.run(SingleDots { weight, x, rows: WeightRows::From(first), dots });
    sink.push(isa, tile.start, first, dots);
}

/// The dots of all tokens with some rows of a weight.
struct AllDots<'a, 'b> {
    weight: &'a CpuMatrix,
    x: &'a Quantized,
    tokens: usize,
    rest: &'a Rest,
    rows: Range<usize>,
    sink: DotSink<'a, 'b>,
    pool: &'a HybridMemoryPool,
}

impl Op for AllDots<'_, '_> {
    type Output = Result<()>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<()> {
        let Self { weight, x, tokens, rest, rows, mut sink, pool } = self;
        if use_panels::<I>(weight, x, tokens) {
            PanelGemm::new(weight, x, tokens, pool)?.dots(isa, rows, &mut sink);
        } else {
            all_dots(isa, weight, x, rest, rows, &mut sink);
        }
        Ok(())
    }
}

#[inline(always)]
fn all_dots<I: Isa>(
    isa: I,
    weight: &CpuMatrix,
    x: &Quantized,
    rest: &Rest,
    rows: Range<usize>,
    sink: &mut DotSink<'_, '_>,
) {
    if groups(weight) == 0 {
        return;
    }
    let mut tile8 = None;
    for start in rows.clone().step_by(ROWS) {
        let rows = start..(start + ROWS).min(rows.end);
        for tile in int8_tiles(rest.tokens.start) {
            let rows = rows.clone();
            match group_halves(weight) {
                // Faster than a row by eight tokens where registers hold what four rows need.
                None if I::PANELS => {
                    let tile = (tile.clone(), x.tile(&tile));
                    few_dots::<I, 8>(isa, weight, x, tile, rows, sink);
                }
                None => {
                    let dots = tile8.get_or_insert_with(Tile8Dots::new);
                    dots.compute(isa, weight, x, tile, rows, sink);
                }
                Some(len) if groups_fit_tiles::<I>(len) => {
                    tile8_by_groups(isa, weight, len, x, tile, rows, sink);
                }
                Some(len) => {
                    let blocks = x.tile(&tile).as_chunks::<8>().0;
                    GroupRows { weight, len, x, rows }.dots(isa, &tile, blocks, sink);
                }
            }
        }
        let tile = (rest.tokens.clone(), rest.blocks(x));
        match rest.tokens.len() {
            0 => {}
            1 => token_dots(isa, weight, x, rest.tokens.clone(), rows, sink),
            2 => few_dots::<I, 2>(isa, weight, x, tile, rows, sink),
            3 => few_dots::<I, 3>(isa, weight, x, tile, rows, sink),
            4 => few_dots::<I, 4>(isa, weight, x, tile, rows, sink),
            5 => few_dots::<I, 5>(isa, weight, x, tile, rows, sink),
            6 => few_dots::<I, 6>(isa, weight, x, tile, rows, sink),
            _ => few_dots::<I, 7>(isa, weight, x, tile, rows, sink),
        }
    }
}

/// The kernel of [`super::bit_linear`] on quantised activations.
pub(super) struct Int8Gemm<'a> {
    pub(super) x: &'a Quantized,
    pub(super) tokens: usize,
    pub(super) rest: &'a Rest,
    pub(super) parts: Share<'a>,
    pub(super) pool: &'a HybridMemoryPool,
}

impl Op for Int8Gemm<'_> {
    type Output = Result<()>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<()> {
        let Self { x, tokens, rest, parts, pool } = self;
        for Part { weight, rows, mut out } in parts {
            if weight.cols() == 0 {
                out.iter_mut().for_each(|out| out.fill(0.0));
                continue;
            }
            let sink = DotSink::Rescale { weight, first: rows.start, x, out: &mut out };
            isa.run(AllDots { weight, x, tokens, rest, rows, sink, pool })?;
        }
        Ok(())
    }
}

/// The kernel of [`super::bit_linear_integers`]: `[tokens, rows, groups]`.
pub(super) struct IntegerDots<'a> {
    pub(super) x: &'a Quantized,
    pub(super) tokens: usize,
    pub(super) rest: &'a Rest,
    pub(super) weight: &'a CpuMatrix,
    pub(super) pool: &'a HybridMemoryPool,
}

impl Op for IntegerDots<'_> {
    type Output = Result<Vec<i32>>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<Vec<i32>> {
        let Self { x, tokens, rest, weight, pool } = self;
        let (rows, groups) = (weight.rows(), groups(weight));
        let mut all = vec![0; tokens * rows * groups];
        let sink = DotSink::Integers { all: &mut all, rows, groups };
        isa.run(AllDots { weight, x, tokens, rest, rows: 0..rows, sink, pool })?;
        Ok(all)
    }
}

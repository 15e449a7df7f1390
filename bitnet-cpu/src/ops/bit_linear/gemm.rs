//! Ternary weights times 8-bit activations, exact in 32 bits, for tiles of tokens.
//!
//! `Σ trit·q = Σ code·q - Σ q`; the second sum is known from the quantisation. `|Σ trit·q| ≤ 128 · cols`, so results
//! fit 32 bits up to 2²⁴ columns; sums on the way may wrap without harm.
//!
//! From the bottom: `weight` (rows of codes), `dot` (one token), `few` (two to seven tokens), `tile8` (eight tokens),
//! `panel` (prompts), `grouped` (scales for groups) and `scaled` (those whose sums are exact in f64), and here the
//! division of tokens into tiles and the sums of digits. A row is unpacked once for a tile, or with a panel once for
//! all tokens. Long rows are taken in pieces for which the activations of a tile stay in the nearest cache. Weights with five trits in a byte (`packed`) take the same paths.

use std::ops::Range;

use super::dot::{SingleDots, WeightRows};
use super::few::{Rest, few_dots};
use super::grouped::{GroupRows, group_halves};
use super::panel::{PanelGemm, use_panels};
use super::scaled::{ScaledGemm, ScaledRows};
use super::sink::DotSink;
use super::tile8::{ROWS, Tile8Dots, groups_fit_tiles, tile8_by_groups};
use super::weight::{CpuMatrix, groups};
use super::{Part, Share};
use crate::activations::{DIGITS, Quantized, int8_tiles};
use crate::isa::{AnyIsa, Isa, Op, PANEL_ROWS};
use crate::ops::gate::Gate;
use crate::ops::pieces::pieces;
use crate::threads::Rows;
use bitnet_core::Result;
use bitnet_core::backend::{Activation, ActivationPrecision};
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};

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

/// How the dots of all tokens with rows of a weight are computed.
struct Gemm<'a> {
    weight: &'a CpuMatrix,
    x: &'a Quantized,
    rest: &'a Rest,
    /// `None` where other kernels take less time.
    panels: Option<PanelGemm<'a>>,
}

impl<'a> Gemm<'a> {
    /// # Errors
    /// [`bitnet_core::Error::OutOfMemory`].
    fn new<I: Isa>(weight: &'a CpuMatrix, operand: &Operand<'a>) -> Result<Self> {
        let Operand { x, rest, pool, .. } = *operand;
        let panels = use_panels::<I>(weight, x);
        let panels = panels.then(|| PanelGemm::new(weight, x, pool)).transpose()?;
        Ok(Self { weight, x, rest, panels })
    }
}

/// The dots of all tokens with some rows.
struct AllDots<'g, 'a, 'b, 'c> {
    gemm: &'g mut Gemm<'a>,
    rows: Range<usize>,
    sink: DotSink<'b, 'c>,
}

impl Op for AllDots<'_, '_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { gemm, rows, mut sink } = self;
        match &mut gemm.panels {
            Some(panels) => panels.dots(isa, rows, &mut sink),
            None => all_dots(isa, gemm.weight, gemm.x, gemm.rest, rows, &mut sink),
        }
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
    for rows in pieces(rows, ROWS) {
        for tile in int8_tiles(rest.tokens.start) {
            let rows = rows.clone();
            match group_halves(weight) {
                None if I::EIGHT_BY_FOUR => {
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

/// The activations that meet a weight.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub(super) x: &'a Quantized,
    pub(super) rest: &'a Rest,
    pub(super) precision: ActivationPrecision,
    pub(super) pool: &'a HybridMemoryPool,
}

/// Results of digits that are computed before they are added, unless those of [`GATED_ROWS`] are more: they stay in the
/// nearest cache.
const DIGIT_RESULTS: usize = 1 << 12;

/// Results of the digits of activations with some rows, before they are added.
struct DigitSums {
    rows: usize,
    /// `[tokens · DIGITS, rows]`
    results: PoolBuffer<f32>,
}

impl DigitSums {
    /// # Errors
    /// [`bitnet_core::Error::OutOfMemory`].
    fn new(digits: usize, pool: &HybridMemoryPool) -> Result<Self> {
        let rows = GATED_ROWS * (DIGIT_RESULTS / GATED_ROWS / digits.max(1)).max(1);
        Ok(Self { rows, results: PoolBuffer::scratch(digits * rows, pool)? })
    }
}

/// How the results of all tokens with rows of a weight are computed.
struct Product<'a> {
    gemm: Gemm<'a>,
    /// `None` where other kernels take less time.
    scaled: Option<ScaledGemm<'a>>,
    /// `None` for activations in 8 bits.
    digits: Option<DigitSums>,
}

impl<'a> Product<'a> {
    /// # Errors
    /// [`bitnet_core::Error::OutOfMemory`].
    fn new<I: Isa>(weight: &'a CpuMatrix, operand: &Operand<'a>) -> Result<Self> {
        let gemm = Gemm::new::<I>(weight, operand)?;
        let Operand { x, rest, precision, pool } = *operand;
        let scaled = match gemm.panels {
            Some(_) => None,
            None => ScaledGemm::new::<I>(weight, x, rest, pool)?,
        };
        let digits = (precision == ActivationPrecision::Float)
            .then(|| DigitSums::new(x.tokens(), pool))
            .transpose()?;
        Ok(Self { gemm, scaled, digits })
    }

    /// Computes `out[token][row - first] = x · weightᵀ` for some rows.
    #[inline(always)]
    fn rows<I: Isa>(&mut self, isa: I, rows: Range<usize>, first: usize, out: &mut Rows<'_>) {
        let Self { gemm, scaled, digits } = self;
        let mut results = |rows: Range<usize>, first, out: &mut Rows<'_>| match scaled {
            Some(gemm) => isa.run(ScaledRows { gemm, rows, first, out }),
            None => {
                let sink = DotSink::Rescale { weight: gemm.weight, first, x: gemm.x, out };
                isa.run(AllDots { gemm: &mut *gemm, rows, sink });
            }
        };
        let Some(digits) = digits else { return results(rows, first, out) };
        for rows in pieces(rows, digits.rows) {
            let mut of_digits: Rows<'_> = digits.results.chunks_exact_mut(digits.rows).collect();
            results(rows.clone(), rows.start, &mut of_digits);
            let out = out.iter_mut().map(|out| &mut out[rows.start - first..][..rows.len()]);
            for (out, digits) in out.zip(of_digits.as_chunks::<DIGITS>().0) {
                add_digits(out, digits.each_ref().map(|digit| &digit[..rows.len()]));
            }
        }
    }
}

/// Adds the results of the digits, the lowest first.
#[inline(always)]
fn add_digits(out: &mut [f32], [low, middle, high]: [&[f32]; DIGITS]) {
    for (((out, low), middle), high) in out.iter_mut().zip(low).zip(middle).zip(high) {
        // Where the sum overflows, lower digits may do so the other way.
        *out = if high.is_infinite() { *high } else { low + middle + high };
    }
}

/// The kernel of [`super::bit_linear`] on quantised activations.
pub(super) struct Int8Gemm<'a> {
    pub(super) operand: Operand<'a>,
    pub(super) parts: Share<'a>,
}

impl Op for Int8Gemm<'_> {
    type Output = Result<()>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<()> {
        let Self { operand, parts } = self;
        for Part { weight, rows, mut out } in parts {
            if weight.cols() == 0 {
                out.iter_mut().for_each(|out| out.fill(0.0));
                continue;
            }
            let first = rows.start;
            Product::new::<I>(weight, &operand)?.rows(isa, rows, first, &mut out);
        }
        Ok(())
    }
}

/// Rows of both weights of a [`Gated`] that are computed before their product: whole panels, whose results for a prompt
/// stay in the second-level cache.
const GATED_ROWS: usize = 2 * PANEL_ROWS;

/// The kernel of [`super::gated`]: `out[token][row - rows.start] = activation(x · gateᵀ) * (x · upᵀ)`.
pub(super) struct Gated<'a> {
    pub(super) operand: Operand<'a>,
    /// The level on which it runs.
    pub(super) level: AnyIsa,
    pub(super) activation: Activation,
    pub(super) weights: [&'a CpuMatrix; 2],
    pub(super) rows: Range<usize>,
    pub(super) out: Rows<'a>,
}

impl Op for Gated<'_> {
    type Output = Result<()>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<()> {
        let Self { operand, level, activation, weights: [gate, up], rows, mut out } = self;
        let mut gates = Product::new::<I>(gate, &operand)?;
        let mut ups = Product::new::<I>(up, &operand)?;
        let mut products = PoolBuffer::scratch(out.len() * GATED_ROWS, operand.pool)?;
        let mut products: Rows<'_> = products.chunks_exact_mut(GATED_ROWS).collect();
        let first = rows.start;
        for rows in pieces(rows, GATED_ROWS) {
            gates.rows(isa, rows.clone(), first, &mut out);
            ups.rows(isa, rows.clone(), rows.start, &mut products);
            for (out, up) in out.iter_mut().zip(&products) {
                let gate = &mut out[rows.start - first..rows.end - first];
                level.run_shared(Gate { activation, gate, up: &up[..rows.len()] });
            }
        }
        Ok(())
    }
}

/// The kernel of [`super::bit_linear_integers`]: `[tokens, rows, groups]`.
pub(super) struct IntegerDots<'a> {
    pub(super) operand: Operand<'a>,
    pub(super) weight: &'a CpuMatrix,
}

impl Op for IntegerDots<'_> {
    type Output = Result<Vec<i32>>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<Vec<i32>> {
        let Self { operand, weight } = self;
        let (rows, groups) = (weight.rows(), groups(weight));
        let mut all = vec![0; operand.x.tokens() * rows * groups];
        let sink = DotSink::Integers { all: &mut all, rows, groups };
        let gemm = &mut Gemm::new::<I>(weight, &operand)?;
        isa.run(AllDots { gemm, rows: 0..rows, sink });
        Ok(all)
    }
}

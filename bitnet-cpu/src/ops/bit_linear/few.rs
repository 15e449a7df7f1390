//! Two to seven tokens, and what eights leave over of more: a row is read and unpacked once for all of them.
//! With AVX-512, eights as well.
//!
//! Four rows follow one another, so that their sums are added across lanes together.

use std::ops::Range;

use super::dot::prefetch_rows;
use super::grouped::{GroupRows, group_halves};
use super::sink::DotSink;
use super::tile8::ROWS;
use super::weight::CpuMatrix;
use crate::activations::{INT8_TILE, Quantized, int8_tiles};
use crate::isa::{ActivationBlock, CodeBlock, GroupedActivations, Isa, prefetch};
use bitnet_core::Result;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};

/// Blocks between flushes: a divisor of the widths that models have.
const FLUSHED_BLOCKS: usize = 10;

/// Activation blocks that are taken together: 25 KiB, which the nearest cache holds beside the codes.
const CACHED_BLOCKS: usize = 200;

/// The tokens that tiles of eight leave over, side by side.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) tokens: Range<usize>,
    /// Copied where [`Quantized`] holds them in several tiles.
    copied: Option<PoolBuffer<ActivationBlock>>,
}

impl Rest {
    /// # Errors
    /// [`bitnet_core::Error::OutOfMemory`].
    pub(super) fn new(x: &Quantized, pool: &HybridMemoryPool) -> Result<Self> {
        let tokens = x.tokens();
        let first = tokens / INT8_TILE * INT8_TILE;
        let count = tokens - first;
        if x.amx.is_some() || count == 0 || count.is_power_of_two() {
            return Ok(Self { tokens: first..tokens, copied: None });
        }
        // Every block is written below.
        let mut blocks = PoolBuffer::scratch(count * x.width, pool)?;
        for tile in int8_tiles(tokens).filter(|tile| tile.start >= first) {
            let places = tile.start - first..tile.end - first;
            let from = x.tile(&tile).chunks_exact(tile.len());
            for (to, from) in blocks.chunks_exact_mut(count).zip(from) {
                to[places.clone()].copy_from_slice(from);
            }
        }
        Ok(Self { tokens: first..tokens, copied: Some(blocks) })
    }

    /// Returns block 0 of each token, then block 1, ...
    pub(super) fn blocks<'a>(&'a self, x: &'a Quantized) -> &'a [ActivationBlock] {
        match &self.copied {
            Some(blocks) => blocks,
            None => x.tile(&self.tokens),
        }
    }
}

/// `sums + Σ code·x` of `T` tokens over at most [`Int8Dot::ACC16_BLOCKS`] blocks.
/// Prefetches `ahead`.
#[inline(always)]
fn flushed_sums<I: Isa, const T: usize>(
    isa: I,
    mut sums: [I::Acc32; T],
    codes: &[CodeBlock],
    x: &[[ActivationBlock; T]],
    ahead: *const CodeBlock,
) -> [I::Acc32; T] {
    let mut accs = [isa.zero_acc16(); T];
    for (index, (codes, x)) in codes.iter().zip(x).enumerate() {
        if index % 2 == 0 {
            prefetch(ahead.wrapping_add(index));
        }
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

/// `Σ code·x` of `T` tokens with one row, lanes not yet added. Prefetches `ahead`.
#[inline(always)]
fn row_sums<I: Isa, const T: usize>(
    isa: I,
    codes: &[CodeBlock],
    x: &[[ActivationBlock; T]],
    mut ahead: *const CodeBlock,
) -> [I::Acc32; T] {
    const { assert!(I::ACC16_BLOCKS >= FLUSHED_BLOCKS) };
    let mut sums = [isa.zero_acc32(); T];
    let (whole, codes) = codes.as_chunks::<FLUSHED_BLOCKS>();
    let (x_whole, x) = x.as_chunks::<FLUSHED_BLOCKS>();
    for (codes, x) in whole.iter().zip(x_whole) {
        sums = flushed_sums(isa, sums, codes, x, ahead);
        ahead = ahead.wrapping_add(FLUSHED_BLOCKS);
    }
    if !x.is_empty() {
        sums = flushed_sums(isa, sums, codes, x, ahead);
    }
    sums
}

/// `Σ code·x` of `T` tokens with up to [`ROWS`] rows of a weight without groups, added to `dots`.
#[inline(always)]
fn add_dots<I: Isa, const T: usize>(
    isa: I,
    weight: &CpuMatrix,
    x: &[[ActivationBlock; T]],
    rows: &Range<usize>,
    dots: &mut [[i32; ROWS]; T],
) {
    if let CpuMatrix::Packed(weight) = weight {
        let x = GroupedActivations::<T>::new(x.as_flattened());
        return weight.vbmi().rows(weight.codes_of(rows.clone()), &x, dots);
    }
    let (all, width) = (weight.blocks(), x.len());
    let pieces = width.div_ceil(CACHED_BLOCKS / T).max(1);
    let len = width.div_ceil(pieces).max(1);
    for (piece, x) in x.chunks(len).enumerate() {
        let distance = prefetch_rows(x.len()) * width;
        for (four, start) in rows.clone().step_by(4).enumerate() {
            let mut sums = [[isa.zero_acc32(); T]; 4];
            for (sums, row) in sums.iter_mut().zip(start..rows.end) {
                let at = row * width + piece * len;
                let ahead = all.as_ptr().wrapping_add(at + distance);
                *sums = row_sums(isa, &all[at..at + x.len()], x, ahead);
            }
            for (token, dots) in dots.iter_mut().enumerate() {
                let sums = [sums[0][token], sums[1][token], sums[2][token], sums[3][token]];
                let dots = &mut dots.as_chunks_mut::<4>().0[four];
                for (dot, sum) in dots.iter_mut().zip(isa.reduce_add(sums)) {
                    *dot = dot.wrapping_add(sum);
                }
            }
        }
    }
}

/// The dots of `T` tokens, whose activations are `blocks`, with up to [`ROWS`] rows.
#[inline(always)]
pub(super) fn few_dots<I: Isa, const T: usize>(
    isa: I,
    weight: &CpuMatrix,
    x: &Quantized,
    (tokens, blocks): (Range<usize>, &[ActivationBlock]),
    rows: Range<usize>,
    sink: &mut DotSink<'_, '_>,
) {
    let blocks = blocks.as_chunks::<T>().0;
    if let Some(len) = group_halves(weight) {
        return GroupRows { weight, len, x, rows }.dots(isa, &tokens, blocks, sink);
    }
    let mut dots = [[0; ROWS]; T];
    for (dots, token) in dots.iter_mut().zip(tokens.clone()) {
        *dots = [x.starts[token]; ROWS];
    }
    add_dots(isa, weight, blocks, &rows, &mut dots);
    for (token, dots) in tokens.zip(&dots) {
        sink.push(isa, token, rows.start, &dots[..rows.len()]);
    }
}

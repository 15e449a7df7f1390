//! Weights with scales for groups: one exact sum for each group.

use std::ops::Range;

use super::dot::prefetch_rows;
use super::rescale::GROUP_ROWS;
use super::sink::DotSink;
use super::weight::{CpuMatrix, groups};
use crate::activations::Quantized;
use crate::isa::{ActivationBlock, CodeBlock, Isa, prefetch};
use bitnet_core::ternary::{ROW_BLOCK, ScaleGranularity};

/// Returns the number of half blocks that share a scale; `None` if whole rows do.
pub(super) fn group_halves(weight: &CpuMatrix) -> Option<usize> {
    match weight.granularity() {
        ScaleGranularity::Tensor | ScaleGranularity::Row => None,
        ScaleGranularity::Group(n) => Some(n / (ROW_BLOCK / 2)),
    }
}

/// Adds sums of half blocks (`[halves]`) to those of groups (`[groups]`), without the padding behind the last group.
#[inline(always)]
fn group_sums(halves: &[i32], len: usize, out: &mut [i32]) {
    match len {
        1 => out.copy_from_slice(&halves[..out.len()]),
        2 => {
            for (out, [low, high]) in out.iter_mut().zip(halves.as_chunks().0) {
                *out = low.wrapping_add(*high);
            }
        }
        _ => {
            for (out, group) in out.iter_mut().zip(halves.chunks(len.max(1))) {
                *out = group.iter().fold(0, |sum, half| sum.wrapping_add(*half));
            }
        }
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
    for (chunk, (codes, x)) in codes.chunks(8).zip(x.chunks(8)).enumerate() {
        let mut sums = [[isa.zero_acc32(); 8]; T];
        for (k, (codes, x)) in codes.iter().zip(x).enumerate() {
            let codes = isa.unpack(codes);
            for (sums, x) in sums.iter_mut().zip(x) {
                sums[k] = isa.flush_acc(sums[k], isa.multiply_add(isa.zero_acc16(), codes, x));
            }
        }
        for (halves, sums) in halves.chunks_exact_mut(width).zip(sums) {
            let [low, high] = isa.reduce_add_halves8(sums);
            let (pairs, _) = halves[16 * chunk..].as_chunks_mut();
            for (pair, (low, high)) in pairs.iter_mut().zip(low.into_iter().zip(high)) {
                *pair = [low, high];
            }
        }
    }
}

/// Some rows of a weight whose scales belong to groups, and the activations that they meet.
pub(super) struct GroupRows<'a> {
    pub(super) weight: &'a CpuMatrix,
    /// Half blocks of a group.
    pub(super) len: usize,
    pub(super) x: &'a Quantized,
    pub(super) rows: Range<usize>,
}

impl GroupRows<'_> {
    /// Computes the dots of a tile of `T` tokens, whose activations are `blocks`.
    #[inline(always)]
    pub(super) fn dots<I: Isa, const T: usize>(
        &self,
        isa: I,
        tile: &Range<usize>,
        blocks: &[[ActivationBlock; T]],
        sink: &mut DotSink<'_, '_>,
    ) {
        let Self { weight, len, x, rows } = self;
        let groups = groups(weight);
        let mut sums = vec![0i32; T * groups];
        for (token, sums) in tile.clone().zip(sums.chunks_exact_mut(groups)) {
            group_sums(x.sums(token), *len, sums);
        }
        let mut dots = vec![0i32; T * GROUP_ROWS * groups];
        let mut halves = vec![0i32; T * 2 * x.width];
        let distance = prefetch_rows(x.width);
        for first in rows.clone().step_by(GROUP_ROWS) {
            let few = GROUP_ROWS.min(rows.end - first);
            for index in 0..few {
                let codes = weight.row_blocks(first + index);
                for line in (0..codes.len()).step_by(2) {
                    prefetch(codes.as_ptr().wrapping_add(distance * codes.len() + line));
                }
                half_sums(isa, codes, blocks, &mut halves);
                let each = dots.chunks_exact_mut(GROUP_ROWS * groups);
                let each = each.zip(halves.chunks_exact(2 * x.width));
                for ((dots, halves), sums) in each.zip(sums.chunks_exact(groups)) {
                    let dots = &mut dots[index * groups..(index + 1) * groups];
                    group_sums(halves, *len, dots);
                    for (dot, sum) in dots.iter_mut().zip(sums) {
                        *dot = dot.wrapping_sub(*sum);
                    }
                }
            }
            for (token, dots) in tile.clone().zip(dots.chunks_exact(GROUP_ROWS * groups)) {
                sink.push(isa, token, first, &dots[..few * groups]);
            }
        }
    }
}

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
fn add_group_sums(halves: &[i32], len: usize, out: &mut [i32]) {
    if len == 1 {
        for (out, half) in out.iter_mut().zip(halves) {
            *out = out.wrapping_add(*half);
        }
        return;
    }
    for (out, group) in out.iter_mut().zip(halves.chunks(len.max(1))) {
        *out = group.iter().fold(*out, |sum, half| sum.wrapping_add(*half));
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
            let lanes = lanes(isa, std::array::from_ref(codes), std::array::from_ref(x));
            for (sums, lanes) in sums.iter_mut().zip(lanes) {
                sums[k] = lanes;
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

/// Groups whose lanes are added together.
const TOGETHER: usize = 4;

/// `Σ code·x` of `T` tokens over some blocks.
#[inline(always)]
pub(super) fn lanes<I: Isa, const T: usize, const B: usize>(
    isa: I,
    codes: &[CodeBlock; B],
    x: &[[ActivationBlock; T]; B],
) -> [I::Acc32; T] {
    const { assert!(B <= I::ACC16_BLOCKS) };
    let mut sums = [isa.zero_acc32(); T];
    if let (Some(x), [sum]) = (x.as_flattened().first_chunk(), &mut sums[..]) {
        *sum = isa.dot_single(*sum, codes, x);
        return sums;
    }
    let mut accs = [isa.zero_acc16(); T];
    for (codes, x) in codes.iter().zip(x) {
        let codes = isa.unpack(codes);
        for (acc, x) in accs.iter_mut().zip(x) {
            *acc = isa.multiply_add(*acc, codes, x);
        }
    }
    for (sum, acc) in sums.iter_mut().zip(accs) {
        *sum = isa.flush_acc(*sum, acc);
    }
    sums
}

/// `Σ code·x` of `T` tokens over each group of `B` whole blocks of a row, added to `dots`: those of token `t` begin at
/// `t * stride`.
#[inline(always)]
fn add_groups<I: Isa, const T: usize, const B: usize>(
    isa: I,
    codes: &[CodeBlock],
    x: &[[ActivationBlock; T]],
    stride: usize,
    dots: &mut [i32],
    groups: usize,
) {
    let (codes, x) = (codes.as_chunks::<B>().0, x.as_chunks::<B>().0);
    for first in (0..groups).step_by(TOGETHER) {
        let few = TOGETHER.min(groups - first);
        let mut sums = [[isa.zero_acc32(); TOGETHER]; T];
        for (index, (codes, x)) in codes[first..].iter().zip(&x[first..]).take(few).enumerate() {
            for (sums, lanes) in sums.iter_mut().zip(lanes(isa, codes, x)) {
                sums[index] = lanes;
            }
        }
        for (token, sums) in sums.into_iter().enumerate() {
            let dots = &mut dots[token * stride + first..][..few];
            for (dot, sum) in dots.iter_mut().zip(isa.reduce_add(sums)) {
                *dot = dot.wrapping_add(sum);
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
        let mut starts = vec![0i32; T * groups];
        for (token, starts) in tile.clone().zip(starts.chunks_exact_mut(groups)) {
            for (start, of_group) in starts.iter_mut().zip(x.group_starts(token, *len)) {
                *start = of_group;
            }
        }
        let stride = GROUP_ROWS * groups;
        let mut dots = vec![0i32; T * stride];
        let mut halves = Vec::new();
        let distance = prefetch_rows(x.width);
        for first in rows.clone().step_by(GROUP_ROWS) {
            let few = GROUP_ROWS.min(rows.end - first);
            for index in 0..few {
                let codes = weight.row_blocks(first + index);
                for line in (0..codes.len()).step_by(2) {
                    prefetch(codes.as_ptr().wrapping_add(distance * codes.len() + line));
                }
                let row = index * groups;
                let each = dots.chunks_exact_mut(stride).zip(starts.chunks_exact(groups));
                for (dots, starts) in each {
                    dots[row..row + groups].copy_from_slice(starts);
                }
                let dots = &mut dots[row..];
                match len {
                    2 => add_groups::<I, T, 1>(isa, codes, blocks, stride, dots, groups),
                    4 => add_groups::<I, T, 2>(isa, codes, blocks, stride, dots, groups),
                    8 => add_groups::<I, T, 4>(isa, codes, blocks, stride, dots, groups),
                    _ => {
                        halves.resize(T * 2 * x.width, 0);
                        half_sums(isa, codes, blocks, &mut halves);
                        let each = dots.chunks_mut(stride).zip(halves.chunks_exact(2 * x.width));
                        for (dots, halves) in each {
                            add_group_sums(halves, *len, &mut dots[..groups]);
                        }
                    }
                }
            }
            for (token, dots) in tile.clone().zip(dots.chunks_exact(stride)) {
                sink.push(isa, token, first, &dots[..few * groups]);
            }
        }
    }
}

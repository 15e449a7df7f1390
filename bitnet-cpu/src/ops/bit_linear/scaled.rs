//! Scales for groups, where scaled sums are exact in f64: lanes are multiplied by the scale of their group and added
//! up, so that lanes are added to one another once a row and not once a group.
//!
//! The sums of any order are the same then, and those of the reference.

use std::ops::Range;

use super::canonical::ScaleBuffer;
use super::dot::prefetch_rows;
use super::few::Rest;
use super::grouped::{group_halves, lanes};
use super::weight::{CpuMatrix, group_scales, groups};
use crate::activations::{INT8_TILE, Quantized, int8_tiles};
use crate::isa::{ActivationBlock, CodeBlock, Isa, Op, prefetch};
use crate::ops::pieces::pieces;
use bitnet_core::Result;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use bitnet_core::ternary::ScaleGranularity;

/// Returns the most tokens for which this takes less time than other kernels: tiles of eight need 32 registers.
const fn most_tokens<I: Isa>() -> usize {
    if I::EIGHT_BY_FOUR { 47 } else { 7 }
}

/// Bits of `Σ |code·q| + Σ |q|` beyond those of the number of columns: 7 of an activation and 2 for `code + 1`, at most 4.
const DOT_BITS: i32 = 9;

/// Returns whether `Σ dot · scale` over any of a row's lanes and groups is exact in f64: whether all are multiples of
/// the lowest bit of the smallest scale, and below 2⁵³ of them.
pub(super) fn is_exact(
    granularity: ScaleGranularity,
    cols: usize,
    scales: impl Iterator<Item = f32>,
) -> bool {
    if !matches!(granularity, ScaleGranularity::Group(64 | 128 | 256 | 512)) {
        return false;
    }
    let (mut lowest, mut highest) = (i32::MAX, i32::MIN);
    for scale in scales.filter(|scale| *scale != 0.0) {
        let bits = scale.to_bits() & 0x7fff_ffff;
        let (exponent, mantissa) = ((bits >> 23).cast_signed().max(1), bits & 0x7f_ffff);
        let mantissa = if bits >> 23 == 0 { mantissa } else { mantissa | 0x80_0000 };
        lowest = lowest.min(exponent + mantissa.trailing_zeros().cast_signed());
        highest = highest.max(exponent + (u32::BITS - mantissa.leading_zeros()).cast_signed());
    }
    let columns = usize::BITS - cols.leading_zeros();
    highest <= lowest || highest - lowest + columns.cast_signed() + DOT_BITS <= 53
}

/// `-Σ q` of the groups that a step of a row meets, each in the first of its lanes.
type Start = [i32; 8];

/// The product of a few tokens with rows of a weight that [`is_exact`].
pub(super) struct ScaledGemm<'a> {
    weight: &'a CpuMatrix,
    x: &'a Quantized,
    rest: &'a Rest,
    /// `-Σ q` over each group: `[tokens, steps]`.
    starts: PoolBuffer<Start>,
    steps: usize,
    /// Half blocks of a group.
    len: usize,
}

impl<'a> ScaledGemm<'a> {
    /// `None` for a weight or a number of tokens for which other kernels do better. `rest` is that of `x`.
    ///
    /// # Errors
    /// [`bitnet_core::Error::OutOfMemory`].
    pub(super) fn new<I: Isa>(
        weight: &'a CpuMatrix,
        x: &'a Quantized,
        rest: &'a Rest,
        pool: &HybridMemoryPool,
    ) -> Result<Option<Self>> {
        let is_exact = matches!(weight, CpuMatrix::Canonical(matrix) if matrix.is_exact());
        if !is_exact {
            return Ok(None);
        }
        let (Some(len), groups) = (group_halves(weight), groups(weight)) else { return Ok(None) };
        if x.tokens() > most_tokens::<I>() || groups == 0 {
            return Ok(None);
        }
        let steps = if len == 1 { groups.div_ceil(2) } else { groups };
        let mut starts = PoolBuffer::scratch(x.tokens() * steps, pool)?;
        for (token, starts) in starts.chunks_exact_mut(steps).enumerate() {
            let mut of_group = x.group_starts(token, len);
            for start in starts {
                *start = Start::default();
                start[0] = of_group.next().unwrap_or(0);
                if len == 1 {
                    // What a block holds behind the last group is zero.
                    start[4] = of_group.next().unwrap_or(0);
                }
            }
        }
        Ok(Some(Self { weight, x, rest, starts, steps, len }))
    }
}

/// The scales of both halves of a step: of one group, or of the two groups of a block.
#[inline(always)]
fn step_scales<const HALVES: bool>(scales: &[f32], step: usize) -> [f64; 2] {
    if HALVES {
        // Behind the last group a block holds zeros.
        let high = scales.get(2 * step + 1).map_or(0.0, |scale| f64::from(*scale));
        [f64::from(scales[2 * step]), high]
    } else {
        [f64::from(scales[step]); 2]
    }
}

/// `Σ dot · scale` of `T` tokens with one row, `B` blocks a step. Prefetches `ahead`.
#[inline(always)]
fn row_sums<I: Isa, const T: usize, const B: usize, const HALVES: bool>(
    isa: I,
    codes: &[CodeBlock],
    x: &[[ActivationBlock; T]],
    scales: &[f32],
    starts: &[&[Start]; T],
    mut ahead: *const CodeBlock,
) -> [f64; T] {
    let mut doubles = [isa.zero_doubles(); T];
    let steps = codes.as_chunks::<B>().0.iter().zip(x.as_chunks::<B>().0);
    for (step, (codes, x)) in steps.enumerate().take(starts[0].len()) {
        for line in (0..B).step_by(2) {
            prefetch(ahead.wrapping_add(line));
        }
        ahead = ahead.wrapping_add(B);
        let scale = step_scales::<HALVES>(scales, step);
        for ((doubles, sums), starts) in doubles.iter_mut().zip(lanes(isa, codes, x)).zip(starts) {
            *doubles = isa.add_scaled::<HALVES>(*doubles, sums, &starts[step], scale);
        }
    }
    doubles.map(|doubles| isa.reduce_doubles(doubles))
}

/// Rows whose scales are converted together, so that few rows wait for them.
const SCALE_ROWS: usize = 8;

/// Some rows of a [`ScaledGemm`]: `out[token][row - first] = x · weightᵀ`.
pub(super) struct ScaledRows<'g, 'a, 'b> {
    pub(super) gemm: &'g ScaledGemm<'a>,
    pub(super) rows: Range<usize>,
    pub(super) first: usize,
    pub(super) out: &'g mut [&'b mut [f32]],
}

impl Op for ScaledRows<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { gemm, rows, first, out } = self;
        let (x, rest) = (gemm.x, gemm.rest);
        let mut buffer = ScaleBuffer::default();
        let groups = groups(gemm.weight).max(1);
        for rows in pieces(rows, SCALE_ROWS) {
            let scales = group_scales(isa, gemm.weight, rows.clone(), &mut buffer);
            for (row, scales) in rows.zip(scales.chunks_exact(groups)) {
                let place = row - first;
                let row = (gemm.weight.row_blocks(row), scales);
                for tile in int8_tiles(rest.tokens.start) {
                    gemm.row::<I, INT8_TILE>(isa, row, &tile, x.tile(&tile), place, out);
                }
                let (tokens, blocks) = (&rest.tokens, rest.blocks(x));
                match tokens.len() {
                    0 => {}
                    1 => gemm.row::<I, 1>(isa, row, tokens, blocks, place, out),
                    2 => gemm.row::<I, 2>(isa, row, tokens, blocks, place, out),
                    3 => gemm.row::<I, 3>(isa, row, tokens, blocks, place, out),
                    4 => gemm.row::<I, 4>(isa, row, tokens, blocks, place, out),
                    5 => gemm.row::<I, 5>(isa, row, tokens, blocks, place, out),
                    6 => gemm.row::<I, 6>(isa, row, tokens, blocks, place, out),
                    _ => gemm.row::<I, 7>(isa, row, tokens, blocks, place, out),
                }
            }
        }
    }
}

impl ScaledGemm<'_> {
    /// `out[token][place] = x · weightᵀ` of one row, its codes and scales, and `T` tokens, whose activations are `blocks`.
    #[inline(always)]
    fn row<I: Isa, const T: usize>(
        &self,
        isa: I,
        (codes, scales): (&[CodeBlock], &[f32]),
        tokens: &Range<usize>,
        blocks: &[ActivationBlock],
        place: usize,
        out: &mut [&mut [f32]],
    ) {
        let blocks = blocks.as_chunks::<T>().0;
        let ahead = codes.as_ptr().wrapping_add(prefetch_rows(blocks.len()) * blocks.len());
        let mut starts: [&[Start]; T] = [&[]; T];
        let all = self.starts.chunks_exact(self.steps).skip(tokens.start);
        for (starts, all) in starts.iter_mut().zip(all) {
            *starts = all;
        }
        let starts = &starts;
        let sums = match self.len {
            1 => row_sums::<I, T, 1, true>(isa, codes, blocks, scales, starts, ahead),
            2 => row_sums::<I, T, 1, false>(isa, codes, blocks, scales, starts, ahead),
            4 => row_sums::<I, T, 2, false>(isa, codes, blocks, scales, starts, ahead),
            _ => row_sums::<I, T, 4, false>(isa, codes, blocks, scales, starts, ahead),
        };
        let places = out[tokens.clone()].iter_mut().zip(&self.x.scales[tokens.clone()]);
        for ((out, scale), sum) in places.zip(sums) {
            out[place] = (sum / f64::from(*scale)) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(cols: usize, scales: &[f32]) -> bool {
        is_exact(ScaleGranularity::Group(64), cols, scales.iter().copied())
    }

    #[test]
    fn sums_are_exact_where_all_scales_have_their_bits_in_53() {
        // 7 bits of 64 columns, and 9: 37 are left from the lowest bit of a scale to its highest one.
        assert!(exact(64, &[0.0]));
        assert!(exact(64, &[1.0, 0.5f32.powi(36)]));
        assert!(!exact(64, &[1.0, 0.5f32.powi(37)]));
        assert!(exact(64, &[1.5, -0.5f32.powi(36)]));
        assert!(!exact(64, &[1.5, 3.0 * 0.5f32.powi(38)]));
        // The smallest and the largest number of half precision, with eight more bits of columns.
        assert!(exact(64, &[0.5f32.powi(24), 4096.0]));
        assert!(!exact(64, &[0.5f32.powi(24), 65504.0]));
        assert!(exact(64, &[f32::from_bits(1), f32::from_bits(0x7f_ffff)]));
        assert!(!exact(64 * 256, &[[1.0f32 + f32::EPSILON; 255].as_slice(), &[0.001]].concat()));
    }
}

//! One token: four rows of codes at once, so that four sums are added across lanes together.

use super::weight::CpuMatrix;
use crate::isa::{ActivationBlock, CodeBlock, GroupedActivations, Isa, Op, prefetch};

/// Bytes between the codes in use and those that are prefetched: enough for the latency of memory, and near enough for
/// the processor's own prefetcher to see one stream.
const PREFETCH_DISTANCE: usize = 2560;

/// Rows of `blocks` blocks that [`PREFETCH_DISTANCE`] spans.
#[inline(always)]
pub(super) fn prefetch_rows(blocks: usize) -> usize {
    PREFETCH_DISTANCE.div_ceil((blocks * size_of::<CodeBlock>()).max(1))
}

/// `Σ code·x` of one token over some blocks, lanes not yet added. Prefetches `ahead`.
#[inline(always)]
fn single_sums<I: Isa>(
    isa: I,
    codes: &[CodeBlock],
    x: &[ActivationBlock],
    ahead: *const CodeBlock,
) -> I::Acc32 {
    let mut sums = isa.zero_acc32();
    let mut block = 0;
    let (codes_8, codes) = codes.as_chunks::<8>();
    let (x_8, x) = x.as_chunks::<8>();
    for (codes, x) in codes_8.iter().zip(x_8) {
        prefetch_blocks::<8>(ahead.wrapping_add(block));
        sums = isa.dot_single(sums, codes, x);
        block += 8;
    }
    let (codes_4, codes) = codes.as_chunks::<4>();
    let (x_4, x) = x.as_chunks::<4>();
    for (codes, x) in codes_4.iter().zip(x_4) {
        prefetch_blocks::<4>(ahead.wrapping_add(block));
        sums = isa.dot_single(sums, codes, x);
        block += 4;
    }
    let (codes_2, codes) = codes.as_chunks::<2>();
    let (x_2, x) = x.as_chunks::<2>();
    for (codes, x) in codes_2.iter().zip(x_2) {
        prefetch_blocks::<2>(ahead.wrapping_add(block));
        sums = isa.dot_single(sums, codes, x);
        block += 2;
    }
    if let ([codes, ..], [x, ..]) = (codes, x) {
        prefetch_blocks::<1>(ahead.wrapping_add(block));
        sums = isa.dot_single(sums, &[*codes], &[*x]);
    }
    sums
}

/// Prefetches the cache lines of `N` blocks.
#[inline(always)]
fn prefetch_blocks<const N: usize>(blocks: *const CodeBlock) {
    for line in (0..N).step_by(2) {
        prefetch(blocks.wrapping_add(line));
    }
}

/// `Σ code·x` of one token over some blocks: the sums over elements 0..64 and 64..128 of all blocks.
#[inline(always)]
pub(crate) fn block_sums<I: Isa>(isa: I, codes: &[CodeBlock], x: &[ActivationBlock]) -> [i32; 2] {
    isa.reduce_add_halves(single_sums(isa, codes, x, codes.as_ptr()))
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
    let mut sums = [isa.zero_acc32(); 4];
    for (sums, (codes, ahead)) in sums.iter_mut().zip(codes.into_iter().zip(ahead)) {
        *sums = single_sums(isa, codes, x, ahead);
    }
    isa.reduce_add(sums)
}

/// Rows of a weight.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WeightRows<'a> {
    /// One after the other, from this one on.
    From(usize),
    /// This one plus each of these.
    Listed(usize, &'a [u32]),
}

impl WeightRows<'_> {
    #[inline(always)]
    pub(super) fn row(self, index: usize) -> usize {
        match self {
            Self::From(first) => first + index,
            Self::Listed(first, rest) => first + rest[index] as usize,
        }
    }
}

/// `dots[i] += Σ code·x` of one token with the rows of a weight, one for each dot.
pub(crate) struct SingleDots<'a> {
    pub(crate) weight: &'a CpuMatrix,
    pub(crate) x: &'a [ActivationBlock],
    pub(crate) rows: WeightRows<'a>,
    pub(crate) dots: &'a mut [i32],
}

impl Op for SingleDots<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { weight, x, rows: of, dots } = self;
        let len = dots.len();
        let weight = match weight {
            CpuMatrix::Canonical(matrix) => matrix,
            CpuMatrix::Packed(weight) => {
                let x = GroupedActivations::new(x);
                return weight.vbmi().single(weight.codes(), &x, |index| of.row(index), dots);
            }
        };
        let all = weight.blocks();
        let codes = |row: usize| &all[row * x.len()..(row + 1) * x.len()];
        let distance = prefetch_rows(x.len());
        let (fours, rest) = dots.as_chunks_mut::<4>();
        for (index, dots) in fours.iter_mut().enumerate() {
            let mut rows: [&[CodeBlock]; 4] = [&[]; 4];
            let mut ahead = [all.as_ptr(); 4];
            for i in 0..4 {
                let at = 4 * index + i;
                rows[i] = codes(of.row(at));
                ahead[i] = ahead[i].wrapping_add(of.row((at + distance).min(len - 1)) * x.len());
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

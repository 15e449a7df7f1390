//! A row of 4-bit codes times some vectors.

use crate::isa::{Isa, NibbleBlock, WideBlock, prefetch};

/// Blocks that are summed before accumulators are flushed.
const BLOCKS: usize = 4;

/// Returns `[Σ code · high, Σ code · low]` of a row of codes over `Q` vectors, whose blocks stand side by side in `x`.
/// Codes are unpacked once. Prefetches `ahead`. All three are of one length.
#[inline(always)]
pub(crate) fn int4_dots<I: Isa, const Q: usize>(
    isa: I,
    codes: &[NibbleBlock],
    x: &[[WideBlock; Q]],
    ahead: &[NibbleBlock],
) -> [[i32; 2]; Q] {
    const { assert!(I::INT4_BLOCKS >= BLOCKS) };
    let mut sums = [isa.zero_int4_sums(); Q];
    let (groups, rest) = codes.as_chunks::<BLOCKS>();
    let (x_groups, x_rest) = x.as_chunks::<BLOCKS>();
    for ((codes, x), ahead) in groups.iter().zip(x_groups).zip(ahead.as_chunks::<BLOCKS>().0) {
        // A cache line holds two blocks.
        prefetch(&raw const ahead[0]);
        prefetch(&raw const ahead[2]);
        sums = flushed_sums(isa, sums, codes, x);
    }
    sums = flushed_sums(isa, sums, rest, x_rest);
    let mut out = [[0; 2]; Q];
    for (out, sums) in out.iter_mut().zip(sums) {
        *out = isa.reduce_int4(sums);
    }
    out
}

/// `sums + code · x` over at most [`BLOCKS`] blocks.
#[inline(always)]
fn flushed_sums<I: Isa, const Q: usize>(
    isa: I,
    mut sums: [I::Int4Sums; Q],
    codes: &[NibbleBlock],
    x: &[[WideBlock; Q]],
) -> [I::Int4Sums; Q] {
    let mut accs = [isa.zero_int4_acc(); Q];
    for (codes, x) in codes.iter().zip(x) {
        for (acc, x) in accs.iter_mut().zip(x) {
            *acc = isa.multiply_add_int4(*acc, codes, x);
        }
    }
    for (sums, acc) in sums.iter_mut().zip(accs) {
        *sums = isa.flush_int4(*sums, acc);
    }
    sums
}

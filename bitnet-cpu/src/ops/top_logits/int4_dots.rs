//! A row of 4-bit codes times a vector.

use crate::isa::{Isa, NibbleBlock, WideBlock, prefetch};

/// Blocks that are summed before accumulators are flushed.
const BLOCKS: usize = 4;

/// Returns `[Σ code · high, Σ code · low]` of a row of codes over a vector. Prefetches
/// `ahead`. All three are of one length.
#[inline(always)]
pub(crate) fn int4_dots<I: Isa>(
    isa: I,
    codes: &[NibbleBlock],
    x: &[WideBlock],
    ahead: &[NibbleBlock],
) -> [i32; 2] {
    const { assert!(I::INT4_BLOCKS >= BLOCKS) };
    let mut sums = isa.zero_int4_sums();
    let (groups, rest) = codes.as_chunks::<BLOCKS>();
    let (x_groups, x_rest) = x.as_chunks::<BLOCKS>();
    for ((codes, x), ahead) in groups.iter().zip(x_groups).zip(ahead.as_chunks::<BLOCKS>().0) {
        // A cache line holds two blocks.
        prefetch(&raw const ahead[0]);
        prefetch(&raw const ahead[2]);
        let mut acc = isa.zero_int4_acc();
        for (codes, x) in codes.iter().zip(x) {
            acc = isa.multiply_add_int4(acc, codes, x);
        }
        sums = isa.flush_int4(sums, acc);
    }
    let mut acc = isa.zero_int4_acc();
    for (codes, x) in rest.iter().zip(x_rest) {
        acc = isa.multiply_add_int4(acc, codes, x);
    }
    isa.reduce_int4(isa.flush_int4(sums, acc))
}

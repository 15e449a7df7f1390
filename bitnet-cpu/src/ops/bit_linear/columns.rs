//! One token with many zeros: only the columns of weights that meet a number other than zero are read.
//!
//! The weights lie along the outputs, so that a column is one run of memory. Columns are added in pairs into exact
//! sums of 32 bits, `Σ code·q`; taking off `Σ q` leaves what the rows give, bit for bit, in whichever order.

use crate::activations::Quantized;
use crate::isa::{COLUMN_RUN, CodeBlock, ColumnPair, Isa, Op, PlaneSums};
use crate::ops::Machine;
use bitnet_core::Result;
use bitnet_core::ternary::{ROW_BLOCK, TernaryMatrix};

use super::row_blocks;

/// A column and its activation.
pub(super) type Column = (u32, i8);

/// The columns that a token does not leave at zero, in order. Fewer than 2³² columns.
pub(super) fn occupied(x: &Quantized, cols: usize, columns: &mut Vec<Column>) {
    columns.clear();
    columns.resize(cols.next_multiple_of(ROW_BLOCK), (0, 0));
    let mut len = 0;
    for (k, block) in x.tile(&(0..1)).iter().enumerate() {
        for b in 0..ROW_BLOCK / 4 {
            for (i, plane) in block.0.iter().enumerate() {
                // Written always and kept if it is not zero: without a branch, which no one could foresee.
                columns[len] = ((ROW_BLOCK * k + 4 * b + i) as u32, plane[b]);
                len += usize::from(plane[b] != 0);
            }
        }
    }
    columns.truncate(len);
}

/// Adds some columns of a weight, whose transposed matrix is given.
struct AddColumns<'a> {
    turned: &'a TernaryMatrix,
    columns: &'a [Column],
    sums: &'a mut [PlaneSums],
}

impl Op for AddColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { turned, columns, sums } = self;
        let mut pairs = [ColumnPair { codes: [&[], &[]], x: [0; 2] }; COLUMN_RUN];
        let mut ahead = [std::ptr::null::<CodeBlock>(); 2 * COLUMN_RUN];
        for (run, now) in columns.chunks(2 * COLUMN_RUN).enumerate() {
            for (pair, two) in pairs.iter_mut().zip(now.chunks(2)) {
                // An odd one out goes with itself times zero.
                let (first, second) = (two[0], two.get(1).copied().unwrap_or((two[0].0, 0)));
                let codes =
                    [row_blocks(turned, first.0 as usize), row_blocks(turned, second.0 as usize)];
                *pair = ColumnPair { codes, x: [first.1, second.1] };
            }
            let pairs = &pairs[..now.len().div_ceil(2)];
            let next = &columns[((run + 1) * 2 * COLUMN_RUN).min(columns.len())..];
            let mut len = 0;
            for (ahead, column) in ahead.iter_mut().zip(next) {
                *ahead = row_blocks(turned, column.0 as usize).as_ptr();
                len += 1;
            }
            for (block, sums) in sums.iter_mut().enumerate() {
                // A cache line holds two blocks: half of the columns with each.
                let half = if block % 2 == 0 { &ahead[..len / 2] } else { &ahead[len / 2..len] };
                for codes in half {
                    isa.prefetch(codes.wrapping_add(block));
                }
                isa.add_columns(pairs, block, sums);
            }
        }
    }
}

/// `Σ trit·q` of one token for every output into `dots` (`[rows]`), from the transposed matrix and the columns that
/// are not zero.
pub(super) fn column_dots(
    turned: &TernaryMatrix,
    columns: &[Column],
    dots: &mut [i32],
    machine: Machine<'_>,
) -> Result<()> {
    let blocks = turned.padded_cols() / ROW_BLOCK;
    let ranges = machine.threads.shares(columns.len(), turned.cols() / 8);
    let mut sums = vec![[[0i32; 32]; 4]; blocks * ranges.len().max(1)];
    let pieces = ranges.into_iter().zip(sums.chunks_exact_mut(blocks.max(1)));
    machine.threads.each(pieces.collect(), |(range, sums)| {
        machine.isa.run(AddColumns { turned, columns: &columns[range], sums });
        Ok(())
    })?;
    let total = columns.iter().fold(0i32, |sum, column| sum.wrapping_add(i32::from(column.1)));
    let (all, others) = sums.split_at_mut(blocks);
    for sums in others.chunks_exact(blocks.max(1)) {
        let pairs = all.as_flattened_mut().as_flattened_mut().iter_mut();
        for (all, sum) in pairs.zip(sums.as_flattened().as_flattened()) {
            *all = all.wrapping_add(*sum);
        }
    }
    for (dots, sums) in dots.chunks_mut(ROW_BLOCK).zip(all) {
        for (index, dot) in dots.iter_mut().enumerate() {
            *dot = sums[index % 4][index / 4].wrapping_sub(total);
        }
    }
    Ok(())
}

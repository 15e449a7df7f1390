//! One token with many zeros: only the columns of weights that meet a number other than zero are read.
//!
//! The weights lie along the outputs, so that a column is one run of memory. Columns are added in pairs into exact
//! sums of 32 bits, `Σ code·q`; taking off `Σ q` leaves what the rows give, bit for bit, in whichever order.

use crate::activations::Quantized;
use crate::isa::{COLUMN_RUN, ColumnPair, Isa, Op, PlaneSums};
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
        let codes = |column: &Column| row_blocks(turned, column.0 as usize);
        let mut pairs = [ColumnPair { codes: [&[], &[]], x: [0; 2] }; COLUMN_RUN];
        for (run, now) in columns.chunks(2 * COLUMN_RUN).enumerate() {
            for (pair, two) in pairs.iter_mut().zip(now.chunks(2)) {
                // An odd one out goes with itself times zero.
                let other = two.get(1).map_or(0, |column| column.1);
                let last = two.last().unwrap_or(&two[0]);
                *pair = ColumnPair { codes: [codes(&two[0]), codes(last)], x: [two[0].1, other] };
            }
            let pairs = &pairs[..now.len().div_ceil(2)];
            let next = &columns[((run + 1) * 2 * COLUMN_RUN).min(columns.len())..];
            let next = &next[..next.len().min(2 * COLUMN_RUN)];
            for (block, sums) in sums.iter_mut().enumerate() {
                if block % 2 == 0 {
                    for column in next {
                        isa.prefetch(codes(column).as_ptr().wrapping_add(block));
                    }
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
    let ranges = machine.threads.ranges(columns.len(), turned.cols() / 8);
    let mut sums = vec![[[0i32; 32]; 4]; blocks * ranges.len()];
    let pieces = ranges.into_iter().zip(sums.chunks_exact_mut(blocks.max(1)));
    machine.threads.each(pieces.collect(), |(range, sums)| {
        machine.isa.run(AddColumns { turned, columns: &columns[range], sums });
        Ok(())
    })?;
    let total = columns.iter().fold(0i32, |sum, column| sum.wrapping_add(i32::from(column.1)));
    dots.fill(total.wrapping_neg());
    for sums in sums.chunks_exact(blocks.max(1)) {
        for (dots, sums) in dots.chunks_mut(ROW_BLOCK).zip(sums) {
            for (index, dot) in dots.iter_mut().enumerate() {
                *dot = dot.wrapping_add(sums[index % 4][index / 4]);
            }
        }
    }
    Ok(())
}

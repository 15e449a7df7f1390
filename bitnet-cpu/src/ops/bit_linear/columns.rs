//! One token with many zeros: only the columns of weights that meet a number other than zero are read.
//!
//! The weights lie along the outputs, so that a column is one run of memory. Columns are added in pairs into exact
//! sums of 32 bits, `Σ code·q`; taking off `Σ q` leaves what the rows give, bit for bit, in whichever order.

use crate::activations::Quantized;
use crate::isa::{COLUMN_RUN, ColumnPair, ColumnRun, Isa, Op, PlaneSums};
use crate::ops::Machine;
use bitnet_core::Result;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use bitnet_core::ternary::{ROW_BLOCK, TernaryMatrix};

use super::row_blocks;

/// A column and its activation, from -128 to 127.
pub(super) type Column = [i32; 2];

/// The columns that a token does not leave at zero, in order, in `columns`, which has a place for each column with those that
/// fill its last block up. Fewer than 2³¹ columns.
pub(super) fn occupied<'a>(x: &Quantized, columns: &'a mut [Column]) -> &'a [Column] {
    let mut len = 0;
    for (k, block) in x.tile(&(0..1)).iter().enumerate() {
        for b in 0..ROW_BLOCK / 4 {
            for (i, plane) in block.0.iter().enumerate() {
                // Written always and kept if it is not zero: without a branch, which no one could foresee.
                columns[len] = [(ROW_BLOCK * k + 4 * b + i) as i32, i32::from(plane[b])];
                len += usize::from(plane[b] != 0);
            }
        }
    }
    &columns[..len]
}

/// Columns that are read side by side.
const FOUR: usize = 4;

/// Adds some columns of a weight, whose transposed matrix is given.
struct AddColumns<'a> {
    turned: &'a TernaryMatrix,
    columns: &'a [Column],
    sums: &'a mut [PlaneSums],
    pool: &'a HybridMemoryPool,
}

impl Op for AddColumns<'_> {
    type Output = Result<()>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<()> {
        let Self { turned, columns, sums, pool } = self;
        let mut room = PoolBuffer::scratch(sums.len(), pool)?;
        let runs: &mut [ColumnRun] = &mut room;
        runs.fill(ColumnRun::ZERO);
        sums.fill([[0; 32]; 4]);
        for (index, now) in columns.chunks(FOUR).enumerate() {
            let pairs = [pair(turned, now), pair(turned, now.get(2..).unwrap_or_default())];
            // The four after the next are asked for while these are added: a line of each for every two blocks.
            let next = &columns[((index + 2) * FOUR).min(columns.len())..];
            let mut ahead = [pairs[0].codes[0].as_ptr(); FOUR];
            for (ahead, column) in ahead.iter_mut().zip(next) {
                *ahead = row_blocks(turned, column[0] as usize).as_ptr();
            }
            for (block, run) in runs.iter_mut().enumerate() {
                if block % 2 == 0 {
                    for codes in ahead {
                        isa.prefetch(codes.wrapping_add(block));
                    }
                }
                isa.add_columns(&pairs, block, run);
            }
            if ((index + 1) * FOUR).is_multiple_of(2 * COLUMN_RUN) {
                for (run, sums) in runs.iter_mut().zip(&mut *sums) {
                    isa.widen_columns(run, sums);
                }
            }
        }
        for (run, sums) in runs.iter_mut().zip(sums) {
            isa.widen_columns(run, sums);
        }
        Ok(())
    }
}

/// The first two of some columns; where there are fewer, a column times zero.
#[inline(always)]
fn pair<'a>(turned: &'a TernaryMatrix, columns: &[Column]) -> ColumnPair<'a> {
    let first = columns.first().copied().unwrap_or_default();
    let second = columns.get(1).copied().unwrap_or([first[0], 0]);
    let codes = [first, second].map(|column| row_blocks(turned, column[0] as usize));
    ColumnPair { codes, x: [first[1] as i8, second[1] as i8] }
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
    let pool = machine.pool;
    let mut sums: PoolBuffer<PlaneSums> = PoolBuffer::scratch(blocks * ranges.len().max(1), pool)?;
    if ranges.len() == 0 {
        sums.fill([[0; 32]; 4]);
    }
    let pieces = ranges.zip(sums.chunks_exact_mut(blocks.max(1)));
    machine.threads.each(pieces, |(range, sums)| {
        machine.isa.run_shared(AddColumns { turned, columns: &columns[range], sums, pool })
    })?;
    let total = columns.iter().fold(0i32, |sum, column| sum.wrapping_add(column[1]));
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

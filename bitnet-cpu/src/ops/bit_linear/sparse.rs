//! One token with many zeros: the columns of weights that meet a zero are not read.
//!
//! The weights lie along the outputs, so that a column is one run of memory. Columns are added in pairs into exact
//! sums of 32 bits, `Σ code·q`; taking off `Σ q` leaves what the rows give, bit for bit, in whichever order.

use std::sync::atomic::Ordering;

use super::rescale::Rescale;
use super::weight::{CpuWeight, row_blocks};
use crate::activations::Quantized;
use crate::exec::ExecContext;
use crate::isa::{COLUMN_PAIRS, ColumnAcc16, ColumnPair, Isa, Op, PlaneSums, prefetch};
use bitnet_core::Result;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use bitnet_core::ternary::{ROW_BLOCK, TernaryMatrix};

/// A column and its activation, from -128 to 127.
type Column = [i32; 2];

/// Writes the columns whose activation is not zero to `columns`, in order, and returns them. `columns` has a place for
/// each column, the padding of the last block included; there are fewer than 2³¹.
fn occupied<'a>(x: &Quantized, columns: &'a mut [Column]) -> &'a [Column] {
    let mut len = 0;
    for (k, block) in x.tile(&(0..1)).iter().enumerate() {
        for b in 0..ROW_BLOCK / 4 {
            for (i, plane) in block.0.iter().enumerate() {
                // Written always, and overwritten if it is zero: a branch would be unpredictable.
                columns[len] = [(ROW_BLOCK * k + 4 * b + i) as i32, i32::from(plane[b])];
                len += usize::from(plane[b] != 0);
            }
        }
    }
    &columns[..len]
}

/// Percentage of columns that must be zero for columns to be read one by one.
const SPARSE_PERCENT: usize = 25;

/// Computes one token with a weight that was prepared for sparse inputs; returns `false`, and computes nothing, if the
/// token or the weight is not sparse.
pub(super) fn sparse_token(
    x: &Quantized,
    weight: &CpuWeight,
    out: &mut [f32],
    exec: ExecContext<'_>,
) -> Result<bool> {
    let (1, Some(transposed)) = (x.tokens(), &weight.transposed) else { return Ok(false) };
    let cols = transposed.rows();
    let mut places = PoolBuffer::scratch(cols.next_multiple_of(ROW_BLOCK), exec.scratch_pool)?;
    let occupied = occupied(x, &mut places);
    if occupied.len() * 100 > cols * (100 - SPARSE_PERCENT) {
        return Ok(false);
    }
    let mut dots = PoolBuffer::scratch(weight.matrix.rows(), exec.scratch_pool)?;
    column_dots(transposed, occupied, &mut dots, exec)?;
    exec.isa.run(Rescale {
        weight: &weight.matrix,
        row: 0,
        dots: &dots,
        activation_scale: x.scales[0],
        out,
    });
    let column_bytes = transposed.words().len() * 4 / cols.max(1);
    let traffic = exec.traffic;
    traffic.ternary_bytes.fetch_add((occupied.len() * column_bytes) as u64, Ordering::Relaxed);
    traffic.sparse_columns.fetch_add(cols as u64, Ordering::Relaxed);
    traffic.sparse_columns_skipped.fetch_add((cols - occupied.len()) as u64, Ordering::Relaxed);
    Ok(true)
}

/// Columns that are read side by side.
const FOUR: usize = 4;

/// Adds some columns of a weight, from its transposed matrix.
struct AddColumns<'a> {
    transposed: &'a TernaryMatrix,
    columns: &'a [Column],
    sums: &'a mut [PlaneSums],
    pool: &'a HybridMemoryPool,
}

impl Op for AddColumns<'_> {
    type Output = Result<()>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<()> {
        let Self { transposed, columns, sums, pool } = self;
        let mut scratch = PoolBuffer::scratch(sums.len(), pool)?;
        let accs: &mut [ColumnAcc16] = &mut scratch;
        accs.fill(ColumnAcc16::ZERO);
        sums.fill([[0; 32]; 4]);
        for (index, now) in columns.chunks(FOUR).enumerate() {
            let pairs = [pair(transposed, now), pair(transposed, now.get(2..).unwrap_or_default())];
            // The four after the next are prefetched while these are added: a line of each for every two blocks.
            let next = &columns[((index + 2) * FOUR).min(columns.len())..];
            let mut ahead = [pairs[0].codes[0].as_ptr(); FOUR];
            for (ahead, column) in ahead.iter_mut().zip(next) {
                *ahead = row_blocks(transposed, column[0] as usize).as_ptr();
            }
            for (block, acc) in accs.iter_mut().enumerate() {
                if block % 2 == 0 {
                    for codes in ahead {
                        prefetch(codes.wrapping_add(block));
                    }
                }
                isa.add_columns(&pairs, block, acc);
            }
            if ((index + 1) * FOUR).is_multiple_of(2 * COLUMN_PAIRS) {
                for (acc, sums) in accs.iter_mut().zip(&mut *sums) {
                    isa.flush_columns(acc, sums);
                }
            }
        }
        for (acc, sums) in accs.iter_mut().zip(sums) {
            isa.flush_columns(acc, sums);
        }
        Ok(())
    }
}

/// Returns the first two of some columns; where there are fewer, a column times zero.
#[inline(always)]
fn pair<'a>(transposed: &'a TernaryMatrix, columns: &[Column]) -> ColumnPair<'a> {
    let first = columns.first().copied().unwrap_or_default();
    let second = columns.get(1).copied().unwrap_or([first[0], 0]);
    let codes = [first, second].map(|column| row_blocks(transposed, column[0] as usize));
    ColumnPair { codes, x: [first[1] as i8, second[1] as i8] }
}

/// Computes `Σ trit·q` of one token for every output into `dots` (`[rows]`), from the transposed matrix and the columns
/// whose activation is not zero.
fn column_dots(
    transposed: &TernaryMatrix,
    columns: &[Column],
    dots: &mut [i32],
    exec: ExecContext<'_>,
) -> Result<()> {
    let blocks = transposed.padded_cols() / ROW_BLOCK;
    let ranges = exec.threads.shares(columns.len(), transposed.cols() / 8);
    let pool = exec.scratch_pool;
    let mut sums: PoolBuffer<PlaneSums> = PoolBuffer::scratch(blocks * ranges.len().max(1), pool)?;
    if ranges.len() == 0 {
        sums.fill([[0; 32]; 4]);
    }
    let pieces = ranges.zip(sums.chunks_exact_mut(blocks.max(1)));
    exec.threads.each(pieces, |(range, sums)| {
        exec.isa.run_shared(AddColumns { transposed, columns: &columns[range], sums, pool })
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

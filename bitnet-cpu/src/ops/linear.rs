//! Dense layers: plain float types by a kernel of their own, every other storage one decoded row at a time.
//!
//! The bound against the exact result is that of the dot product, see `dot.rs`.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::dot::{Bf16, F16, F32, Plain, Stored, dots};
use super::pieces::pieces;
use crate::exec::ExecContext;
use crate::isa::{Isa, Op};
use crate::threads::{Rows, columns};
use bitnet_core::backend::shape_check;
use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use bitnet_core::{Error, Result};

/// Tokens that meet a row together.
const TILE: usize = 4;

/// Rows that meet a tile of tokens before the next tile is taken.
const ROWS: usize = 8;

/// Rows that meet one token together, so that their sums do not wait for one another, where they are short. Of long
/// ones the processor's own prefetching follows one better than several.
const TOGETHER: usize = 4;

/// Bytes of a row that is short.
const SHORT: usize = 1024;

/// Returns the tiles of `tokens` tokens: as many of [`TILE`] as fit, then single tokens.
fn tiles(tokens: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let whole = tokens / TILE * TILE;
    let single = (whole..tokens).map(|token| token..token + 1);
    (0..whole).step_by(TILE).map(|token| token..token + TILE).chain(single)
}

/// `out = x · weightᵀ`. See [`bitnet_core::backend::Operations::linear`].
pub(crate) fn linear(
    x: &BitNetTensor,
    weight: &dyn DenseRows,
    out: &mut BitNetTensor,
    exec: ExecContext<'_>,
) -> Result<()> {
    let tokens = shape_check::linear(x, weight, out)?;
    let (rows, cols) = (weight.rows(), weight.cols());
    exec.traffic.dense_bytes.fetch_add(weight.bytes() as u64, Ordering::Relaxed);
    let ranges = exec.threads.ranges(rows, tokens.saturating_mul(cols));
    let x = x.f32()?;
    let parts = columns(out.f32_mut()?, rows, &ranges);
    let pool = exec.scratch_pool;
    exec.threads.each(ranges.zip(parts), |(rows, out)| {
        exec.isa.run_shared(Linear { x, tokens, weight, rows, out, pool })
    })
}

/// Some rows of the weight, for all tokens.
struct Linear<'a> {
    x: &'a [f32],
    tokens: usize,
    weight: &'a dyn DenseRows,
    rows: Range<usize>,
    out: Rows<'a>,
    pool: &'a HybridMemoryPool,
}

impl Op for Linear<'_> {
    type Output = Result<()>;

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) -> Result<()> {
        let (cols, all) = (self.weight.cols(), self.weight.rows() * self.weight.cols());
        match self.weight.plain() {
            Some((PlainType::F32, bytes)) if bytes.len() == all * 4 => {
                self.plain::<F32, I>(isa, bytes.as_chunks().0);
            }
            Some((PlainType::F16, bytes)) if bytes.len() == all * 2 => {
                self.plain::<F16, I>(isa, bytes.as_chunks().0);
            }
            Some((PlainType::BF16, bytes)) if bytes.len() == all * 2 => {
                self.plain::<Bf16, I>(isa, bytes.as_chunks().0);
            }
            Some((plain, bytes)) => {
                return Err(Error::Decode(format!(
                    "linear: {} bytes are not a [{}, {cols}] matrix of {plain:?}; the file is damaged",
                    bytes.len(),
                    self.weight.rows(),
                )));
            }
            None => return self.decoded(isa),
        }
        Ok(())
    }
}

impl Linear<'_> {
    #[inline(always)]
    fn plain<S: Stored, I: Isa>(&mut self, isa: I, weight: &[S::Raw]) {
        let cols = self.weight.cols();
        for rows in pieces(self.rows.clone(), ROWS) {
            let numbers = &weight[rows.start * cols..rows.end * cols];
            self.block::<S, I>(isa, rows, numbers);
        }
    }

    #[inline(always)]
    fn decoded<I: Isa>(&mut self, isa: I) -> Result<()> {
        let cols = self.weight.cols();
        let mut numbers = PoolBuffer::scratch(ROWS.min(self.rows.len()) * cols, self.pool)?;
        for rows in pieces(self.rows.clone(), ROWS) {
            for (index, row) in rows.clone().enumerate() {
                self.weight.decode_row(row, &mut numbers[index * cols..(index + 1) * cols])?;
            }
            let numbers = &numbers[..rows.len() * cols];
            self.block::<Plain, I>(isa, rows, numbers);
        }
        Ok(())
    }

    /// Computes a block of rows, whose numbers are `numbers`, for all tokens.
    #[inline(always)]
    fn block<S: Stored, I: Isa>(&mut self, isa: I, rows: Range<usize>, numbers: &[S::Raw]) {
        for tile in tiles(self.tokens) {
            if tile.len() == TILE {
                self.tile::<S, I, TILE>(isa, rows.clone(), numbers, tile);
            } else {
                self.tile::<S, I, 1>(isa, rows.clone(), numbers, tile);
            }
        }
    }

    #[inline(always)]
    fn tile<S: Stored, I: Isa, const T: usize>(
        &mut self,
        isa: I,
        rows: Range<usize>,
        numbers: &[S::Raw],
        tile: Range<usize>,
    ) {
        let cols = self.weight.cols();
        let mut xs = [&self.x[..0]; T];
        for (token, x) in tile.clone().zip(&mut xs) {
            *x = &self.x[token * cols..(token + 1) * cols];
        }
        let of_row = |index: usize| &numbers[index * cols..(index + 1) * cols];
        let mut index = 0;
        if const { T == 1 } && cols * size_of::<S::Raw>() <= SHORT {
            while index + TOGETHER <= rows.len() {
                let some = [of_row(index), of_row(index + 1), of_row(index + 2), of_row(index + 3)];
                let sums = dots::<S, I, TOGETHER, T>(isa, some, xs);
                for (row, sums) in (rows.start + index..).zip(sums) {
                    self.write(row, &tile, sums);
                }
                index += TOGETHER;
            }
        }
        for (index, row) in rows.enumerate().skip(index) {
            let [sums] = dots::<S, I, 1, T>(isa, [of_row(index)], xs);
            self.write(row, &tile, sums);
        }
    }

    #[inline(always)]
    fn write<const T: usize>(&mut self, row: usize, tile: &Range<usize>, sums: [f32; T]) {
        for (token, sum) in tile.clone().zip(sums) {
            self.out[token][row - self.rows.start] = sum;
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn tiles_are_fours_then_ones() {
        assert_eq!(super::tiles(6).collect::<Vec<_>>(), [0..4, 4..5, 5..6]);
        assert_eq!(super::tiles(0).count(), 0);
    }
}

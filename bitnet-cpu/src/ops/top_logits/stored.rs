//! Rows as they are stored: decoded, and multiplied by the kernel of `linear`.

use crate::exec::ExecContext;
use crate::isa::{Isa, Op};
use crate::ops::dot::{Bf16, F16, F32, Plain, dots, floats};
use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_core::{Error, Result};

/// Computes `x · row` for each of `rows` into `out`: bit for bit what `linear` computes.
pub(super) fn dots_of_rows(
    weight: &dyn DenseRows,
    x: &[f32],
    rows: &[u32],
    out: &mut [f32],
    exec: ExecContext<'_>,
) -> Result<()> {
    exec.for_each_rows(out, 1, weight.cols(), &|range, out| {
        exec.isa.run_shared(Dots { weight, x, rows: &rows[range], out })
    })
}

/// Some rows.
struct Dots<'a> {
    weight: &'a dyn DenseRows,
    x: &'a [f32],
    rows: &'a [u32],
    out: &'a mut [f32],
}

impl Op for Dots<'_> {
    type Output = Result<()>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<()> {
        let Self { weight, x, rows, out } = self;
        let mut numbers = vec![0f32; if weight.plain().is_none() { weight.cols() } else { 0 }];
        for (out, &row) in out.iter_mut().zip(rows) {
            let row = row as usize;
            [[*out]] = match weight.plain() {
                Some((PlainType::F32, bytes)) => {
                    dots::<F32, I, 1, 1>(isa, [of_row(bytes.as_chunks().0, weight, row)?], [x])
                }
                Some((PlainType::F16, bytes)) => {
                    dots::<F16, I, 1, 1>(isa, [of_row(bytes.as_chunks().0, weight, row)?], [x])
                }
                Some((PlainType::BF16, bytes)) => {
                    dots::<Bf16, I, 1, 1>(isa, [of_row(bytes.as_chunks().0, weight, row)?], [x])
                }
                None => {
                    weight.decode_row(row, &mut numbers)?;
                    dots::<Plain, I, 1, 1>(isa, [&numbers], [x])
                }
            };
        }
        Ok(())
    }
}

/// Decodes a row into `out` (`[cols]`).
#[inline(always)]
pub(super) fn decode<I: Isa>(
    isa: I,
    weight: &dyn DenseRows,
    row: usize,
    out: &mut [f32],
) -> Result<()> {
    match weight.plain() {
        Some((PlainType::F32, bytes)) => {
            floats::<F32, I>(isa, of_row(bytes.as_chunks().0, weight, row)?, out);
        }
        Some((PlainType::F16, bytes)) => {
            floats::<F16, I>(isa, of_row(bytes.as_chunks().0, weight, row)?, out);
        }
        Some((PlainType::BF16, bytes)) => {
            floats::<Bf16, I>(isa, of_row(bytes.as_chunks().0, weight, row)?, out);
        }
        None => return weight.decode_row(row, out),
    }
    Ok(())
}

fn of_row<'a, R>(numbers: &'a [R], weight: &dyn DenseRows, row: usize) -> Result<&'a [R]> {
    let cols = weight.cols();
    numbers.get(row * cols..(row + 1) * cols).ok_or_else(|| {
        Error::Decode(format!(
            "{}: the numbers of row {row} are not there; the file is damaged",
            weight.type_name()
        ))
    })
}

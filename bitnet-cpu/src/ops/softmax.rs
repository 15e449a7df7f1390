//! Softmax of each row in place: the reference's arithmetic, with the exponential of `exp.rs`.

use super::Machine;
use super::exp::exp;
use crate::isa::{Isa, Op};
use crate::threads::Pieces;
use bitnet_core::Result;
use bitnet_core::memory::tensor::BitNetTensor;

/// See [`bitnet_core::backend::Backend::softmax`].
pub(crate) fn softmax(x: &mut BitNetTensor, machine: Machine<'_>) -> Result<()> {
    let (rows, width) = x.dims2("softmax", "x")?;
    let mut rest = x.f32_mut()?;
    let mut pieces = Pieces::new();
    for range in machine.threads.ranges(rows, width.saturating_mul(8)) {
        let (rows, tail) = rest.split_at_mut(range.len() * width);
        rest = tail;
        pieces.push(Softmax { rows, width });
    }
    machine.threads.each(pieces, |piece| {
        machine.isa.run_shared(piece);
        Ok(())
    })
}

struct Softmax<'a> {
    rows: &'a mut [f32],
    width: usize,
}

impl Op for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        for row in self.rows.chunks_exact_mut(self.width.max(1)) {
            softmax_row(row);
        }
    }
}

/// `exp(x - max) / Σ exp(x - max)`; an empty row stays empty.
#[inline(always)]
fn softmax_row(row: &mut [f32]) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for x in row.iter_mut() {
        *x = exp(*x - largest);
    }
    let sum: f64 = row.iter().map(|&x| f64::from(x)).sum();
    let factor = (1.0 / sum) as f32;
    for x in row {
        *x *= factor;
    }
}

//! `x += y`, element by element, bit for bit what the reference computes.

use super::Machine;
use crate::isa::{Isa, Op};
use crate::threads::Pieces;
use bitnet_core::Result;
use bitnet_core::backend::shape_check;
use bitnet_core::memory::tensor::BitNetTensor;

/// See [`bitnet_core::backend::Operations::add`].
pub(crate) fn add(x: &mut BitNetTensor, y: &BitNetTensor, machine: Machine<'_>) -> Result<()> {
    shape_check::expect_same("add", x, y)?;
    let y = y.f32()?;
    let mut rest = x.f32_mut()?;
    let mut pieces = Pieces::new();
    for range in machine.threads.ranges(rest.len(), 1) {
        let (x, tail) = rest.split_at_mut(range.len());
        rest = tail;
        pieces.push(Add { x, y: &y[range] });
    }
    machine.threads.each(pieces, |piece| {
        machine.isa.run_shared(piece);
        Ok(())
    })
}

struct Add<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Op for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        for (x, y) in self.x.iter_mut().zip(self.y) {
            *x += y;
        }
    }
}

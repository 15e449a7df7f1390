//! `x += y`, element by element, bit for bit what the reference computes.

use crate::exec::ExecContext;
use crate::isa::{Isa, Op};
use bitnet_core::Result;
use bitnet_core::backend::shape_check;
use bitnet_core::memory::tensor::BitNetTensor;

/// See [`bitnet_core::backend::Operations::add`].
pub(crate) fn add(x: &mut BitNetTensor, y: &BitNetTensor, exec: ExecContext<'_>) -> Result<()> {
    shape_check::expect_same("add", x, y)?;
    let y = y.f32()?;
    exec.for_each_rows(x.f32_mut()?, 1, 1, &|range, x| {
        exec.isa.run_shared(Add { x, y: &y[range] });
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

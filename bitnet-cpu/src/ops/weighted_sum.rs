//! Weighted sums of rows, bit for bit what the reference computes: what a mixture of experts gives for each token.

use crate::exec::ExecContext;
use crate::isa::{Isa, Op};
use bitnet_core::Result;
use bitnet_core::backend::shape_check;
use bitnet_core::memory::tensor::BitNetTensor;

/// See [`bitnet_core::backend::Operations::weighted_sum`].
pub(crate) fn weighted_sum(
    x: &BitNetTensor,
    weights: &[f32],
    out: &mut BitNetTensor,
    exec: ExecContext<'_>,
) -> Result<()> {
    let each = shape_check::weighted_sum(x, weights, out)?;
    let (x, cols) = (x.f32()?, out.shape()[1]);
    exec.for_each_rows(out.f32_mut()?, cols, (1 + each) * cols, &|tokens, out| {
        let rows = tokens.start * each..tokens.end * each;
        let x = &x[rows.start * cols..rows.end * cols];
        exec.isa.run_shared(WeightedSum { x, weights: &weights[rows], each, cols, out });
        Ok(())
    })
}

/// Some tokens.
struct WeightedSum<'a> {
    x: &'a [f32],
    weights: &'a [f32],
    /// Rows of a token.
    each: usize,
    cols: usize,
    out: &'a mut [f32],
}

impl Op for WeightedSum<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let Self { x, weights, each, cols, out } = self;
        for (token, out) in out.chunks_exact_mut(cols).enumerate() {
            out.fill(0.0);
            for row in token * each..(token + 1) * each {
                for (out, x) in out.iter_mut().zip(&x[row * cols..][..cols]) {
                    *out += weights[row] * x;
                }
            }
        }
    }
}

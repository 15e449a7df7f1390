//! What weights of +2 add to the product with trits. They are few and lie anywhere in a row: their inputs are read one by
//! one, in the order of the reference, on every instruction set.

use crate::exec::ExecContext;
use bitnet_core::Result;
use bitnet_core::backend::shape_check;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::ternary::DoubledWeights;

/// See [`bitnet_core::backend::Operations::add_doubled`].
pub(crate) fn add_doubled(
    x: &BitNetTensor,
    weights: &DoubledWeights,
    out: &mut BitNetTensor,
    exec: ExecContext<'_>,
) -> Result<()> {
    let tokens = shape_check::add_doubled(x, weights, out)?;
    let (rows, cols) = (weights.rows(), weights.cols());
    if tokens == 0 || rows == 0 {
        return Ok(());
    }
    let (x, work) = (x.f32()?, 1 + weights.count() / rows);
    for (token, out) in out.f32_mut()?.chunks_exact_mut(rows).enumerate() {
        let x = &x[token * cols..][..cols];
        exec.for_each_rows(out, 1, work, &|range, out| {
            range.zip(out).for_each(|(row, out)| weights.add_row(row, x, out));
            Ok(())
        })?;
    }
    Ok(())
}

//! Rows of an embedding table, decoded for each token.

use crate::exec::ExecContext;
use bitnet_core::Result;
use bitnet_core::backend::shape_check;
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::tensor::BitNetTensor;

/// See [`bitnet_core::backend::Operations::embed`].
pub(crate) fn embed(
    table: &dyn DenseRows,
    tokens: &[u32],
    out: &mut BitNetTensor,
    exec: ExecContext<'_>,
) -> Result<()> {
    shape_check::embed(table, tokens, out)?;
    let width = table.cols();
    exec.for_each_rows(out.f32_mut()?, width, width, &|range, out| {
        let mut rows = tokens[range].iter().zip(out.chunks_exact_mut(width));
        rows.try_for_each(|(&token, out)| table.decode_row(token as usize, out))
    })
}

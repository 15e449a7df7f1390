//! Rows of an embedding table, decoded for each token.

use super::Machine;
use crate::threads::Pieces;
use bitnet_core::Result;
use bitnet_core::backend::shape_check;
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::tensor::BitNetTensor;

/// See [`bitnet_core::backend::Operations::embed`].
pub(crate) fn embed(
    table: &dyn DenseRows,
    tokens: &[u32],
    out: &mut BitNetTensor,
    machine: Machine<'_>,
) -> Result<()> {
    shape_check::embed(table, tokens, out)?;
    let width = table.cols();
    if width == 0 {
        return Ok(());
    }
    let mut rest = out.f32_mut()?;
    let mut pieces = Pieces::new();
    for range in machine.threads.ranges(tokens.len(), width) {
        let (out, tail) = rest.split_at_mut(range.len() * width);
        rest = tail;
        pieces.push((&tokens[range], out));
    }
    machine.threads.each(pieces, |(tokens, out)| {
        let mut rows = tokens.iter().zip(out.chunks_exact_mut(width));
        rows.try_for_each(|(&token, out)| table.decode_row(token as usize, out))
    })
}

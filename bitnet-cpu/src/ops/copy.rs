//! Rows of one tensor into rows of another.

use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::{Result, operands};

/// See [`bitnet_core::backend::Backend::copy`].
pub(crate) fn copy(x: &BitNetTensor, out: &mut BitNetTensor, first: usize) -> Result<()> {
    let range = operands::copy(x, out, first)?;
    out.f32_mut()?[range].copy_from_slice(x.f32()?);
    Ok(())
}

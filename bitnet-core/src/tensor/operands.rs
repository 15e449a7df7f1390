//! Operands and results: 16-bit floats are widened before an operation and rounded after it.

use std::borrow::Cow;

use crate::memory::HybridMemoryPool;
use crate::memory::tensor::{BitNetDType, BitNetTensor, CastRule};
use crate::{Error, Result};

/// The operand as f32: itself, or a widened copy of a 16-bit float tensor.
///
/// # Errors
/// [`Error::DTypeMismatch`] for integer types.
pub(super) fn wide<'a>(
    op: &'static str,
    x: &'a BitNetTensor,
    pool: &HybridMemoryPool,
) -> Result<Cow<'a, BitNetTensor>> {
    match x.dtype() {
        BitNetDType::F32 => Ok(Cow::Borrowed(x)),
        dtype if dtype.is_float() => Ok(Cow::Owned(x.to_f32(pool)?)),
        got => Err(Error::DTypeMismatch { op, got, expected: BitNetDType::F32 }),
    }
}

/// The element type of a result of two operands: theirs if it is the same, else f32.
pub(super) fn joint(a: &BitNetTensor, b: &BitNetTensor) -> BitNetDType {
    if a.dtype() == b.dtype() { a.dtype() } else { BitNetDType::F32 }
}

/// An f32 result as the element type of the operation.
pub(super) fn rounded(
    x: BitNetTensor,
    dtype: BitNetDType,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    if dtype == BitNetDType::F32 { Ok(x) } else { x.cast(dtype, CastRule::Checked, pool) }
}

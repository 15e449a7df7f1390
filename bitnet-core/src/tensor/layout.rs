//! Other orders of the elements in memory: columns first, or in blocks.

use crate::device::Device;
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::{BitNetDType, BitNetTensor, TensorMetadata};
use crate::{Error, Result};

/// A copy in column-major (Fortran) order, of the same shape, in the pool.
///
/// # Errors
/// As [`BitNetTensor::to_contiguous`].
pub fn to_column_major(x: &BitNetTensor, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
    let backwards: Vec<usize> = (0..x.shape().len()).rev().collect();
    x.permute(&backwards)?.to_contiguous(pool)?.permute(&backwards)
}

/// A `[rows, cols]` matrix as `[ceil(rows / r), ceil(cols / c), r, c]` contiguous blocks of `block = [r, c]`, in the
/// pool, padded with zeros.
///
/// ```
/// use bitnet_core::memory::HybridMemoryPool;
/// use bitnet_core::memory::tensor::BitNetTensor;
/// use bitnet_core::tensor::{from_blocks, to_blocks};
///
/// let pool = HybridMemoryPool::new()?;
/// let x = BitNetTensor::arange(1.0, 7.0, 1.0, &pool)?.view(&[2, 3])?;
/// let blocks = to_blocks(&x, [2, 2], &pool)?;
/// assert_eq!(blocks.shape(), [1, 2, 2, 2]);
/// assert_eq!(blocks.f32()?, [1.0, 2.0, 4.0, 5.0, 3.0, 0.0, 6.0, 0.0]);
/// assert_eq!(from_blocks(&blocks, [2, 3], &pool)?.to_contiguous(&pool)?.f32()?, x.f32()?);
/// # Ok::<(), bitnet_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::ShapeMismatch`] for anything but a matrix, [`Error::BadArgument`] for a block without elements,
/// [`Error::DTypeMismatch`] for types whose elements share bytes, [`Error::OutOfMemory`].
pub fn to_blocks(
    x: &BitNetTensor,
    block: [usize; 2],
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    let (rows, cols) = x.dims2("to_blocks", "the tensor")?;
    let [r, c] = block;
    if r == 0 || c == 0 {
        return Err(Error::BadArgument {
            op: "to_blocks",
            what: "the block",
            value: format!("{block:?}"),
            expected: "both extents must be at least 1",
        });
    }
    let (down, across) = (rows.div_ceil(r), cols.div_ceil(c));
    let full = [together(down, r)?, together(across, c)?];
    padded(x, full, pool)?.view(&[down, r, across, c])?.permute(&[0, 2, 1, 3])?.to_contiguous(pool)
}

/// The `[rows, cols]` matrix whose blocks [`to_blocks`] made, as a view of a copy in the pool.
///
/// # Errors
/// [`Error::ShapeMismatch`] if these are not the blocks of such a matrix, [`Error::OutOfMemory`].
pub fn from_blocks(
    blocks: &BitNetTensor,
    shape: [usize; 2],
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    let refused = || {
        let expected = format!("the blocks of a matrix of shape {shape:?}");
        blocks.mismatch("from_blocks", "the blocks", expected)
    };
    let [rows, cols] = shape;
    let &[down, across, r, c] = blocks.shape() else { return Err(refused()) };
    if r == 0 || c == 0 || rows.div_ceil(r) != down || cols.div_ceil(c) != across {
        return Err(refused());
    }
    let full = [together(down, r)?, together(across, c)?];
    let matrix = blocks.permute(&[0, 2, 1, 3])?.reshape(&full, pool)?;
    matrix.narrow(0, 0..rows)?.narrow(1, 0..cols)
}

fn together(blocks: usize, extent: usize) -> Result<usize> {
    blocks.checked_mul(extent).ok_or(Error::SizeOverflow { what: "tensor" })
}

/// The matrix, or a larger one of zeros with it in the corner.
fn padded(x: &BitNetTensor, shape: [usize; 2], pool: &HybridMemoryPool) -> Result<BitNetTensor> {
    let (elements, unit) = x.dtype().packing();
    if elements != 1 {
        let (got, expected) = (x.dtype(), BitNetDType::I8);
        return Err(Error::DTypeMismatch { op: "to_blocks", got, expected });
    }
    let x = x.to_contiguous(pool)?;
    if x.shape() == shape {
        return Ok(x);
    }
    let (from, to) = (x.shape()[1] * unit, shape[1] * unit);
    let mut out =
        BitNetTensor::new(TensorMetadata::row_major(&shape, x.dtype(), Device::Cpu), pool)?;
    if from > 0 {
        let rows = x.bytes()?.chunks_exact(from);
        for (out, row) in out.bytes_mut()?.chunks_exact_mut(to).zip(rows) {
            out[..from].copy_from_slice(row);
        }
    }
    Ok(out)
}

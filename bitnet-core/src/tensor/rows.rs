//! Contiguous rows for operations on the last dimension, and sums of them in f64.

use std::ops::Add;

use crate::Result;
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::BitNetTensor;
use crate::simd::joined;

/// Accumulators of a row; element `i` is added to accumulator `i % LANES` with every instruction set.
pub(super) const LANES: usize = 16;

#[inline(always)]
pub(super) fn total(lanes: [f64; LANES]) -> f64 {
    joined(lanes, Add::add)
}

/// Adds `numbers` to the accumulators.
#[inline(always)]
pub(super) fn add_up<T: Copy + Into<f64>>(lanes: &mut [f64; LANES], numbers: &[T]) {
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i].into();
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += x.into();
    }
}

#[inline(always)]
pub(super) fn sum(row: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    add_up(&mut lanes, row);
    total(lanes)
}

/// An unshared f32 copy of a float tensor with dimension `axis` last, and its extent.
///
/// # Errors
/// [`crate::Error::OutOfRange`] for an absent dimension, [`crate::Error::DTypeMismatch`]
/// for integer types, [`crate::Error::OutOfMemory`].
pub(super) fn rows_of(
    op: &'static str,
    x: &BitNetTensor,
    axis: usize,
    pool: &HybridMemoryPool,
) -> Result<(BitNetTensor, usize)> {
    x.expect_dim(op, axis)?;
    if !x.dtype().is_float() {
        x.expect_dtype(op, crate::memory::tensor::BitNetDType::F32)?;
    }
    let rows = x.transpose(axis, x.shape().len() - 1)?.to_f32(pool)?;
    Ok((rows, x.shape()[axis]))
}

/// Undoes the transposition of [`rows_of`].
pub(super) fn restore_axis(
    rows: BitNetTensor,
    axis: usize,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    let last = rows.shape().len() - 1;
    if axis == last { Ok(rows) } else { rows.transpose(axis, last)?.to_contiguous(pool) }
}

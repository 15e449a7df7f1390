//! Products of matrices and vectors.

use super::operands::{joint, rounded, wide};
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::{BitNetTensor, Walk, broadcast_shapes, elements_of};
use crate::simd::{self, Matrix, product};
use crate::{Error, Result};

/// The matrix product by NumPy's rules, in the pool: `[.., m, k] · [.., k, n]` is `[.., m, n]`, the dimensions before
/// the last two broadcast. A vector is a row on the left and a column on the right, and that dimension is not in the
/// result. Transposed and other strided operands are read in place.
///
/// Products are summed in f32: a result is off by at most `k · 2⁻²⁴ · Σ|a·b|`. Large matrices are copied in panels into
/// memory outside the pool (a few MiB) while they are multiplied.
///
/// ```
/// use bitnet_core::memory::HybridMemoryPool;
/// use bitnet_core::memory::tensor::BitNetTensor;
/// use bitnet_core::tensor::matmul;
///
/// let pool = HybridMemoryPool::new()?;
/// let x = BitNetTensor::from_f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &pool)?;
/// let weight = BitNetTensor::ones(&[4, 3], &pool)?; // [out, in], as layers keep it
/// let y = matmul(&x, &weight.transpose(0, 1)?, &pool)?;
/// assert_eq!(y.shape(), [2, 4]);
/// assert_eq!(y.f32()?, [6.0, 6.0, 6.0, 6.0, 15.0, 15.0, 15.0, 15.0]);
/// # Ok::<(), bitnet_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::ShapeMismatch`] if the inner extents differ or an operand has no dimension, [`Error::NotBroadcastable`],
/// [`Error::DTypeMismatch`] for integer types, [`Error::OutOfMemory`].
#[track_caller]
pub fn matmul(a: &BitNetTensor, b: &BitNetTensor, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
    let shape = result_shape(a, b)?;
    let dtype = joint(a, b);
    let (a, b) = (wide("matmul", a, pool)?, wide("matmul", b, pool)?);
    let mut out = BitNetTensor::scratch(&shape, pool)?;
    matmul_into(&a, &b, &mut out)?;
    rounded(out, dtype, pool)
}

/// As [`matmul`] for f32 tensors, into a contiguous f32 tensor of the result's shape.
///
/// # Errors
/// As [`matmul`], [`Error::ShapeMismatch`] for an output of another shape, and those of [`BitNetTensor::f32_mut`].
pub fn matmul_into(a: &BitNetTensor, b: &BitNetTensor, out: &mut BitNetTensor) -> Result<()> {
    out.expect_shape("matmul", "the output", &result_shape(a, b)?)?;
    let a = if a.shape().len() == 1 { a.unsqueeze(0)? } else { a.clone() };
    let b = if b.shape().len() == 1 { b.unsqueeze(1)? } else { b.clone() };
    let (batch_a, [m, k]) = split(a.shape())?;
    let (batch_b, [_, n]) = split(b.shape())?;
    // A batch of matrices times one matrix is one long matrix times it.
    if !batch_a.is_empty()
        && batch_b.is_empty()
        && let Some(rows) = elements_of(batch_a)?.checked_mul(m)
        && let Ok(long) = a.view(&[rows, k])
    {
        return multiply_each(&long, &b, &[], [rows, k, n], out.f32_mut()?);
    }
    let batch = broadcast_shapes(batch_a, batch_b)?;
    multiply_each(&a, &b, &batch, [m, k, n], out.f32_mut()?)
}

/// `out = a · b` for every pair of matrices (`[m, k]` and `[k, n]`) of a batch.
fn multiply_each(
    a: &BitNetTensor,
    b: &BitNetTensor,
    batch: &[usize],
    [m, k, n]: [usize; 3],
    out: &mut [f32],
) -> Result<()> {
    let (a, b) = (stretched(a, batch, [m, k])?, stretched(b, batch, [k, n])?);
    let ((a_all, a_start), (b_all, b_start)) = (a.strided_f32()?, b.strided_f32()?);
    let (a_strides, b_strides) = (a.metadata().strides(), b.metadata().strides());
    let rank = batch.len();
    let walk = Walk::new(batch, [&a_strides[..rank], &b_strides[..rank]], [a_start, b_start]);
    let (len, steps) = walk.run();
    let (level, outside) = (simd::active()?, || Error::SizeOverflow { what: "tensor view" });
    let mut products = out.chunks_exact_mut(m.saturating_mul(n).max(1));
    for starts in walk.cursor() {
        let [mut at_a, mut at_b] = starts;
        for _ in 0..len {
            let Some(out) = products.next() else { return Ok(()) };
            let a_steps = [a_strides[rank], a_strides[rank + 1]];
            let b_steps = [b_strides[rank], b_strides[rank + 1]];
            let a = Matrix::new(a_all, at_a, [m, k], a_steps).ok_or_else(outside)?;
            let b = Matrix::new(b_all, at_b, [k, n], b_steps).ok_or_else(outside)?;
            if !product(level, a, b, out) {
                return Err(outside());
            }
            at_a = at_a.wrapping_add_signed(steps[0]);
            at_b = at_b.wrapping_add_signed(steps[1]);
        }
    }
    Ok(())
}

fn stretched(x: &BitNetTensor, batch: &[usize], matrix: [usize; 2]) -> Result<BitNetTensor> {
    x.broadcast_to(&[batch, &matrix].concat())
}

/// The dimensions before the last two, and those.
fn split(shape: &[usize]) -> Result<(&[usize], [usize; 2])> {
    match shape {
        [batch @ .., rows, cols] => Ok((batch, [*rows, *cols])),
        _ => Err(Error::ShapeMismatch {
            op: "matmul",
            operand: "an operand",
            got: shape.to_vec(),
            expected: "at least one dimension".into(),
        }),
    }
}

fn result_shape(a: &BitNetTensor, b: &BitNetTensor) -> Result<Vec<usize>> {
    let (row, column) = (a.shape().len() == 1, b.shape().len() == 1);
    let left = if row { [&[1], a.shape()].concat() } else { a.shape().to_vec() };
    let right = if column { [b.shape(), &[1]].concat() } else { b.shape().to_vec() };
    let ((batch_a, [m, k]), (batch_b, [inner, n])) = (split(&left)?, split(&right)?);
    if k != inner {
        let expected = format!("{k} rows for a left operand of shape {:?}", a.shape());
        return Err(b.mismatch("matmul", "the right operand", expected));
    }
    let mut shape = broadcast_shapes(batch_a, batch_b)?;
    if !row {
        shape.push(m);
    }
    if !column {
        shape.push(n);
    }
    Ok(shape)
}

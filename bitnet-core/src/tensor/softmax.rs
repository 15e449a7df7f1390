//! Softmax and its logarithm along a dimension, and their gradients.

use super::math;
use super::operands::{joint, rounded};
use super::rows::{LANES, add_up, restore_axis, rows_of, sum, total};
use crate::Result;
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::BitNetTensor;
use crate::simd::{self, Kernel};

/// `e^x / Σ e^x` along `axis`, in the pool. The largest number is subtracted first, sums are computed in f64; a result
/// is off by at most 1.51 ulp of f32. A row with NaN or with positive infinity is all NaN.
///
/// ```
/// use bitnet_core::memory::HybridMemoryPool;
/// use bitnet_core::memory::tensor::BitNetTensor;
/// use bitnet_core::tensor::softmax;
///
/// let pool = HybridMemoryPool::new()?;
/// let logits = BitNetTensor::from_f32(&[2, 2], &[1000.0, 1000.0, 0.0, f32::NEG_INFINITY], &pool)?;
/// assert_eq!(softmax(&logits, 1, &pool)?.f32()?, [0.5, 0.5, 1.0, 0.0]);
/// # Ok::<(), bitnet_core::Error>(())
/// ```
///
/// # Errors
/// [`crate::Error::OutOfRange`] for an absent dimension, [`crate::Error::DTypeMismatch`] for integer types,
/// [`crate::Error::OutOfMemory`].
pub fn softmax(x: &BitNetTensor, axis: usize, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
    forward("softmax", x, axis, false, pool)
}

/// `x - ln Σ e^x` along `axis`, in the pool: the logarithm of [`softmax`], rounded once.
///
/// # Errors
/// Those of [`softmax`].
pub fn log_softmax(x: &BitNetTensor, axis: usize, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
    forward("log_softmax", x, axis, true, pool)
}

/// The gradient with respect to `x` for the gradient `gradient` with respect to `y = softmax(x)`, in the pool.
///
/// # Errors
/// [`crate::Error::ShapeMismatch`] if the shapes differ; those of [`softmax`].
pub fn softmax_backward(
    y: &BitNetTensor,
    gradient: &BitNetTensor,
    axis: usize,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    backward("softmax_backward", y, gradient, axis, false, pool)
}

/// The gradient with respect to `x` for the gradient `gradient` with respect to `y = log_softmax(x)`, in the pool.
///
/// # Errors
/// Those of [`softmax_backward`].
pub fn log_softmax_backward(
    y: &BitNetTensor,
    gradient: &BitNetTensor,
    axis: usize,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    backward("log_softmax_backward", y, gradient, axis, true, pool)
}

fn forward(
    op: &'static str,
    x: &BitNetTensor,
    axis: usize,
    log: bool,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    let (mut rows, len) = rows_of(op, x, axis, pool)?;
    simd::run(simd::active()?, Softmax { rows: rows.f32_mut()?, len, log });
    rounded(restore_axis(rows, axis, pool)?, x.dtype(), pool)
}

fn backward(
    op: &'static str,
    y: &BitNetTensor,
    gradient: &BitNetTensor,
    axis: usize,
    log: bool,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    gradient.expect_shape(op, "the gradient", y.shape())?;
    let (rows, len) = rows_of(op, y, axis, pool)?;
    let (mut gradients, _) = rows_of(op, gradient, axis, pool)?;
    let kernel = SoftmaxBackward { y: rows.f32()?, gradients: gradients.f32_mut()?, len, log };
    simd::run(simd::active()?, kernel);
    rounded(restore_axis(gradients, axis, pool)?, joint(y, gradient), pool)
}

/// Numbers whose powers are buffered in f64.
const PIECE: usize = 256;

struct Softmax<'a> {
    rows: &'a mut [f32],
    len: usize,
    log: bool,
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for row in self.rows.chunks_exact_mut(self.len.max(1)) {
            let largest = f64::from(largest(row));
            if self.log {
                let rest = sum_of_powers(row, largest).ln();
                for x in row {
                    *x = (f64::from(*x) - largest - rest) as f32;
                }
                continue;
            }
            let factor = 1.0 / powers(row, largest);
            for x in row {
                *x = (f64::from(*x) * factor) as f32;
            }
        }
    }
}

struct SoftmaxBackward<'a> {
    y: &'a [f32],
    gradients: &'a mut [f32],
    len: usize,
    log: bool,
}

impl Kernel for SoftmaxBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let len = self.len.max(1);
        for (g, y) in self.gradients.chunks_exact_mut(len).zip(self.y.chunks_exact(len)) {
            if self.log {
                let sum = sum(g);
                for (g, &y) in g.iter_mut().zip(y) {
                    *g = (f64::from(*g) - math::exp(f64::from(y)) * sum) as f32;
                }
                continue;
            }
            let sum = dot(g, y);
            for (g, &y) in g.iter_mut().zip(y) {
                *g = (f64::from(y) * (f64::from(*g) - sum)) as f32;
            }
        }
    }
}

/// The largest number that is not NaN.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = if x > *lane { x } else { *lane };
    }
    let mut largest = f32::NEG_INFINITY;
    for lane in lanes {
        largest = if lane > largest { lane } else { largest };
    }
    largest
}

/// `x = e^(x - largest)`; their sum before they were rounded to f32.
#[inline(always)]
fn powers(row: &mut [f32], largest: f64) -> f64 {
    let mut lanes = [0f64; LANES];
    let mut buffer = [0f64; PIECE];
    for piece in row.chunks_mut(PIECE) {
        let buffer = &mut buffer[..piece.len()];
        for (power, &x) in buffer.iter_mut().zip(piece.iter()) {
            *power = math::exp(f64::from(x) - largest);
        }
        for (x, &power) in piece.iter_mut().zip(buffer.iter()) {
            *x = power as f32;
        }
        add_up(&mut lanes, buffer);
    }
    total(lanes)
}

/// `Σ e^(x - largest)`
#[inline(always)]
fn sum_of_powers(row: &[f32], largest: f64) -> f64 {
    let mut lanes = [0f64; LANES];
    let mut buffer = [0f64; PIECE];
    for piece in row.chunks(PIECE) {
        let buffer = &mut buffer[..piece.len()];
        for (power, &x) in buffer.iter_mut().zip(piece) {
            *power = math::exp(f64::from(x) - largest);
        }
        add_up(&mut lanes, buffer);
    }
    total(lanes)
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0f64; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += f64::from(a[i]) * f64::from(b[i]);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += f64::from(a) * f64::from(b);
    }
    total(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::IsaLevel;

    #[test]
    fn every_level_gives_the_same_bits() {
        let pool = HybridMemoryPool::new().unwrap();
        let x = BitNetTensor::normal(&[4 * 77], 0.0, 5.0, 1, &pool).unwrap();
        let g = BitNetTensor::normal(&[4 * 77], 0.0, 1.0, 2, &pool).unwrap();
        for log in [false, true] {
            let at = |level| {
                let mut rows = x.f32().unwrap().to_vec();
                simd::run(level, Softmax { rows: &mut rows, len: 77, log });
                let mut gradients = g.f32().unwrap().to_vec();
                let back = SoftmaxBackward { y: &rows, gradients: &mut gradients, len: 77, log };
                simd::run(level, back);
                rows.into_iter().chain(gradients).map(f32::to_bits).collect::<Vec<_>>()
            };
            for level in IsaLevel::available() {
                assert_eq!(at(level), at(IsaLevel::Scalar), "{level}");
            }
        }
    }
}

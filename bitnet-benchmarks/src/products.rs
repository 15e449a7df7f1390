//! Dense f32 matrix products of this project and of ndarray, on one thread.

use std::hint::black_box;

use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_core::rng::SplitMix64;
use bitnet_core::tensor::matmul_into;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2};

use crate::sampling::{Plan, timed};

/// The measured library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// [`matmul_into`] of this project.
    Core,
    /// `general_mat_mul` of ndarray, which calls `matrixmultiply`.
    Ndarray,
}

/// A product `[m, k] · [k, n]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of the left matrix and of the result.
    pub m: usize,
    /// Columns of the left matrix.
    pub k: usize,
    /// Columns of the right matrix and of the result.
    pub n: usize,
    /// Whether the right matrix is stored as `[n, k]`, like weights of layers.
    pub transposed: bool,
}

/// Fills the operands.
struct Operands {
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Operands {
    /// Returns reproducible numbers between -1 and 1.
    fn new(shape: Shape) -> Self {
        let mut random = SplitMix64::new(17);
        let mut numbers = |len: usize| -> Vec<f32> {
            (0..len).map(|_| (random.unit() * 2.0 - 1.0) as f32).collect()
        };
        Self { a: numbers(shape.m * shape.k), b: numbers(shape.k * shape.n) }
    }
}

/// Measures nanoseconds per product.
///
/// # Errors
/// A message if memory is exhausted.
pub fn products(library: Library, shape: Shape, plan: &Plan) -> Result<Vec<f64>, String> {
    let operands = Operands::new(shape);
    match library {
        Library::Core => {
            in_core(&operands, shape, |product| timed(plan, 1.0, product)).map(|(t, _)| t)
        }
        Library::Ndarray => {
            in_ndarray(&operands, shape, |product| timed(plan, 1.0, product)).map(|(t, _)| t)
        }
    }
}

/// Passes this project's product to `with`, then the last result.
fn in_core<T>(
    operands: &Operands,
    shape: Shape,
    with: impl FnOnce(&mut dyn FnMut() -> Result<(), String>) -> Result<T, String>,
) -> Result<(T, Vec<f32>), String> {
    let said = |error: bitnet_core::Error| error.to_string();
    let Shape { m, k, n, transposed } = shape;
    let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).map_err(said)?;
    let a = BitNetTensor::from_f32(&[m, k], &operands.a, &pool).map_err(said)?;
    let stored = if transposed { [n, k] } else { [k, n] };
    let b = BitNetTensor::from_f32(&stored, &operands.b, &pool).map_err(said)?;
    let b = if transposed { b.transpose(0, 1).map_err(said)? } else { b };
    let mut out = BitNetTensor::zeros(&[m, n], &pool).map_err(said)?;
    let answer =
        with(&mut || matmul_into(black_box(&a), black_box(&b), black_box(&mut out)).map_err(said))?;
    Ok((answer, out.f32().map_err(said)?.to_vec()))
}

/// Like [`in_core`], with ndarray's product.
fn in_ndarray<T>(
    operands: &Operands,
    shape: Shape,
    with: impl FnOnce(&mut dyn FnMut() -> Result<(), String>) -> Result<T, String>,
) -> Result<(T, Vec<f32>), String> {
    let said = |error: ndarray::ShapeError| error.to_string();
    let Shape { m, k, n, transposed } = shape;
    let a = ArrayView2::from_shape((m, k), &operands.a).map_err(said)?;
    let stored = if transposed { (n, k) } else { (k, n) };
    let b = ArrayView2::from_shape(stored, &operands.b).map_err(said)?;
    let b = if transposed { b.reversed_axes() } else { b };
    let mut out = Array2::zeros((m, n));
    let answer = with(&mut || {
        general_mat_mul(1.0, black_box(&a), black_box(&b), 0.0, black_box(&mut out));
        Ok(())
    })?;
    Ok((answer, out.iter().copied().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_libraries_multiply_the_same_matrices() {
        for transposed in [false, true] {
            let shape = Shape { m: 37, k: 50, n: 41, transposed };
            let operands = Operands::new(shape);
            let (_, ours) = in_core(&operands, shape, |product| product()).unwrap();
            let (_, theirs) = in_ndarray(&operands, shape, |product| product()).unwrap();
            let at = |l: usize, j: usize| if transposed { j * 50 + l } else { l * 41 + j };
            for (index, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                let (i, j) = (index / 41, index % 41);
                let exact: f64 = (0..50)
                    .map(|l| f64::from(operands.a[i * 50 + l]) * f64::from(operands.b[at(l, j)]))
                    .sum();
                // 50 products below 1, each addition off by at most 2^-24 of 50.
                for sum in [ours, theirs] {
                    assert!((f64::from(*sum) - exact).abs() < 50.0 * 50.0 / 16_777_216.0);
                }
            }
        }
    }
}

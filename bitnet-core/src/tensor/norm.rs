//! Layer norm and RMS norm over the last dimension, and their gradients.

use super::operands::{joint, rounded, wide};
use super::rows::{LANES, rows_of, sum, total};
use crate::Result;
use crate::memory::tensor::BitNetTensor;
use crate::memory::{HybridMemoryPool, PoolBuffer};
use crate::simd::{self, Kernel};

/// Gradients of a norm.
#[derive(Debug, Clone)]
pub struct NormGradients {
    /// With respect to the operand.
    pub x: BitNetTensor,
    /// With respect to the weight, `[n]`, f32.
    pub weight: BitNetTensor,
    /// With respect to the bias of a layer norm, `[n]`, f32.
    pub bias: BitNetTensor,
}

/// `weight * (x - mean) / sqrt(var + eps) + bias` over the last dimension, in the pool; `weight` and `bias` are `[n]`,
/// or 1 and 0. Computed in f64 and rounded once.
///
/// ```
/// use bitnet_core::memory::HybridMemoryPool;
/// use bitnet_core::memory::tensor::BitNetTensor;
/// use bitnet_core::tensor::{layer_norm, rms_norm};
///
/// let pool = HybridMemoryPool::new()?;
/// let x = BitNetTensor::from_f32(&[1, 2], &[1.0, 3.0], &pool)?;
/// assert_eq!(layer_norm(&x, None, None, 0.0, &pool)?.f32()?, [-1.0, 1.0]);
/// let weight = BitNetTensor::full(&[2], 5f32.sqrt(), &pool)?;
/// assert_eq!(rms_norm(&x, Some(&weight), 0.0, &pool)?.f32()?, [1.0, 3.0]);
/// # Ok::<(), bitnet_core::Error>(())
/// ```
///
/// # Errors
/// [`crate::Error::OutOfRange`] for an operand without dimensions, [`crate::Error::ShapeMismatch`] for a weight or a
/// bias that is not `[n]`, [`crate::Error::DTypeMismatch`] for integer types, [`crate::Error::OutOfMemory`].
pub fn layer_norm(
    x: &BitNetTensor,
    weight: Option<&BitNetTensor>,
    bias: Option<&BitNetTensor>,
    eps: f32,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    forward("layer_norm", true, x, [weight, bias], eps, pool)
}

/// `weight * x / sqrt(mean(x²) + eps)` over the last dimension, in the pool; see [`layer_norm`].
///
/// # Errors
/// Those of [`layer_norm`].
pub fn rms_norm(
    x: &BitNetTensor,
    weight: Option<&BitNetTensor>,
    eps: f32,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    forward("rms_norm", false, x, [weight, None], eps, pool)
}

/// The gradients of [`layer_norm`] for the gradient `gradient` with respect to its result, in the pool.
///
/// # Errors
/// [`crate::Error::ShapeMismatch`] if the gradient is not shaped like `x`; those of [`layer_norm`].
pub fn layer_norm_backward(
    x: &BitNetTensor,
    weight: Option<&BitNetTensor>,
    eps: f32,
    gradient: &BitNetTensor,
    pool: &HybridMemoryPool,
) -> Result<NormGradients> {
    backward("layer_norm_backward", true, x, weight, eps, gradient, pool)
}

/// The gradients of [`rms_norm`] for the gradient `gradient` with respect to its result, in the pool.
///
/// # Errors
/// Those of [`layer_norm_backward`].
pub fn rms_norm_backward(
    x: &BitNetTensor,
    weight: Option<&BitNetTensor>,
    eps: f32,
    gradient: &BitNetTensor,
    pool: &HybridMemoryPool,
) -> Result<NormGradients> {
    backward("rms_norm_backward", false, x, weight, eps, gradient, pool)
}

fn forward(
    op: &'static str,
    centred: bool,
    x: &BitNetTensor,
    [weight, bias]: [Option<&BitNetTensor>; 2],
    eps: f32,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    let (mut rows, len) = last_rows(op, x, pool)?;
    let weight = vector(op, "the weight", weight, 1.0, len, pool)?;
    let bias = vector(op, "the bias", bias, 0.0, len, pool)?;
    let kernel = Norm {
        rows: rows.f32_mut()?,
        weight: weight.f32()?,
        bias: bias.f32()?,
        eps: f64::from(eps),
        centred,
    };
    simd::run(simd::active()?, kernel);
    rounded(rows, x.dtype(), pool)
}

fn backward(
    op: &'static str,
    centred: bool,
    x: &BitNetTensor,
    weight: Option<&BitNetTensor>,
    eps: f32,
    gradient: &BitNetTensor,
    pool: &HybridMemoryPool,
) -> Result<NormGradients> {
    gradient.expect_shape(op, "the gradient", x.shape())?;
    let (rows, len) = last_rows(op, x, pool)?;
    let (mut gradients, _) = last_rows(op, gradient, pool)?;
    let weight = vector(op, "the weight", weight, 1.0, len, pool)?;
    let mut sums = [PoolBuffer::zeroed(len, pool)?, PoolBuffer::zeroed(len, pool)?];
    let [for_weight, for_bias] = &mut sums;
    let kernel = NormBackward {
        rows: rows.f32()?,
        gradients: gradients.f32_mut()?,
        weight: weight.f32()?,
        for_weight,
        for_bias,
        eps: f64::from(eps),
        centred,
    };
    simd::run(simd::active()?, kernel);
    let [weight, bias] = sums;
    Ok(NormGradients {
        x: rounded(gradients, joint(x, gradient), pool)?,
        weight: narrowed(&weight, pool)?,
        bias: narrowed(&bias, pool)?,
    })
}

/// The rows of the last dimension as f32, and their length.
fn last_rows(
    op: &'static str,
    x: &BitNetTensor,
    pool: &HybridMemoryPool,
) -> Result<(BitNetTensor, usize)> {
    rows_of(op, x, x.shape().len().saturating_sub(1), pool)
}

/// A vector of `len` numbers as f32: `vector`, or `otherwise` everywhere.
fn vector(
    op: &'static str,
    operand: &'static str,
    vector: Option<&BitNetTensor>,
    otherwise: f32,
    len: usize,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    let Some(vector) = vector else { return BitNetTensor::full(&[len], otherwise, pool) };
    vector.expect_shape(op, operand, &[len])?;
    wide(op, vector, pool)?.to_contiguous(pool)
}

fn narrowed(sums: &[f64], pool: &HybridMemoryPool) -> Result<BitNetTensor> {
    let mut out = BitNetTensor::scratch(&[sums.len()], pool)?;
    for (out, &sum) in out.f32_mut()?.iter_mut().zip(sums) {
        *out = sum as f32;
    }
    Ok(out)
}

/// The mean that is subtracted from a row, and the factor that the row is then multiplied by.
#[inline(always)]
fn centre_and_factor(row: &[f32], centred: bool, eps: f64) -> (f64, f64) {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let count = row.len() as f64;
    let mean = if centred { sum(row) / count } else { 0.0 };
    let mut lanes = [0f64; LANES];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            let d = f64::from(x) - mean;
            *lane += d * d;
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        let d = f64::from(x) - mean;
        *lane += d * d;
    }
    (mean, 1.0 / (total(lanes) / count + eps).sqrt())
}

struct Norm<'a> {
    rows: &'a mut [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f64,
    centred: bool,
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for row in self.rows.chunks_exact_mut(self.weight.len().max(1)) {
            let (mean, factor) = centre_and_factor(row, self.centred, self.eps);
            for ((x, &weight), &bias) in row.iter_mut().zip(self.weight).zip(self.bias) {
                let normed = (f64::from(*x) - mean) * factor;
                *x = (normed * f64::from(weight) + f64::from(bias)) as f32;
            }
        }
    }
}

/// With n = (x - mean) · factor and h = gradient · weight: dx = factor · (h - mean(h) - n · mean(h · n)), without
/// mean(h) for an RMS norm; dweight = Σ gradient · n; dbias = Σ gradient.
struct NormBackward<'a> {
    rows: &'a [f32],
    gradients: &'a mut [f32],
    weight: &'a [f32],
    for_weight: &'a mut [f64],
    for_bias: &'a mut [f64],
    eps: f64,
    centred: bool,
}

impl Kernel for NormBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let len = self.weight.len().max(1);
        let rows = self.rows.chunks_exact(len).zip(self.gradients.chunks_exact_mut(len));
        for (row, gradient) in rows {
            let (mean, factor) = centre_and_factor(row, self.centred, self.eps);
            let (mut h_mean, n_mean) = means(row, gradient, self.weight, mean, factor);
            if !self.centred {
                h_mean = 0.0;
            }
            let sums = self.for_weight.iter_mut().zip(self.for_bias.iter_mut());
            let sums = sums.zip(self.weight);
            for ((&x, g), ((for_weight, for_bias), &weight)) in
                row.iter().zip(gradient.iter_mut()).zip(sums)
            {
                let (n, wide) = ((f64::from(x) - mean) * factor, f64::from(*g));
                *for_weight += wide * n;
                *for_bias += wide;
                *g = (factor * (wide * f64::from(weight) - h_mean - n * n_mean)) as f32;
            }
        }
    }
}

/// The means of h and of h · n; see [`NormBackward`].
#[inline(always)]
fn means(row: &[f32], gradient: &[f32], weight: &[f32], mean: f64, factor: f64) -> (f64, f64) {
    let (mut h_lanes, mut n_lanes) = ([0f64; LANES], [0f64; LANES]);
    let blocks = row.chunks(LANES).zip(gradient.chunks(LANES)).zip(weight.chunks(LANES));
    for ((row, gradient), weight) in blocks {
        let lanes = h_lanes.iter_mut().zip(n_lanes.iter_mut());
        let numbers = row.iter().zip(gradient).zip(weight);
        for ((h_lane, n_lane), ((&x, &g), &weight)) in lanes.zip(numbers) {
            let h = f64::from(g) * f64::from(weight);
            *h_lane += h;
            *n_lane += h * ((f64::from(x) - mean) * factor);
        }
    }
    let count = row.len() as f64;
    (total(h_lanes) / count, total(n_lanes) / count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::IsaLevel;

    #[test]
    fn every_level_gives_the_same_bits() {
        let pool = HybridMemoryPool::new().unwrap();
        let of = |count, seed| BitNetTensor::normal(&[count], 0.5, 2.0, seed, &pool).unwrap();
        let (x, g, w, b) = (of(3 * 53, 1), of(3 * 53, 2), of(53, 3), of(53, 4));
        let (weight, bias) = (w.f32().unwrap(), b.f32().unwrap());
        for centred in [false, true] {
            let at = |level| {
                let mut rows = x.f32().unwrap().to_vec();
                simd::run(level, Norm { rows: &mut rows, weight, bias, eps: 1e-5, centred });
                let mut gradients = g.f32().unwrap().to_vec();
                let (mut for_weight, mut for_bias) = (vec![0f64; 53], vec![0f64; 53]);
                let back = NormBackward {
                    rows: x.f32().unwrap(),
                    gradients: &mut gradients,
                    weight,
                    for_weight: &mut for_weight,
                    for_bias: &mut for_bias,
                    eps: 1e-5,
                    centred,
                };
                simd::run(level, back);
                let bits: Vec<u32> = rows.into_iter().chain(gradients).map(f32::to_bits).collect();
                (bits, for_weight, for_bias)
            };
            for level in IsaLevel::available() {
                assert_eq!(at(level), at(IsaLevel::Scalar), "{level}");
            }
        }
    }
}

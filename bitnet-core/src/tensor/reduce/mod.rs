//! Reductions: sums, extremes and their positions, variances, logical reductions.

mod loops;
mod reducers;

use loops::{Plan, Reducer, reduce_into};
use reducers::{All, Any, Centre, Deviations, Largest, Mean, Product, Smallest, Sum};

use super::operands::{rounded, wide};
use crate::device::Device;
use crate::memory::tensor::{BitNetDType, BitNetTensor, TensorMetadata};
use crate::memory::{HybridMemoryPool, PoolBuffer};
use crate::simd::{self, IsaLevel};
use crate::{Error, Result};

/// A reduction to a number of the operand's type.
///
/// NaN propagates. Sums, means and products are accumulated in f64 and rounded once, so that they overflow only if the
/// result does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// The sum; 0 of nothing.
    Sum,
    /// The mean; NaN of nothing.
    Mean,
    /// The product; 1 of nothing.
    Prod,
    /// The largest number; there is none of nothing.
    Max,
    /// The smallest number; there is none of nothing.
    Min,
}

impl Reduction {
    fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Prod => "prod",
            Self::Max => "max",
            Self::Min => "min",
        }
    }

    fn reduce_into(
        self,
        level: IsaLevel,
        x: &BitNetTensor,
        plan: &Plan,
        out: &mut [f32],
    ) -> Result<()> {
        match self {
            Self::Sum => reduce_into::<Sum>(level, x, plan, &[], out),
            Self::Mean => reduce_into::<Mean>(level, x, plan, &[], out),
            Self::Prod => reduce_into::<Product>(level, x, plan, &[], out),
            Self::Max => reduce_into::<Largest>(level, x, plan, &[], out),
            Self::Min => reduce_into::<Smallest>(level, x, plan, &[], out),
        }
    }
}

/// The positions of extremes along the reduced dimension, or in the flattened tensor.
#[derive(Debug)]
pub struct Indices {
    shape: Vec<usize>,
    values: PoolBuffer<u64>,
}

impl Indices {
    /// The extent of each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The positions, in row-major order.
    pub fn values(&self) -> &[u64] {
        &self.values
    }
}

/// Reduces over `axes` (all of them for `None`), in the pool. With `keep_dims`, reduced dimensions have extent 1.
///
/// ```
/// use bitnet_core::memory::HybridMemoryPool;
/// use bitnet_core::memory::tensor::BitNetTensor;
/// use bitnet_core::tensor::{self, Reduction};
///
/// let pool = HybridMemoryPool::new()?;
/// let x = BitNetTensor::arange(0.0, 6.0, 1.0, &pool)?.view(&[2, 3])?;
/// let columns = tensor::reduce(Reduction::Sum, &x, Some(&[0]), false, &pool)?;
/// assert_eq!(columns.f32()?, [3.0, 5.0, 7.0]);
/// assert_eq!(tensor::reduce(Reduction::Max, &x, None, false, &pool)?.item()?, 5.0);
/// assert_eq!(tensor::argmax(&x, Some(1), false, &pool)?.values(), [2, 2]);
/// # Ok::<(), bitnet_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::OutOfRange`] or [`Error::BadArgument`] for axes that are absent or repeated; [`Error::EmptyReduction`] for
/// `Max` and `Min` over axes of which one has no elements, as in NumPy even if there are no outputs;
/// [`Error::DTypeMismatch`] for integer types; [`Error::OutOfMemory`].
#[track_caller]
pub fn reduce(
    reduction: Reduction,
    x: &BitNetTensor,
    axes: Option<&[usize]>,
    keep_dims: bool,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    let op = reduction.name();
    let x32 = wide(op, x, pool)?;
    let plan = plan(op, &x32, axes, keep_dims)?;
    if matches!(reduction, Reduction::Max | Reduction::Min) && plan.count == 0 {
        return Err(Error::EmptyReduction { op, shape: x.shape().to_vec() });
    }
    let mut out = BitNetTensor::scratch(&plan.shape, pool)?;
    reduction.reduce_into(simd::active()?, &x32, &plan, out.f32_mut()?)?;
    rounded(out, x.dtype(), pool)
}

/// The variance over `axes`: squared deviations from the mean, summed in f64 and divided by their number less
/// `correction` (NumPy's `ddof`); NaN where there are no numbers. Otherwise as [`reduce`].
///
/// # Errors
/// Those of [`reduce`].
pub fn var(
    x: &BitNetTensor,
    axes: Option<&[usize]>,
    correction: usize,
    keep_dims: bool,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    spread("var", x, axes, correction, keep_dims, pool, |variance| variance)
}

/// The square root of [`var`].
///
/// # Errors
/// Those of [`reduce`].
pub fn std(
    x: &BitNetTensor,
    axes: Option<&[usize]>,
    correction: usize,
    keep_dims: bool,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    spread("std", x, axes, correction, keep_dims, pool, f64::sqrt)
}

fn spread(
    op: &'static str,
    x: &BitNetTensor,
    axes: Option<&[usize]>,
    correction: usize,
    keep_dims: bool,
    pool: &HybridMemoryPool,
    finish: fn(f64) -> f64,
) -> Result<BitNetTensor> {
    let x32 = wide(op, x, pool)?;
    let plan = plan(op, &x32, axes, keep_dims)?;
    let level = simd::active()?;
    let mut out = BitNetTensor::scratch(&plan.shape, pool)?;
    let values = out.f32_mut()?;
    let mut means = PoolBuffer::<f64>::scratch(values.len(), pool)?;
    let mut squares = PoolBuffer::<f64>::scratch(values.len(), pool)?;
    reduce_into::<Centre>(level, &x32, &plan, &[], &mut means)?;
    reduce_into::<Deviations>(level, &x32, &plan, &means, &mut squares)?;
    let freedom = plan.count.saturating_sub(correction) as f64;
    for (out, square) in values.iter_mut().zip(squares.iter()) {
        *out = finish(square / freedom) as f32;
    }
    rounded(out, x.dtype(), pool)
}

/// Whether any number over `axes` is not 0 (NaN is not): a mask of 0 and 1, 0 of nothing. Masks are operands too.
///
/// # Errors
/// Those of [`reduce`], but that `I8` is an operand.
pub fn any(
    x: &BitNetTensor,
    axes: Option<&[usize]>,
    keep_dims: bool,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    truth::<Any>("any", x, axes, keep_dims, pool)
}

/// Whether every number over `axes` is not 0 (NaN is not): a mask of 0 and 1, 1 of nothing. Masks are operands too.
///
/// # Errors
/// Those of [`any`].
pub fn all(
    x: &BitNetTensor,
    axes: Option<&[usize]>,
    keep_dims: bool,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    truth::<All>("all", x, axes, keep_dims, pool)
}

fn truth<R: Reducer<Output = u8>>(
    op: &'static str,
    x: &BitNetTensor,
    axes: Option<&[usize]>,
    keep_dims: bool,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    let widened = if x.dtype() == BitNetDType::I8 { Some(x.to_f32(pool)?) } else { None };
    let x = wide(op, widened.as_ref().unwrap_or(x), pool)?;
    let plan = plan(op, &x, axes, keep_dims)?;
    let metadata = TensorMetadata::row_major(&plan.shape, BitNetDType::I8, Device::Cpu);
    let mut out = BitNetTensor::new(metadata, pool)?;
    reduce_into::<R>(simd::active()?, &x, &plan, &[], out.bytes_mut()?)?;
    Ok(out)
}

/// The position of the largest number along `axis`, or in the flattened tensor for `None`: the first of several, and
/// the first NaN if there is one.
///
/// # Errors
/// As [`reduce`]; [`Error::EmptyReduction`] for no numbers along `axis`, as in NumPy even if there are no outputs.
pub fn argmax(
    x: &BitNetTensor,
    axis: Option<usize>,
    keep_dims: bool,
    pool: &HybridMemoryPool,
) -> Result<Indices> {
    position::<Largest>("argmax", x, axis, keep_dims, pool)
}

/// The position of the smallest number; see [`argmax`].
///
/// # Errors
/// Those of [`argmax`].
pub fn argmin(
    x: &BitNetTensor,
    axis: Option<usize>,
    keep_dims: bool,
    pool: &HybridMemoryPool,
) -> Result<Indices> {
    position::<Smallest>("argmin", x, axis, keep_dims, pool)
}

fn position<R: Reducer<Output = f32>>(
    op: &'static str,
    x: &BitNetTensor,
    axis: Option<usize>,
    keep_dims: bool,
    pool: &HybridMemoryPool,
) -> Result<Indices> {
    let x = wide(op, x, pool)?;
    let plan = plan(op, &x, axis.as_ref().map(std::slice::from_ref), keep_dims)?;
    if plan.count == 0 {
        return Err(Error::EmptyReduction { op, shape: x.shape().to_vec() });
    }
    let count = crate::memory::tensor::elements_of(&plan.shape)?;
    let mut extremes = PoolBuffer::<f32>::scratch(count, pool)?;
    reduce_into::<R>(simd::active()?, &x, &plan, &[], &mut extremes)?;
    let mut values = PoolBuffer::<u64>::scratch(count, pool)?;
    let (all, _) = x.strided_f32()?;
    for ((index, &extreme), start) in values.iter_mut().zip(&*extremes).zip(plan.outer.positions())
    {
        let found = plan.reduced.positions().position(|offset| {
            let x = all[start.wrapping_add(offset)];
            x == extreme || (extreme.is_nan() && x.is_nan())
        });
        *index = found.unwrap_or(plan.count) as u64;
    }
    Ok(Indices { shape: plan.shape.to_vec(), values })
}

fn plan(
    op: &'static str,
    x: &BitNetTensor,
    axes: Option<&[usize]>,
    keep_dims: bool,
) -> Result<Plan> {
    let Some(axes) = axes else { return Plan::new(x, |_| true, keep_dims) };
    for (i, &axis) in axes.iter().enumerate() {
        x.expect_dim(op, axis)?;
        if axes[..i].contains(&axis) {
            return Err(Error::BadArgument {
                op,
                what: "the axes",
                value: format!("{axes:?}"),
                expected: "each may be named once",
            });
        }
    }
    Plan::new(x, |dim| axes.contains(&dim), keep_dims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_gives_the_same_bits() {
        let pool = HybridMemoryPool::new().unwrap();
        let x = BitNetTensor::normal(&[7, 37, 150], 0.0, 3.0, 1, &pool).unwrap();
        let ops =
            [Reduction::Sum, Reduction::Mean, Reduction::Prod, Reduction::Max, Reduction::Min];
        for axes in [&[2][..], &[1], &[0], &[0, 2], &[0, 1, 2], &[]] {
            for op in ops {
                let at = |level| {
                    let plan = plan("test", &x, Some(axes), false).unwrap();
                    let mut out = vec![0f32; plan.shape.iter().product()];
                    op.reduce_into(level, &x, &plan, &mut out).unwrap();
                    out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                let scalar = at(IsaLevel::Scalar);
                for level in IsaLevel::available() {
                    assert_eq!(at(level), scalar, "{op:?} over {axes:?} at {level}");
                }
            }
        }
    }

    #[test]
    fn sums_overflow_only_if_the_result_does() {
        let pool = HybridMemoryPool::new().unwrap();
        let x = BitNetTensor::from_f32(&[3], &[3e38, 3e38, -3e38], &pool).unwrap();
        assert_eq!(reduce(Reduction::Sum, &x, None, false, &pool).unwrap().item(), Ok(3e38));
        assert_eq!(reduce(Reduction::Mean, &x, None, false, &pool).unwrap().item(), Ok(1e38));
    }
}

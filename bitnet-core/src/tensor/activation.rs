//! Activation functions and their derivatives.

use super::binary::{BinaryOp, binary_in_place};
use super::math;
use super::operands::{joint, rounded, wide};

use super::unary::{Pointwise, Sigmoid, Tanh, map, pointwise, update};
use crate::Result;
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::BitNetTensor;
use crate::simd::{self, IsaLevel};

/// An activation function. Inexact ones are computed in f64 and rounded once: at most 0.51 ulp of f32.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum ActivationFunction {
    /// `max(x, 0)`
    Relu,
    /// `max(x, 0)²`
    Relu2,
    /// `x` above 0, else `slope * x`.
    LeakyRelu {
        /// The slope below 0.
        slope: f32,
    },
    /// `x` times the cumulative normal distribution at `x`.
    Gelu,
    /// The approximation of `Gelu` by a hyperbolic tangent: `x / 2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    GeluTanh,
    /// `x / (1 + e^-x)`, also called swish.
    Silu,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
}

pointwise! {
    Relu: |x| if x < 0.0 { 0.0 } else { x };
    Relu2: |x| { let positive = if x < 0.0 { 0.0 } else { x }; positive * positive };
    Gelu: |x| math::gelu(f64::from(x)) as f32;
    GeluTanh: |x| math::gelu_tanh(f64::from(x)) as f32;
    Silu: |x| math::silu(f64::from(x)) as f32;
    ReluSlope: |x| if x <= 0.0 { 0.0 } else { 1.0 };
    Relu2Slope: |x| if x < 0.0 { 0.0 } else { 2.0 * x };
    GeluSlope: |x| math::gelu_slope(f64::from(x)) as f32;
    GeluTanhSlope: |x| math::gelu_tanh_slope(f64::from(x)) as f32;
    SiluSlope: |x| math::silu_slope(f64::from(x)) as f32;
    SigmoidSlope: |x| math::sigmoid_slope(f64::from(x)) as f32;
    TanhSlope: |x| math::tanh_slope(f64::from(x)) as f32;
}

#[derive(Clone, Copy)]
struct LeakyRelu(f32);

impl Pointwise for LeakyRelu {
    #[inline(always)]
    fn apply(self, x: f32) -> f32 {
        if x > 0.0 { x } else { self.0 * x }
    }
}

#[derive(Clone, Copy)]
struct LeakyReluSlope(f32);

impl Pointwise for LeakyReluSlope {
    #[inline(always)]
    fn apply(self, x: f32) -> f32 {
        if x > 0.0 { 1.0 } else { self.0 }
    }
}

impl ActivationFunction {
    fn update(self, level: IsaLevel, x: &mut [f32]) {
        match self {
            Self::Relu => update(Relu, level, x),
            Self::Relu2 => update(Relu2, level, x),
            Self::LeakyRelu { slope } => update(LeakyRelu(slope), level, x),
            Self::Gelu => update(Gelu, level, x),
            Self::GeluTanh => update(GeluTanh, level, x),
            Self::Silu => update(Silu, level, x),
            Self::Sigmoid => update(Sigmoid, level, x),
            Self::Tanh => update(Tanh, level, x),
        }
    }

    fn slope(self, level: IsaLevel, x: &mut [f32]) {
        match self {
            Self::Relu => update(ReluSlope, level, x),
            Self::Relu2 => update(Relu2Slope, level, x),
            Self::LeakyRelu { slope } => update(LeakyReluSlope(slope), level, x),
            Self::Gelu => update(GeluSlope, level, x),
            Self::GeluTanh => update(GeluTanhSlope, level, x),
            Self::Silu => update(SiluSlope, level, x),
            Self::Sigmoid => update(SigmoidSlope, level, x),
            Self::Tanh => update(TanhSlope, level, x),
        }
    }
}

/// `function(x)` element by element, in the pool.
///
/// ```
/// use bitnet_core::memory::HybridMemoryPool;
/// use bitnet_core::memory::tensor::BitNetTensor;
/// use bitnet_core::tensor::{ActivationFunction, activate, activate_backward};
///
/// let pool = HybridMemoryPool::new()?;
/// let x = BitNetTensor::from_f32(&[3], &[-1.0, 0.5, 2.0], &pool)?;
/// let y = activate(ActivationFunction::Relu2, &x, &pool)?;
/// assert_eq!(y.f32()?, [0.0, 0.25, 4.0]);
/// let gradient = BitNetTensor::ones(&[3], &pool)?;
/// let back = activate_backward(ActivationFunction::Relu2, &x, &gradient, &pool)?;
/// assert_eq!(back.f32()?, [0.0, 1.0, 4.0]);
/// # Ok::<(), bitnet_core::Error>(())
/// ```
///
/// # Errors
/// [`crate::Error::DTypeMismatch`] for integer types, [`crate::Error::OutOfMemory`].
#[track_caller]
pub fn activate(
    function: ActivationFunction,
    x: &BitNetTensor,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    let wide = wide("activate", x, pool)?;
    let mut out = BitNetTensor::scratch(x.shape(), pool)?;
    activate_into(function, &wide, &mut out)?;
    rounded(out, x.dtype(), pool)
}

/// As [`activate`] for an f32 tensor, into a contiguous f32 tensor of its shape.
///
/// # Errors
/// As [`activate`], [`crate::Error::ShapeMismatch`] for an output of another shape, and those of
/// [`BitNetTensor::f32_mut`].
pub fn activate_into(
    function: ActivationFunction,
    x: &BitNetTensor,
    out: &mut BitNetTensor,
) -> Result<()> {
    out.expect_shape("activate", "the output", x.shape())?;
    let level = simd::active()?;
    map(x, out.f32_mut()?, |piece| function.update(level, piece))
}

/// `x = function(x)` for a contiguous, unshared f32 tensor.
///
/// # Errors
/// Those of [`BitNetTensor::f32_mut`].
pub fn activate_in_place(function: ActivationFunction, x: &mut BitNetTensor) -> Result<()> {
    function.update(simd::active()?, x.f32_mut()?);
    Ok(())
}

/// The gradient with respect to `x` for the gradient `gradient` with respect to `function(x)`, in the pool. At a kink
/// the slope is the left one, as in PyTorch.
///
/// # Errors
/// [`crate::Error::ShapeMismatch`] if the shapes differ; those of [`activate`].
#[track_caller]
pub fn activate_backward(
    function: ActivationFunction,
    x: &BitNetTensor,
    gradient: &BitNetTensor,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    let op = "activate_backward";
    gradient.expect_shape(op, "the gradient", x.shape())?;
    let (x32, g32) = (wide(op, x, pool)?, wide(op, gradient, pool)?);
    let mut out = BitNetTensor::scratch(x.shape(), pool)?;
    let level = simd::active()?;
    map(&x32, out.f32_mut()?, |piece| function.slope(level, piece))?;
    binary_in_place(BinaryOp::Mul, &mut out, &g32)?;
    rounded(out, joint(x, gradient), pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [ActivationFunction; 8] = [
        ActivationFunction::Relu,
        ActivationFunction::Relu2,
        ActivationFunction::LeakyRelu { slope: 0.125 },
        ActivationFunction::Gelu,
        ActivationFunction::GeluTanh,
        ActivationFunction::Silu,
        ActivationFunction::Sigmoid,
        ActivationFunction::Tanh,
    ];

    #[test]
    fn every_level_gives_the_same_bits() {
        let pool = HybridMemoryPool::new().unwrap();
        let x = BitNetTensor::normal(&[301], 0.0, 8.0, 1, &pool).unwrap();
        for function in ALL {
            let at = |level| {
                let (mut y, mut slope) = (x.f32().unwrap().to_vec(), x.f32().unwrap().to_vec());
                function.update(level, &mut y);
                function.slope(level, &mut slope);
                y.into_iter().chain(slope).map(f32::to_bits).collect::<Vec<_>>()
            };
            let scalar = at(IsaLevel::Scalar);
            for level in IsaLevel::available() {
                assert_eq!(at(level), scalar, "{function:?} at {level}");
            }
            let mut y = x.to_contiguous(&pool).unwrap();
            activate_in_place(function, &mut y).unwrap();
            assert_eq!(y.f32(), activate(function, &x, &pool).unwrap().f32(), "{function:?}");
        }
    }

    #[test]
    fn slopes_agree_with_finite_differences() {
        let pool = HybridMemoryPool::new().unwrap();
        // No step of 1/64 crosses 0, where three of the functions have a kink.
        let at = |shift: f32| {
            let values: Vec<f32> = (-40..40).map(|i| (i as f32 + 0.5) / 8.0 + shift).collect();
            BitNetTensor::from_f32(&[80], &values, &pool).unwrap()
        };
        let step = 1.0 / 64.0;
        let ones = BitNetTensor::ones(&[80], &pool).unwrap();
        for function in ALL {
            let slope = activate_backward(function, &at(0.0), &ones, &pool).unwrap();
            let above = activate(function, &at(step), &pool).unwrap();
            let below = activate(function, &at(-step), &pool).unwrap();
            let both = above.f32().unwrap().iter().zip(below.f32().unwrap());
            for (slope, (above, below)) in slope.f32().unwrap().iter().zip(both) {
                // The third derivatives are below 3 (step² / 6 of it), results below 26 with 2^-24 of rounding.
                let seen = (above - below) / (2.0 * step);
                assert!((slope - seen).abs() < 3e-4, "{function:?}: {slope} {seen}");
            }
        }
    }
}

//! Element-wise functions of one operand.

use super::gather::{Gather, PIECE};
use super::math;
use super::operands::{rounded, wide};
use crate::Result;
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::BitNetTensor;
use crate::simd::{self, IsaLevel, Kernel};

/// A function of one number. Inexact ones are computed in f64 and rounded once: at most 0.51 ulp of f32.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum UnaryOp {
    /// `-x`
    Neg,
    /// The size of `x`.
    Abs,
    /// `e^x`
    Exp,
    /// The natural logarithm; NaN below zero.
    Log,
    /// The square root, correctly rounded; NaN below zero.
    Sqrt,
    /// `x * x`
    Square,
    /// `1 / x`
    Reciprocal,
    /// The hyperbolic tangent.
    Tanh,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// The error function.
    Erf,
    /// `x` clamped to the bounds; NaN is preserved. The upper bound has priority if it is below the lower one.
    Clamp {
        /// The lower bound.
        low: f32,
        /// The upper bound.
        high: f32,
    },
}

/// A function of one number, for loops.
pub(super) trait Pointwise: Copy {
    fn apply(self, x: f32) -> f32;
}

macro_rules! pointwise {
    ($($name:ident: |$x:ident| $result:expr;)*) => {$(
        #[derive(Clone, Copy)]
        pub(super) struct $name;

        impl $crate::tensor::unary::Pointwise for $name {
            #[inline(always)]
            fn apply(self, $x: f32) -> f32 {
                $result
            }
        }
    )*};
}
pub(super) use pointwise;

pointwise! {
    Neg: |x| -x;
    Abs: |x| x.abs();
    Exp: |x| math::exp(f64::from(x)) as f32;
    Log: |x| math::log(f64::from(x)) as f32;
    Sqrt: |x| x.sqrt();
    Square: |x| x * x;
    Reciprocal: |x| 1.0 / x;
    Tanh: |x| math::tanh(f64::from(x)) as f32;
    Sigmoid: |x| math::sigmoid(f64::from(x)) as f32;
    Erf: |x| math::erf(f64::from(x)) as f32;
}

#[derive(Clone, Copy)]
struct Clamp {
    low: f32,
    high: f32,
}

impl Pointwise for Clamp {
    #[inline(always)]
    fn apply(self, x: f32) -> f32 {
        let x = if x < self.low { self.low } else { x };
        if x > self.high { self.high } else { x }
    }
}

/// `x = f(x)`.
struct Update<'a, F> {
    function: F,
    x: &'a mut [f32],
}

impl<F: Pointwise> Kernel for Update<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for x in self.x {
            *x = self.function.apply(*x);
        }
    }
}

pub(super) fn update<F: Pointwise>(function: F, level: IsaLevel, x: &mut [f32]) {
    simd::run(level, Update { function, x });
}

/// Writes `f(x)` for an f32 tensor to `out` in row-major order, a piece at a time; `update` makes `f(x)` of `x`.
pub(super) fn map(
    x: &BitNetTensor,
    out: &mut [f32],
    mut update: impl FnMut(&mut [f32]),
) -> Result<()> {
    if let Ok(all) = x.f32() {
        for (piece, x) in out.chunks_mut(PIECE).zip(all.chunks(PIECE)) {
            piece.copy_from_slice(x);
            update(piece);
        }
        return Ok(());
    }
    let walk = x.walk();
    let mut x = Gather::new(x, &walk)?;
    for piece in out.chunks_mut(PIECE) {
        x.fill(piece);
        update(piece);
    }
    Ok(())
}

impl UnaryOp {
    fn name(self) -> &'static str {
        match self {
            Self::Neg => "neg",
            Self::Abs => "abs",
            Self::Exp => "exp",
            Self::Log => "log",
            Self::Sqrt => "sqrt",
            Self::Square => "square",
            Self::Reciprocal => "reciprocal",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::Erf => "erf",
            Self::Clamp { .. } => "clamp",
        }
    }

    fn update(self, level: IsaLevel, x: &mut [f32]) {
        match self {
            Self::Neg => update(Neg, level, x),
            Self::Abs => update(Abs, level, x),
            Self::Exp => update(Exp, level, x),
            Self::Log => update(Log, level, x),
            Self::Sqrt => update(Sqrt, level, x),
            Self::Square => update(Square, level, x),
            Self::Reciprocal => update(Reciprocal, level, x),
            Self::Tanh => update(Tanh, level, x),
            Self::Sigmoid => update(Sigmoid, level, x),
            Self::Erf => update(Erf, level, x),
            Self::Clamp { low, high } => update(Clamp { low, high }, level, x),
        }
    }
}

/// `op(x)` element by element, in the pool.
///
/// ```
/// use bitnet_core::memory::HybridMemoryPool;
/// use bitnet_core::memory::tensor::BitNetTensor;
/// use bitnet_core::tensor::{self, UnaryOp};
///
/// let pool = HybridMemoryPool::new()?;
/// let x = BitNetTensor::from_f32(&[3], &[-2.0, 0.5, 9.0], &pool)?;
/// let clamped = tensor::unary(UnaryOp::Clamp { low: 0.0, high: 1.0 }, &x, &pool)?;
/// assert_eq!(clamped.f32()?, [0.0, 0.5, 1.0]);
/// # Ok::<(), bitnet_core::Error>(())
/// ```
///
/// # Errors
/// [`crate::Error::DTypeMismatch`] for integer types, [`crate::Error::OutOfMemory`].
#[track_caller]
pub fn unary(op: UnaryOp, x: &BitNetTensor, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
    let wide = wide(op.name(), x, pool)?;
    let mut out = BitNetTensor::scratch(x.shape(), pool)?;
    unary_into(op, &wide, &mut out)?;
    rounded(out, x.dtype(), pool)
}

/// As [`unary`] for an f32 tensor, into a contiguous f32 tensor of its shape.
///
/// # Errors
/// As [`unary`], [`crate::Error::ShapeMismatch`] for an output of another shape, and those of
/// [`BitNetTensor::f32_mut`].
pub fn unary_into(op: UnaryOp, x: &BitNetTensor, out: &mut BitNetTensor) -> Result<()> {
    out.expect_shape(op.name(), "the output", x.shape())?;
    let level = simd::active()?;
    map(x, out.f32_mut()?, |piece| op.update(level, piece))
}

/// `x = op(x)` for a contiguous, unshared f32 tensor.
///
/// # Errors
/// Those of [`BitNetTensor::f32_mut`].
pub fn unary_in_place(op: UnaryOp, x: &mut BitNetTensor) -> Result<()> {
    op.update(simd::active()?, x.f32_mut()?);
    Ok(())
}

/// Defines a function for each operation.
macro_rules! named {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// Those of [`unary`].
        #[track_caller]
        pub fn $name(x: &BitNetTensor, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
            unary(UnaryOp::$op, x, pool)
        }
    )*};
}

named! {
    /// `-x`; see [`unary`].
    neg = Neg;
    /// The size of `x`; see [`unary`].
    abs = Abs;
    /// `e^x`; see [`unary`].
    exp = Exp;
    /// The natural logarithm; see [`unary`].
    log = Log;
    /// The square root; see [`unary`].
    sqrt = Sqrt;
    /// The hyperbolic tangent; see [`unary`].
    tanh = Tanh;
    /// `1 / (1 + e^-x)`; see [`unary`].
    sigmoid = Sigmoid;
    /// The error function; see [`unary`].
    erf = Erf;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_gives_the_same_bits() {
        let pool = HybridMemoryPool::new().unwrap();
        let x = BitNetTensor::normal(&[3, 91], 0.0, 20.0, 1, &pool).unwrap();
        let ops = [
            UnaryOp::Neg,
            UnaryOp::Abs,
            UnaryOp::Exp,
            UnaryOp::Log,
            UnaryOp::Sqrt,
            UnaryOp::Square,
            UnaryOp::Reciprocal,
            UnaryOp::Tanh,
            UnaryOp::Sigmoid,
            UnaryOp::Erf,
            UnaryOp::Clamp { low: -1.0, high: 2.0 },
        ];
        for x in [&x, &x.transpose(0, 1).unwrap()] {
            for op in ops {
                let at = |level| {
                    let mut out = vec![0f32; 3 * 91];
                    map(x, &mut out, |piece| op.update(level, piece)).unwrap();
                    // The sign of a NaN is unspecified.
                    out.into_iter()
                        .map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() })
                        .collect::<Vec<_>>()
                };
                let scalar = at(IsaLevel::Scalar);
                for level in IsaLevel::available() {
                    assert_eq!(at(level), scalar, "{op:?} at {level}");
                }
                let mut updated = x.to_contiguous(&pool).unwrap();
                unary_in_place(op, &mut updated).unwrap();
                let new = unary(op, x, &pool).unwrap();
                assert!(
                    new.f32()
                        .unwrap()
                        .iter()
                        .zip(updated.f32().unwrap())
                        .all(|(a, b)| { a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) }),
                    "{op:?} in place"
                );
            }
        }
    }
}

//! Element-wise functions of two operands.

use std::marker::PhantomData;

use super::gather::{Gather, PIECE};
use super::math;
use super::operands::{joint, rounded, wide};
use crate::Result;
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::{BitNetDType, BitNetTensor, broadcast_shapes};
use crate::simd::{self, IsaLevel, Kernel};

/// A function of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BinaryOp {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
    /// `a` to the power `b`, by the rules of IEEE 754 `pow`; computed in f64.
    Pow,
    /// The smaller number; NaN if either is.
    Min,
    /// The larger number; NaN if either is.
    Max,
}

impl BinaryOp {
    /// Every function.
    pub const ALL: [Self; 7] =
        [Self::Add, Self::Sub, Self::Mul, Self::Div, Self::Pow, Self::Min, Self::Max];

    fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Div => "div",
            Self::Pow => "pow",
            Self::Min => "minimum",
            Self::Max => "maximum",
        }
    }
}

/// A function of two numbers, for loops.
pub(super) trait Pairwise {
    fn apply(a: f32, b: f32) -> f32;
}

macro_rules! pairwise {
    ($($name:ident: |$a:ident, $b:ident| $result:expr;)*) => {$(
        pub(super) struct $name;

        impl $crate::tensor::binary::Pairwise for $name {
            #[inline(always)]
            fn apply($a: f32, $b: f32) -> f32 {
                $result
            }
        }
    )*};
}
pub(super) use pairwise;

pairwise! {
    Add: |a, b| a + b;
    Sub: |a, b| a - b;
    Mul: |a, b| a * b;
    Div: |a, b| a / b;
    Pow: |a, b| math::pow(a, b);
    Min: |a, b| if a <= b || a.is_nan() { a } else { b };
    Max: |a, b| if a >= b || a.is_nan() { a } else { b };
}

/// `a = f(a, b)`.
struct Update<'a, F> {
    a: &'a mut [f32],
    b: &'a [f32],
    function: PhantomData<F>,
}

impl<F: Pairwise> Kernel for Update<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (a, &b) in self.a.iter_mut().zip(self.b) {
            *a = F::apply(*a, b);
        }
    }
}

/// `a = f(a, b)` for two slices of one length.
pub(super) type Loop = fn(IsaLevel, &mut [f32], &[f32]);

pub(super) fn update<F: Pairwise>(level: IsaLevel, a: &mut [f32], b: &[f32]) {
    simd::run(level, Update::<F> { a, b, function: PhantomData });
}

impl BinaryOp {
    fn update(self) -> Loop {
        match self {
            Self::Add => update::<Add>,
            Self::Sub => update::<Sub>,
            Self::Mul => update::<Mul>,
            Self::Div => update::<Div>,
            Self::Pow => update::<Pow>,
            Self::Min => update::<Min>,
            Self::Max => update::<Max>,
        }
    }
}

/// `f(a, b)` for two f32 tensors broadcast to `shape`, into `out` in row-major order.
pub(super) fn zip(
    update: Loop,
    level: IsaLevel,
    a: &BitNetTensor,
    b: &BitNetTensor,
    shape: &[usize],
    out: &mut [f32],
) -> Result<()> {
    if let (Ok(a_all), Ok(b_all)) = (a.f32(), b.f32())
        && a_all.len() == out.len()
        && b_all.len() == out.len()
    {
        let operands = a_all.chunks(PIECE).zip(b_all.chunks(PIECE));
        for (out, (a, b)) in out.chunks_mut(PIECE).zip(operands) {
            out.copy_from_slice(a);
            update(level, out, b);
        }
        return Ok(());
    }
    let a = a.broadcast_to(shape)?;
    let walk = a.walk();
    let mut a = Gather::new(&a, &walk)?;
    zip_in_place(update, level, b, shape, out, |piece| a.fill(piece))
}

/// `out = f(out, b)` for an f32 tensor broadcast to `shape`; `begin` initialises each piece of `out` first.
fn zip_in_place(
    update: Loop,
    level: IsaLevel,
    b: &BitNetTensor,
    shape: &[usize],
    out: &mut [f32],
    mut begin: impl FnMut(&mut [f32]),
) -> Result<()> {
    let b = b.broadcast_to(shape)?;
    let walk = b.walk();
    let mut b = Gather::new(&b, &walk)?;
    let mut buffer = [0f32; PIECE];
    for piece in out.chunks_mut(PIECE) {
        begin(piece);
        update(level, piece, b.next(piece.len(), &mut buffer));
    }
    Ok(())
}

/// `op(a, b)` element by element with broadcasting, in the pool.
///
/// ```
/// use bitnet_core::memory::HybridMemoryPool;
/// use bitnet_core::memory::tensor::BitNetTensor;
/// use bitnet_core::tensor::{self, BinaryOp};
///
/// let pool = HybridMemoryPool::new()?;
/// let column = BitNetTensor::from_f32(&[2, 1], &[10.0, 20.0], &pool)?;
/// let row = BitNetTensor::arange(0.0, 3.0, 1.0, &pool)?;
/// let sums = tensor::binary(BinaryOp::Add, &column, &row, &pool)?;
/// assert_eq!(sums.shape(), [2, 3]);
/// assert_eq!(sums.f32()?, [10.0, 11.0, 12.0, 20.0, 21.0, 22.0]);
/// # Ok::<(), bitnet_core::Error>(())
/// ```
///
/// # Errors
/// [`crate::Error::NotBroadcastable`], [`crate::Error::DTypeMismatch`] for integer types,
/// [`crate::Error::OutOfMemory`].
#[track_caller]
pub fn binary(
    op: BinaryOp,
    a: &BitNetTensor,
    b: &BitNetTensor,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    let shape = broadcast_shapes(a.shape(), b.shape())?;
    let dtype = joint(a, b);
    let (a, b) = (wide(op.name(), a, pool)?, wide(op.name(), b, pool)?);
    let mut out = BitNetTensor::scratch(&shape, pool)?;
    binary_into(op, &a, &b, &mut out)?;
    rounded(out, dtype, pool)
}

/// As [`binary`] for f32 tensors, into a contiguous f32 tensor of the result's shape.
///
/// # Errors
/// As [`binary`], [`crate::Error::ShapeMismatch`] for an output of another shape, and those of
/// [`BitNetTensor::f32_mut`].
pub fn binary_into(
    op: BinaryOp,
    a: &BitNetTensor,
    b: &BitNetTensor,
    out: &mut BitNetTensor,
) -> Result<()> {
    let shape = broadcast_shapes(a.shape(), b.shape())?;
    out.expect_shape(op.name(), "the output", &shape)?;
    let (level, out) = (simd::active()?, out.f32_mut()?);
    b.expect_dtype(op.name(), BitNetDType::F32)?;
    if op == BinaryOp::Pow && b.metadata().elements()? == 1 && b.item()? == 2.0 {
        return zip(update::<Mul>, level, a, a, &shape, out);
    }
    zip(op.update(), level, a, b, &shape, out)
}

/// `a = op(a, b)` for f32 tensors, `b` broadcast to the shape of `a`, which must be contiguous and unshared.
///
/// # Errors
/// As [`binary`], and those of [`BitNetTensor::f32_mut`].
pub fn binary_in_place(op: BinaryOp, a: &mut BitNetTensor, b: &BitNetTensor) -> Result<()> {
    let shape = a.metadata().clone();
    let (level, out) = (simd::active()?, a.f32_mut()?);
    zip_in_place(op.update(), level, b, shape.shape(), out, |_| ())
}

/// Defines a function for each operation.
macro_rules! named {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// Those of [`binary`].
        #[track_caller]
        pub fn $name(
            a: &BitNetTensor,
            b: &BitNetTensor,
            pool: &HybridMemoryPool,
        ) -> Result<BitNetTensor> {
            binary(BinaryOp::$op, a, b, pool)
        }
    )*};
}

named! {
    /// `a + b`; see [`binary`].
    add = Add;
    /// `a - b`; see [`binary`].
    sub = Sub;
    /// `a * b`; see [`binary`].
    mul = Mul;
    /// `a / b`; see [`binary`].
    div = Div;
    /// `a` to the power `b`; see [`binary`].
    pow = Pow;
    /// The smaller of `a` and `b`, NaN if either is; see [`binary`].
    minimum = Min;
    /// The larger of `a` and `b`, NaN if either is; see [`binary`].
    maximum = Max;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::memory::tensor::CastRule;

    #[test]
    fn every_level_gives_the_same_bits() {
        let pool = HybridMemoryPool::new().unwrap();
        let a = BitNetTensor::normal(&[5, 67], 0.0, 3.0, 1, &pool).unwrap();
        let row = BitNetTensor::normal(&[67], 0.0, 3.0, 2, &pool).unwrap();
        let column = row.narrow(0, 0..5).unwrap().unsqueeze(1).unwrap();
        for b in [&a.flip(1).unwrap(), &row, &column] {
            for op in BinaryOp::ALL {
                let at = |level| {
                    let mut out = vec![0f32; 5 * 67];
                    zip(op.update(), level, &a, b, &[5, 67], &mut out).unwrap();
                    out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                let scalar = at(IsaLevel::Scalar);
                for level in IsaLevel::available() {
                    assert_eq!(at(level), scalar, "{op:?} at {level}");
                }
                let mut updated = a.to_contiguous(&pool).unwrap();
                binary_in_place(op, &mut updated, b).unwrap();
                let updated: Vec<u32> =
                    updated.f32().unwrap().iter().map(|x| x.to_bits()).collect();
                assert_eq!(updated, scalar, "{op:?} in place");
            }
        }
    }
    #[test]
    fn integers_are_refused_as_exponents_too() {
        let pool = HybridMemoryPool::new().unwrap();
        let x = BitNetTensor::ones(&[3], &pool).unwrap();
        for exponent in [2.0, 3.0] {
            let two = BitNetTensor::full(&[1], exponent, &pool).unwrap();
            let two = two.cast(BitNetDType::I8, CastRule::Checked, &pool).unwrap();
            let mut out = x.to_contiguous(&pool).unwrap();
            let refused = binary_into(BinaryOp::Pow, &x, &two, &mut out);
            assert!(matches!(refused, Err(Error::DTypeMismatch { .. })), "{exponent}");
        }
    }
}

//! Element by element, two operands and one result.

use super::math;
use super::operands::{expect_shape, joint, rounded, wide};
use crate::Result;
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::{BitNetDType, BitNetTensor, Walk, broadcast_shapes};
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
    type Output: Copy;

    fn apply(a: f32, b: f32) -> Self::Output;
}

/// Gives each name its function.
macro_rules! pairwise {
    ($($name:ident -> $output:ty: |$a:ident, $b:ident| $result:expr;)*) => {$(
        pub(super) struct $name;

        impl $crate::tensor::binary::Pairwise for $name {
            type Output = $output;

            #[inline(always)]
            fn apply($a: f32, $b: f32) -> $output {
                $result
            }
        }
    )*};
}
pub(super) use pairwise;

pairwise! {
    Add -> f32: |a, b| a + b;
    Sub -> f32: |a, b| a - b;
    Mul -> f32: |a, b| a * b;
    Div -> f32: |a, b| a / b;
    Pow -> f32: |a, b| math::pow(a, b);
    Min -> f32: |a, b| if a <= b || a.is_nan() { a } else { b };
    Max -> f32: |a, b| if a >= b || a.is_nan() { a } else { b };
}

/// `out = f(a, b)`, where `walk` says which elements meet.
struct Zip<'a, F: Pairwise> {
    a: &'a [f32],
    b: &'a [f32],
    walk: &'a Walk<2>,
    out: &'a mut [F::Output],
}

impl<F: Pairwise> Kernel for Zip<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (len, steps) = self.walk.run();
        let mut runs = self.out.chunks_exact_mut(len.max(1));
        for [a, b] in self.walk.cursor() {
            let Some(out) = runs.next() else { continue };
            match steps {
                [1, 1] => {
                    let (a, b) = (&self.a[a..a + len], &self.b[b..b + len]);
                    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
                        *out = F::apply(a, b);
                    }
                }
                [1, 0] => {
                    let (a, b) = (&self.a[a..a + len], self.b[b]);
                    for (out, &a) in out.iter_mut().zip(a) {
                        *out = F::apply(a, b);
                    }
                }
                [0, 1] => {
                    let (a, b) = (self.a[a], &self.b[b..b + len]);
                    for (out, &b) in out.iter_mut().zip(b) {
                        *out = F::apply(a, b);
                    }
                }
                [step_a, step_b] => {
                    let (mut a, mut b) = (a, b);
                    for out in out {
                        *out = F::apply(self.a[a], self.b[b]);
                        a = a.wrapping_add_signed(step_a);
                        b = b.wrapping_add_signed(step_b);
                    }
                }
            }
        }
    }
}

/// `out = f(out, b)`, where `walk` says which elements of `b` meet those of `out`, in order.
struct Update<'a, F> {
    b: &'a [f32],
    walk: &'a Walk<2>,
    out: &'a mut [f32],
    function: std::marker::PhantomData<F>,
}

impl<F: Pairwise<Output = f32>> Kernel for Update<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (len, [step, _]) = self.walk.run();
        let mut runs = self.out.chunks_exact_mut(len.max(1));
        for [b, _] in self.walk.cursor() {
            let Some(out) = runs.next() else { continue };
            match step {
                1 => {
                    for (out, &b) in out.iter_mut().zip(&self.b[b..b + len]) {
                        *out = F::apply(*out, b);
                    }
                }
                0 => {
                    let b = self.b[b];
                    for out in out {
                        *out = F::apply(*out, b);
                    }
                }
                _ => {
                    let mut b = b;
                    for out in out {
                        *out = F::apply(*out, self.b[b]);
                        b = b.wrapping_add_signed(step);
                    }
                }
            }
        }
    }
}

/// `f(a, b)` for two f32 tensors that stretch to `shape`, into `out` in row-major order.
pub(super) fn zip<F: Pairwise>(
    level: IsaLevel,
    a: &BitNetTensor,
    b: &BitNetTensor,
    shape: &[usize],
    out: &mut [F::Output],
) -> Result<()> {
    let (a, b) = (a.broadcast_to(shape)?, b.broadcast_to(shape)?);
    let ((a_all, a_start), (b_all, b_start)) = (a.strided_f32()?, b.strided_f32()?);
    let strides = [a.metadata().strides(), b.metadata().strides()];
    let walk = Walk::new(shape, strides, [a_start, b_start]);
    simd::run(level, Zip::<F> { a: a_all, b: b_all, walk: &walk, out });
    Ok(())
}

fn update<F: Pairwise<Output = f32>>(a: &mut BitNetTensor, b: &BitNetTensor) -> Result<()> {
    let b = b.broadcast_to(a.shape())?;
    let (all, start) = b.strided_f32()?;
    let strides = crate::memory::tensor::row_major_strides(a.shape());
    let walk = Walk::new(a.shape(), [b.metadata().strides(), &strides], [start, 0]);
    let out = a.f32_mut()?;
    let function = std::marker::PhantomData::<F>;
    simd::run(simd::active()?, Update { b: all, walk: &walk, out, function });
    Ok(())
}

/// Calls `$function::<F>($arguments)` with the type of an operation.
macro_rules! by_operation {
    ($op:expr, $function:ident, $($argument:expr),*) => {
        match $op {
            BinaryOp::Add => $function::<Add>($($argument),*),
            BinaryOp::Sub => $function::<Sub>($($argument),*),
            BinaryOp::Mul => $function::<Mul>($($argument),*),
            BinaryOp::Div => $function::<Div>($($argument),*),
            BinaryOp::Pow => $function::<Pow>($($argument),*),
            BinaryOp::Min => $function::<Min>($($argument),*),
            BinaryOp::Max => $function::<Max>($($argument),*),
        }
    };
}

/// `op(a, b)` element by element, the shapes stretched as NumPy stretches them, in the pool.
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
    expect_shape(op.name(), out, &shape)?;
    let (level, out) = (simd::active()?, out.f32_mut()?);
    if op == BinaryOp::Pow && b.metadata().elements()? == 1 && b.item()? == 2.0 {
        return zip::<Mul>(level, a, a, &shape, out);
    }
    by_operation!(op, zip, level, a, b, &shape, out)
}

/// `a = op(a, b)` for f32 tensors, `b` stretched to the shape of `a`, which must be contiguous and unshared.
///
/// # Errors
/// As [`binary`], and those of [`BitNetTensor::f32_mut`].
pub fn binary_in_place(op: BinaryOp, a: &mut BitNetTensor, b: &BitNetTensor) -> Result<()> {
    a.expect_dtype(op.name(), BitNetDType::F32)?;
    by_operation!(op, update, a, b)
}

/// Names a function after its operation.
macro_rules! named {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// Those of [`binary`].
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
                    by_operation!(op, zip, level, &a, b, &[5, 67], &mut out).unwrap();
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
}

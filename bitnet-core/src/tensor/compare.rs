//! Comparisons, and choosing by their outcome. A mask is an `I8` tensor of 0 and 1.

use super::binary::{pairwise, zip};
use super::operands::{joint, rounded, wide};
#[cfg(doc)]
use crate::Error;
use crate::Result;
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::{BitNetDType, BitNetTensor, TensorMetadata, Walk, broadcast_shapes};
use crate::simd::{self, Kernel};

/// A comparison. NaN is neither equal to anything nor before or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// `a == b`
    Equal,
    /// `a != b`
    NotEqual,
    /// `a < b`
    Less,
    /// `a <= b`
    LessEqual,
    /// `a > b`
    Greater,
    /// `a >= b`
    GreaterEqual,
}

impl Comparison {
    /// Every comparison.
    pub const ALL: [Self; 6] = [
        Self::Equal,
        Self::NotEqual,
        Self::Less,
        Self::LessEqual,
        Self::Greater,
        Self::GreaterEqual,
    ];
}

pairwise! {
    Equal -> u8: |a, b| u8::from(a == b);
    NotEqual -> u8: |a, b| u8::from(a != b);
    Less -> u8: |a, b| u8::from(a < b);
    LessEqual -> u8: |a, b| u8::from(a <= b);
    Greater -> u8: |a, b| u8::from(a > b);
    GreaterEqual -> u8: |a, b| u8::from(a >= b);
}

/// Where `a` and `b`, stretched to one shape, compare so: a mask, in the pool.
///
/// ```
/// use bitnet_core::memory::HybridMemoryPool;
/// use bitnet_core::memory::tensor::BitNetTensor;
/// use bitnet_core::tensor::{self, Comparison};
///
/// let pool = HybridMemoryPool::new()?;
/// let x = BitNetTensor::from_f32(&[3], &[-1.0, 2.0, -3.0], &pool)?;
/// let zero = BitNetTensor::full(&[], 0.0, &pool)?;
/// let negative = tensor::compare(Comparison::Less, &x, &zero, &pool)?;
/// let positive = tensor::select(&negative, &zero, &x, &pool)?;
/// assert_eq!(positive.f32()?, [0.0, 2.0, 0.0]);
/// # Ok::<(), bitnet_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotBroadcastable`], [`Error::DTypeMismatch`] for integer types, [`Error::OutOfMemory`].
pub fn compare(
    comparison: Comparison,
    a: &BitNetTensor,
    b: &BitNetTensor,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    let shape = broadcast_shapes(a.shape(), b.shape())?;
    let (a, b) = (wide("compare", a, pool)?, wide("compare", b, pool)?);
    let metadata = TensorMetadata::row_major(&shape, BitNetDType::I8, a.device().clone());
    let mut mask = BitNetTensor::new(metadata, pool)?;
    let (level, out) = (simd::active()?, mask.bytes_mut()?);
    match comparison {
        Comparison::Equal => zip::<Equal>(level, &a, &b, &shape, out),
        Comparison::NotEqual => zip::<NotEqual>(level, &a, &b, &shape, out),
        Comparison::Less => zip::<Less>(level, &a, &b, &shape, out),
        Comparison::LessEqual => zip::<LessEqual>(level, &a, &b, &shape, out),
        Comparison::Greater => zip::<Greater>(level, &a, &b, &shape, out),
        Comparison::GreaterEqual => zip::<GreaterEqual>(level, &a, &b, &shape, out),
    }?;
    Ok(mask)
}

/// `a` where the mask is not 0, else `b`, all three stretched to one shape, in the pool (NumPy's `where`).
///
/// # Errors
/// [`Error::NotBroadcastable`]; [`Error::DTypeMismatch`] if the mask is not of type `I8` or the others are not floats;
/// [`Error::OutOfMemory`].
pub fn select(
    mask: &BitNetTensor,
    a: &BitNetTensor,
    b: &BitNetTensor,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    mask.expect_dtype("select", BitNetDType::I8)?;
    let shape = broadcast_shapes(a.shape(), b.shape())?;
    let shape = broadcast_shapes(mask.shape(), &shape)?;
    let dtype = joint(a, b);
    let mask = mask.to_f32(pool)?.broadcast_to(&shape)?;
    let (a, b) = (wide("select", a, pool)?, wide("select", b, pool)?);
    let (a, b) = (a.broadcast_to(&shape)?, b.broadcast_to(&shape)?);
    let mut out = BitNetTensor::scratch(&shape, pool)?;
    let [(mask_all, m), (a_all, x), (b_all, y)] =
        [mask.strided_f32()?, a.strided_f32()?, b.strided_f32()?];
    let strides = [mask.metadata().strides(), a.metadata().strides(), b.metadata().strides()];
    let walk = Walk::new(&shape, strides, [m, x, y]);
    let operands = [mask_all, a_all, b_all];
    simd::run(simd::active()?, Select { operands, walk: &walk, out: out.f32_mut()? });
    rounded(out, dtype, pool)
}

/// `out = if operands[0] != 0 { operands[1] } else { operands[2] }`.
struct Select<'a> {
    operands: [&'a [f32]; 3],
    walk: &'a Walk<3>,
    out: &'a mut [f32],
}

impl Kernel for Select<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (len, steps) = self.walk.run();
        let [mask, a, b] = self.operands;
        let mut runs = self.out.chunks_exact_mut(len.max(1));
        for [m, x, y] in self.walk.cursor() {
            let Some(out) = runs.next() else { continue };
            if steps == [1, 1, 1] {
                let (mask, a, b) = (&mask[m..m + len], &a[x..x + len], &b[y..y + len]);
                for (((out, &mask), &a), &b) in out.iter_mut().zip(mask).zip(a).zip(b) {
                    *out = if mask != 0.0 { a } else { b };
                }
                continue;
            }
            let (mut m, mut x, mut y) = (m, x, y);
            for out in out {
                *out = if mask[m] != 0.0 { a[x] } else { b[y] };
                m = m.wrapping_add_signed(steps[0]);
                x = x.wrapping_add_signed(steps[1]);
                y = y.wrapping_add_signed(steps[2]);
            }
        }
    }
}

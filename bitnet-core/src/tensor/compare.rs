//! Comparisons, and selection by masks. A mask is an `I8` tensor of 0 and 1.

use super::binary::{Loop, pairwise, update};
use super::gather::{Gather, PIECE};
use super::operands::{joint, rounded, wide};
#[cfg(doc)]
use crate::Error;
use crate::Result;
use crate::device::Device;
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::{BitNetDType, BitNetTensor, TensorMetadata, broadcast_shapes};
use crate::simd::{self, Kernel};

/// A comparison. NaN is unordered and unequal to every number.
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
    Equal: |a, b| if a == b { 1.0 } else { 0.0 };
    NotEqual: |a, b| if a != b { 1.0 } else { 0.0 };
    Less: |a, b| if a < b { 1.0 } else { 0.0 };
    LessEqual: |a, b| if a <= b { 1.0 } else { 0.0 };
    Greater: |a, b| if a > b { 1.0 } else { 0.0 };
    GreaterEqual: |a, b| if a >= b { 1.0 } else { 0.0 };
}

/// The mask of the elements of `a` and `b`, broadcast to one shape, for which the comparison holds, in the pool.
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
#[track_caller]
pub fn compare(
    comparison: Comparison,
    a: &BitNetTensor,
    b: &BitNetTensor,
    pool: &HybridMemoryPool,
) -> Result<BitNetTensor> {
    let shape = broadcast_shapes(a.shape(), b.shape())?;
    let (a, b) = (wide("compare", a, pool)?, wide("compare", b, pool)?);
    let update: Loop = match comparison {
        Comparison::Equal => update::<Equal>,
        Comparison::NotEqual => update::<NotEqual>,
        Comparison::Less => update::<Less>,
        Comparison::LessEqual => update::<LessEqual>,
        Comparison::Greater => update::<Greater>,
        Comparison::GreaterEqual => update::<GreaterEqual>,
    };
    let metadata = TensorMetadata::row_major(&shape, BitNetDType::I8, Device::Cpu);
    let mut mask = BitNetTensor::new(metadata, pool)?;
    let (a, b) = (a.broadcast_to(&shape)?, b.broadcast_to(&shape)?);
    let walks = [a.walk(), b.walk()];
    let (mut a, mut b) = (Gather::new(&a, &walks[0])?, Gather::new(&b, &walks[1])?);
    let mut buffers = [[0f32; PIECE]; 2];
    let [answers, buffer] = &mut buffers;
    let level = simd::active()?;
    for out in mask.bytes_mut()?.chunks_mut(PIECE) {
        let answers = &mut answers[..out.len()];
        a.fill(answers);
        update(level, answers, b.next(out.len(), buffer));
        for (out, &answer) in out.iter_mut().zip(answers.iter()) {
            *out = u8::from(answer != 0.0);
        }
    }
    Ok(mask)
}

/// `a` where the mask is not 0, else `b`, all three broadcast to one shape, in the pool (NumPy's `where`).
///
/// # Errors
/// [`Error::NotBroadcastable`]; [`Error::DTypeMismatch`] if the mask is not of type `I8` or the others are not floats;
/// [`Error::OutOfMemory`].
#[track_caller]
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
    let walks = [mask.walk(), a.walk(), b.walk()];
    let mut mask = Gather::new(&mask, &walks[0])?;
    let (mut a, mut b) = (Gather::new(&a, &walks[1])?, Gather::new(&b, &walks[2])?);
    let mut buffers = [[0f32; PIECE]; 2];
    let [mask_buffer, b_buffer] = &mut buffers;
    let level = simd::active()?;
    for out in out.f32_mut()?.chunks_mut(PIECE) {
        a.fill(out);
        let mask = mask.next(out.len(), mask_buffer);
        let otherwise = b.next(out.len(), b_buffer);
        simd::run(level, Select { out, mask, otherwise });
    }
    rounded(out, dtype, pool)
}

/// `out = if mask == 0 { otherwise } else { out }`
struct Select<'a> {
    out: &'a mut [f32],
    mask: &'a [f32],
    otherwise: &'a [f32],
}

impl Kernel for Select<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((out, &mask), &otherwise) in self.out.iter_mut().zip(self.mask).zip(self.otherwise) {
            *out = if mask == 0.0 { otherwise } else { *out };
        }
    }
}

//! Elements of one type as another, and copies of views.

use super::codes::{CastRule, decode, decode_at, encode};
use super::{BitNetDType, BitNetTensor, TensorMetadata, Walk, copy_run};
use crate::memory::HybridMemoryPool;
use crate::{Error, Result};

impl BitNetTensor {
    /// A tensor of this element type with `values` in row-major order, in the pool.
    ///
    /// ```
    /// use bitnet_core::memory::HybridMemoryPool;
    /// use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, CastRule};
    ///
    /// let pool = HybridMemoryPool::new()?;
    /// let numbers = [0.4, -0.6, 3.0, 0.0, 1.0];
    /// let rule = CastRule::Saturating;
    /// let trits = BitNetTensor::from_f32_as(&[5], &numbers, BitNetDType::BitNet158, rule, &pool)?;
    /// assert_eq!(trits.bytes()?.len(), 1);
    /// assert_eq!(trits.to_f32(&pool)?.f32()?, [0.0, -1.0, 1.0, 0.0, 1.0]);
    /// # Ok::<(), bitnet_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotRepresentable`] by `rule`, [`Error::BadStorage`] if the number of values is not that of the
    /// shape; as [`BitNetTensor::new`].
    pub fn from_f32_as(
        shape: &[usize],
        values: &[f32],
        dtype: BitNetDType,
        rule: CastRule,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let mut out = Self::unwritten(shape, dtype, pool)?;
        if out.metadata().elements()? != values.len() {
            return Err(Error::BadStorage {
                what: "tensor",
                got: values.len() * 4,
                expected: format!("shape {shape:?}"),
            });
        }
        encode(dtype, values, rule, out.bytes_mut()?)?;
        Ok(out)
    }

    /// The elements as f32, exactly, in row-major order: a contiguous copy in the pool.
    ///
    /// # Errors
    /// [`Error::BadTrits`] for damaged trits; as [`BitNetTensor::new`].
    #[track_caller]
    pub fn to_f32(&self, pool: &HybridMemoryPool) -> Result<Self> {
        let mut out = Self::scratch(self.shape(), pool)?;
        self.read(out.f32_mut()?)?;
        Ok(out)
    }

    /// Writes the elements as f32, exactly, in row-major order.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if `out` does not have as many numbers as the tensor has elements,
    /// [`Error::BadTrits`] for damaged trits.
    pub fn read(&self, out: &mut [f32]) -> Result<()> {
        if out.len() != self.metadata().elements()? {
            return Err(Error::ShapeMismatch {
                op: "read",
                operand: "the output",
                got: vec![out.len()],
                expected: format!("the elements of {:?}", self.shape()),
            });
        }
        self.storage()?;
        if let Ok(bytes) = self.bytes() {
            return decode(self.dtype(), bytes, out);
        }
        if self.dtype() == BitNetDType::F32
            && let Ok((all, _)) = self.strided_f32()
        {
            let walk = self.walk();
            let (len, [step]) = walk.run();
            for ([start], out) in walk.cursor().zip(out.chunks_exact_mut(len.max(1))) {
                copy_run(all, start, step, out);
            }
            return Ok(());
        }
        let mut next = out.iter_mut();
        self.for_each_element(|bytes, at| {
            if let Some(out) = next.next() {
                *out = decode_at(self.dtype(), bytes, at)?;
            }
            Ok(())
        })
    }

    /// The only element, as f32.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if there is not exactly one; as [`BitNetTensor::read`].
    pub fn item(&self) -> Result<f32> {
        let mut out = [0.0];
        self.read(&mut out)?;
        Ok(out[0])
    }

    /// The elements as another type, in row-major order: a contiguous copy in the pool.
    ///
    /// # Errors
    /// [`Error::NotRepresentable`] by `rule`; as [`BitNetTensor::to_f32`].
    pub fn cast(
        &self,
        dtype: BitNetDType,
        rule: CastRule,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        match (self.dtype(), dtype) {
            (from, to) if from == to => self.to_contiguous(pool),
            (_, BitNetDType::F32) => self.to_f32(pool),
            (BitNetDType::F32, _) if self.f32().is_ok() => {
                Self::from_f32_as(self.shape(), self.f32()?, dtype, rule, pool)
            }
            _ => {
                let wide = self.to_f32(pool)?;
                Self::from_f32_as(self.shape(), wide.f32()?, dtype, rule, pool)
            }
        }
    }

    /// A contiguous, row-major copy, in the pool.
    ///
    /// # Errors
    /// [`Error::BadTrits`] for damaged trits; as [`BitNetTensor::new`].
    #[track_caller]
    pub fn to_contiguous(&self, pool: &HybridMemoryPool) -> Result<Self> {
        let mut out = Self::unwritten(self.shape(), self.dtype(), pool)?;
        if let Ok(bytes) = self.bytes() {
            out.bytes_mut()?.copy_from_slice(bytes);
            return Ok(out);
        }
        let (elements, unit) = self.dtype().packing();
        if elements == 1 {
            if unit == 4 {
                self.read(out.f32_mut()?)?;
                return Ok(out);
            }
            let mut next = out.bytes_mut()?.chunks_exact_mut(unit);
            self.for_each_element(|bytes, at| {
                let element = bytes.get(at * unit..(at + 1) * unit);
                if let (Some(out), Some(element)) = (next.next(), element) {
                    out.copy_from_slice(element);
                }
                Ok(())
            })?;
            return Ok(out);
        }
        let wide = self.to_f32(pool)?;
        encode(self.dtype(), wide.f32()?, CastRule::Checked, out.bytes_mut()?)?;
        Ok(out)
    }

    /// A tensor in the pool whose bytes are to be written before they are read.
    fn unwritten(shape: &[usize], dtype: BitNetDType, pool: &HybridMemoryPool) -> Result<Self> {
        if dtype == BitNetDType::F32 {
            return Self::scratch(shape, pool);
        }
        Self::new(TensorMetadata::row_major(shape, dtype, crate::device::Device::Cpu), pool)
    }

    /// The order in which the elements are visited.
    pub(crate) fn walk(&self) -> Walk<1> {
        Walk::new(self.shape(), [self.metadata().strides()], [self.offset()])
    }

    /// Calls `visit` with the storage and the position of every element, in row-major order.
    fn for_each_element(&self, mut visit: impl FnMut(&[u8], usize) -> Result<()>) -> Result<()> {
        let bytes = self.storage()?;
        self.walk().positions().try_for_each(|at| visit(bytes, at))
    }
}

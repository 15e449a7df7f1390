//! The tensor itself: metadata over bytes of a pool or of a mapped file.

use std::ops::Range;
use std::sync::Arc;

use super::storage::{DeviceBytes, ExternalBytes, Storage};
use super::{BitNetDType, Dims, TensorMetadata};
use crate::device::Device;
use crate::memory::{HybridMemoryPool, MemoryHandle, Purpose};
use crate::{Error, Result};

/// A strided tensor. Cloning and viewing share the storage; writing needs it unshared.
#[derive(Clone)]
pub struct BitNetTensor {
    metadata: TensorMetadata,
    /// First element's offset in the storage, in elements.
    offset: usize,
    pub(super) storage: Storage,
}

impl std::fmt::Debug for BitNetTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BitNetTensor").field("metadata", &self.metadata).finish_non_exhaustive()
    }
}

impl BitNetTensor {
    /// A zeroed tensor in the pool. A tensor of [`BitNetDType::I1`], which has no zero, is all 1.
    ///
    /// ```
    /// use bitnet_core::device::auto_select_device;
    /// use bitnet_core::memory::HybridMemoryPool;
    /// use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, TensorMetadata};
    ///
    /// let pool = HybridMemoryPool::new()?;
    /// let device = auto_select_device();
    /// let metadata = TensorMetadata::new(vec![128, 256], BitNetDType::F32, device.clone());
    /// let tensor = BitNetTensor::new(metadata, &pool)?;
    /// assert_eq!(tensor.shape(), [128, 256]);
    /// assert_eq!(tensor.device(), &device);
    /// # Ok::<(), bitnet_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] or [`Error::OutOfMemory`].
    #[track_caller]
    pub fn new(metadata: TensorMetadata, pool: &HybridMemoryPool) -> Result<Self> {
        let bytes = metadata.dtype().bytes_for(metadata.elements()?)?;
        let mut handle = pool.allocate_zeroed(bytes, 64, metadata.device())?;
        if metadata.dtype().zero_byte() != 0 {
            handle.bytes_mut().fill(metadata.dtype().zero_byte());
        }
        Ok(Self { metadata, offset: 0, storage: Storage::Pool(Arc::new(handle)) })
    }

    /// An f32 tensor of this shape in the pool, on the CPU, to be written before it is read: its numbers may be what an
    /// earlier tensor of this pool held.
    ///
    /// # Errors
    /// As [`BitNetTensor::new`].
    #[track_caller]
    pub fn scratch(shape: &[usize], pool: &HybridMemoryPool) -> Result<Self> {
        let metadata = TensorMetadata::row_major(shape, BitNetDType::F32, Device::Cpu);
        let bytes = metadata.dtype().bytes_for(metadata.elements()?)?;
        let mut handle = pool.allocate(bytes, 64, metadata.device())?;
        if cfg!(debug_assertions) {
            // NaN, so that what is read before it is written is seen in tests.
            handle.bytes_mut().fill(0xff);
        }
        Ok(Self { metadata, offset: 0, storage: Storage::Pool(Arc::new(handle)) })
    }

    /// A zeroed f32 tensor of this shape in the pool, on the CPU.
    ///
    /// # Errors
    /// As [`BitNetTensor::new`].
    #[track_caller]
    pub fn zeros(shape: &[usize], pool: &HybridMemoryPool) -> Result<Self> {
        Self::new(TensorMetadata::row_major(shape, BitNetDType::F32, Device::Cpu), pool)
    }

    /// An f32 tensor with the given values in row-major order, in the pool.
    ///
    /// # Errors
    /// [`Error::BadStorage`] if the number of values is not that of the shape; as [`BitNetTensor::new`].
    #[track_caller]
    pub fn from_f32(shape: &[usize], values: &[f32], pool: &HybridMemoryPool) -> Result<Self> {
        let mut out = Self::zeros(shape, pool)?;
        let data = out.f32_mut()?;
        if data.len() != values.len() {
            return Err(Error::BadStorage {
                what: "f32 tensor",
                got: values.len() * 4,
                expected: format!("shape {shape:?}"),
            });
        }
        data.copy_from_slice(values);
        Ok(out)
    }

    /// A tensor over memory outside every pool, such as a mapped file or memory shared with another process; it can be
    /// written if those bytes can. Nothing is copied.
    ///
    /// # Errors
    /// [`Error::BadStorage`] if the number of bytes is not that of the metadata.
    pub fn from_external(metadata: TensorMetadata, bytes: Arc<dyn ExternalBytes>) -> Result<Self> {
        Self::over(metadata, Storage::External(bytes))
    }

    /// A tensor over memory of a device. Methods that read or write elements on the host return [`Error::NotOnHost`].
    ///
    /// # Errors
    /// As [`BitNetTensor::from_external`].
    pub fn from_device(metadata: TensorMetadata, bytes: Arc<dyn DeviceBytes>) -> Result<Self> {
        Self::over(metadata, Storage::Device(bytes))
    }

    /// The memory of a contiguous tensor on a device and its range of bytes in it; `None` for a tensor on the host.
    ///
    /// # Errors
    /// [`Error::NotContiguous`] for a strided view.
    pub fn device_bytes(&self) -> Result<Option<(&dyn DeviceBytes, Range<usize>)>> {
        let Storage::Device(device) = &self.storage else { return Ok(None) };
        Ok(Some((&**device, self.byte_range("device bytes")?)))
    }

    /// As [`BitNetTensor::device_bytes`], for writing.
    ///
    /// # Errors
    /// [`Error::NotContiguous`], and [`Error::NotWritable`] if another tensor shares the memory.
    pub fn device_bytes_mut(&mut self) -> Result<Option<(&mut dyn DeviceBytes, Range<usize>)>> {
        if !matches!(self.storage, Storage::Device(_)) {
            return Ok(None);
        }
        let range = self.byte_range("device bytes")?;
        let Storage::Device(device) = &mut self.storage else { return Ok(None) };
        let device = Arc::get_mut(device).ok_or(Error::NotWritable { op: "device bytes" })?;
        Ok(Some((device, range)))
    }

    fn over(metadata: TensorMetadata, storage: Storage) -> Result<Self> {
        let needed = metadata.dtype().bytes_for(metadata.elements()?)?;
        let got = storage.size();
        if got != needed {
            return Err(Error::BadStorage {
                what: "mapped tensor",
                got,
                expected: format!("{needed} bytes"),
            });
        }
        Ok(Self { metadata, offset: 0, storage })
    }

    /// Whether the memory under the tensor still is what it was when the tensor was made: a mapped file may have been
    /// cut short or written to since. Blocks of a pool always are. Methods that read elements notice a file that was
    /// cut short before they were called; this one, called after a computation,
    /// also notices one that was cut short during it.
    ///
    /// # Errors
    /// What the owner of the memory reports, such as [`Error::FileTruncated`].
    pub fn check(&self) -> Result<()> {
        self.storage.check()
    }

    /// Shape, strides, element type and device.
    pub fn metadata(&self) -> &TensorMetadata {
        &self.metadata
    }

    /// The extent of each dimension.
    pub fn shape(&self) -> &[usize] {
        self.metadata.shape()
    }

    /// The element type.
    pub fn dtype(&self) -> BitNetDType {
        self.metadata.dtype()
    }

    /// Where the tensor lives.
    pub fn device(&self) -> &Device {
        self.metadata.device()
    }

    /// The extents of a two-dimensional tensor.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] for any other number of dimensions.
    pub fn dims2(&self, op: &'static str, operand: &'static str) -> Result<(usize, usize)> {
        match *self.shape() {
            [a, b] => Ok((a, b)),
            _ => Err(self.mismatch(op, operand, "two dimensions")),
        }
    }

    /// The bytes of a contiguous tensor. Where elements share bytes, the last one may hold elements after this view's.
    ///
    /// Each call on a tensor over a mapped file asks the system for the length of the file (one `fstat`), as do all
    /// methods that read elements: call it once for many elements. Blocks of a pool cost no system call.
    ///
    /// # Errors
    /// [`Error::NotContiguous`] for a strided view; what the owner of the memory reports if it can't be read, such as
    /// [`Error::FileTruncated`] of a mapped file that was cut short.
    pub fn bytes(&self) -> Result<&[u8]> {
        let range = self.byte_range("bytes")?;
        self.storage()?.get(range).ok_or(Error::SizeOverflow { what: "tensor view" })
    }

    /// The elements of a contiguous f32 tensor, row-major.
    ///
    /// # Errors
    /// [`Error::DTypeMismatch`], [`Error::NotContiguous`], or [`Error::BadStorage`] if mapped bytes are not
    /// aligned to four.
    pub fn f32(&self) -> Result<&[f32]> {
        self.expect_dtype("f32 view", BitNetDType::F32)?;
        let bytes = self.bytes()?;
        bytemuck::try_cast_slice(bytes).map_err(|_| misaligned(bytes.len()))
    }

    /// The bytes of a contiguous tensor, for writing.
    ///
    /// # Errors
    /// As [`BitNetTensor::bytes`], and [`Error::NotWritable`] if the storage is shared or mapped.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        let range = self.byte_range("bytes")?;
        self.storage.readable()?;
        let all = self.storage.bytes_mut().ok_or(Error::NotWritable { op: "bytes" })?;
        all.get_mut(range).ok_or(Error::SizeOverflow { what: "tensor view" })
    }

    /// The elements of a contiguous f32 tensor, for writing.
    ///
    /// # Errors
    /// As [`BitNetTensor::f32`], and [`Error::NotWritable`] if the storage is shared or mapped.
    pub fn f32_mut(&mut self) -> Result<&mut [f32]> {
        self.expect_dtype("f32 view", BitNetDType::F32)?;
        let bytes = self.bytes_mut()?;
        let got = bytes.len();
        bytemuck::try_cast_slice_mut(bytes).map_err(|_| misaligned(got))
    }

    /// Every byte of the storage, whatever part of it this tensor views.
    ///
    /// # Errors
    /// What the owner of the memory reports, such as [`Error::FileTruncated`], if it can't be read.
    pub(super) fn storage(&self) -> Result<&[u8]> {
        self.storage.readable()
    }

    /// Where the first element lies in the storage, in elements.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// The f32 elements of the whole storage, and where this tensor's first one lies among them.
    ///
    /// # Errors
    /// As [`BitNetTensor::f32`], but for contiguity.
    pub(crate) fn strided_f32(&self) -> Result<(&[f32], usize)> {
        self.expect_dtype("f32 view", BitNetDType::F32)?;
        let bytes = self.storage()?;
        let all = bytemuck::try_cast_slice(bytes).map_err(|_| misaligned(bytes.len()))?;
        Ok((all, self.offset))
    }

    /// The same storage seen otherwise. Elements that share a byte are seen from the first of them on.
    ///
    /// # Errors
    /// [`Error::UnalignedView`] if the view would begin inside a byte.
    pub(super) fn view_at(
        &self,
        op: &'static str,
        offset: usize,
        shape: Dims<usize>,
        strides: Dims<isize>,
    ) -> Result<Self> {
        if !offset.is_multiple_of(self.dtype().packing().0) {
            return Err(Error::UnalignedView { op, dtype: self.dtype(), element: offset });
        }
        let metadata = self.metadata.viewed(shape, strides);
        Ok(Self { metadata, offset, storage: self.storage.clone() })
    }

    fn byte_range(&self, op: &'static str) -> Result<Range<usize>> {
        if !self.metadata.is_contiguous() {
            return Err(Error::NotContiguous { op, shape: self.shape().to_vec() });
        }
        let (elements, unit) = self.dtype().packing();
        let start = self.offset / elements * unit;
        Ok(start..start + self.dtype().bytes_for(self.metadata.elements()?)?)
    }

    pub(crate) fn expect_dtype(&self, op: &'static str, expected: BitNetDType) -> Result<()> {
        if self.dtype() == expected {
            return Ok(());
        }
        Err(Error::DTypeMismatch { op, got: self.dtype(), expected })
    }

    pub(crate) fn expect_shape(
        &self,
        op: &'static str,
        operand: &'static str,
        shape: &[usize],
    ) -> Result<()> {
        if self.shape() == shape {
            return Ok(());
        }
        Err(self.mismatch(op, operand, format!("{shape:?}")))
    }

    /// The error of an operand that does not have the shape `expected`.
    pub(crate) fn mismatch(
        &self,
        op: &'static str,
        operand: &'static str,
        expected: impl Into<String>,
    ) -> Error {
        let (got, expected) = (self.shape().to_vec(), expected.into());
        Error::ShapeMismatch { op, operand, got, expected }
    }

    pub(crate) fn expect_dim(&self, op: &'static str, dim: usize) -> Result<()> {
        let len = self.shape().len();
        if dim < len { Ok(()) } else { Err(Error::OutOfRange { op, index: dim, len }) }
    }
}

impl BitNetTensor {
    /// What the memory of the tensor is used for; [`Purpose::General`] for memory outside every pool.
    pub fn purpose(&self) -> Purpose {
        let Storage::Pool(handle) = &self.storage else { return Purpose::General };
        handle.purpose()
    }

    /// The block that the tensor lies in, unless it is shared.
    pub(super) fn own_block(&mut self) -> Option<&mut MemoryHandle> {
        let Storage::Pool(handle) = &mut self.storage else { return None };
        Arc::get_mut(handle)
    }

    /// Takes the block and leaves the tensor without bytes, unless it is shared.
    pub(super) fn remove_block(&mut self) -> Option<MemoryHandle> {
        self.own_block()?;
        let storage = std::mem::replace(&mut self.storage, Storage::Absent);
        let Storage::Pool(handle) = storage else { return None };
        Arc::into_inner(handle)
    }

    /// Gives a tensor without bytes a block with the same content.
    pub(super) fn restore_block(&mut self, block: MemoryHandle) {
        self.storage = Storage::Pool(Arc::new(block));
    }
}

fn misaligned(got: usize) -> Error {
    let expected = "an address that is a multiple of 4".into();
    Error::BadStorage { what: "f32 view", got, expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> HybridMemoryPool {
        HybridMemoryPool::new().unwrap()
    }

    #[test]
    fn views_share_and_copies_do_not() {
        let pool = pool();
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let mut t = BitNetTensor::from_f32(&[3, 4], &values, &pool).unwrap();
        let rows = t.narrow(0, 1..3).unwrap();
        assert_eq!(rows.f32().unwrap(), &values[4..]);
        assert_eq!(rows.f32().unwrap().as_ptr(), t.f32().unwrap()[4..].as_ptr(), "zero-copy");
        assert!(matches!(t.f32_mut(), Err(Error::NotWritable { .. })), "a view is alive");
        let columns = t.transpose(0, 1).unwrap();
        assert!(matches!(columns.f32(), Err(Error::NotContiguous { .. })));
        let copy = columns.to_contiguous(&pool).unwrap();
        assert_eq!(copy.shape(), [4, 3]);
        assert_eq!(copy.f32().unwrap()[..4], [0.0, 4.0, 8.0, 1.0]);
        drop((rows, columns));
        t.f32_mut().unwrap()[0] = 7.0;
        assert_eq!(copy.f32().unwrap()[0], 0.0);
    }

    #[test]
    fn storage_returns_to_the_pool() {
        let pool = pool();
        let t = BitNetTensor::zeros(&[100], &pool).unwrap();
        assert_eq!(pool.get_metrics().total_allocated, 400);
        let view = t.narrow(0, 0..10).unwrap();
        drop(t);
        assert_eq!(pool.get_metrics().total_allocated, 400, "the view keeps it");
        drop(view);
        assert_eq!(pool.get_metrics().total_allocated, 0);
    }

    struct Mapped([u8; 16]);

    impl ExternalBytes for Mapped {
        fn bytes(&self) -> &[u8] {
            &self.0
        }
    }

    #[test]
    fn mapped_storage_is_checked_and_read_only() {
        let bytes = Arc::new(Mapped([0; 16]));
        let metadata = TensorMetadata::new(vec![8], BitNetDType::F16, Device::Cpu);
        let t = BitNetTensor::from_external(metadata, bytes.clone()).unwrap();
        assert_eq!(t.bytes().unwrap().len(), 16);
        assert!(matches!(t.clone().bytes_mut(), Err(Error::NotWritable { .. })));
        assert!(matches!(t.f32(), Err(Error::DTypeMismatch { .. })));
        let bad = TensorMetadata::new(vec![9], BitNetDType::F16, Device::Cpu);
        assert!(matches!(BitNetTensor::from_external(bad, bytes), Err(Error::BadStorage { .. })));
    }
}

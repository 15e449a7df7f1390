//! Typed arrays of fixed length in a pool.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;

use super::{HybridMemoryPool, MemoryHandle};
use crate::device::Device;
use crate::{Error, Result};

/// A fixed number of plain values in a pool, aligned to a cache line. It returns to the pool when it is dropped.
pub struct PoolBuffer<T: Pod> {
    handle: MemoryHandle,
    items: PhantomData<T>,
}

impl<T: Pod> PoolBuffer<T> {
    /// `len` zeros.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] or [`Error::OutOfMemory`].
    #[track_caller]
    pub fn zeroed(len: usize, pool: &HybridMemoryPool) -> Result<Self> {
        let bytes = Self::bytes_of(len)?;
        let handle = pool.allocate_zeroed(bytes, align_of::<T>(), &Device::Cpu)?;
        Ok(Self { handle, items: PhantomData })
    }

    /// `len` values to be written before they are read: they may have the content of an earlier block.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] or [`Error::OutOfMemory`].
    #[track_caller]
    pub fn scratch(len: usize, pool: &HybridMemoryPool) -> Result<Self> {
        let bytes = Self::bytes_of(len)?;
        let handle = pool.allocate(bytes, align_of::<T>(), &Device::Cpu)?;
        Ok(Self { handle, items: PhantomData })
    }

    /// A copy of `items`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    #[track_caller]
    pub fn from_slice(items: &[T], pool: &HybridMemoryPool) -> Result<Self> {
        let mut out = Self::scratch(items.len(), pool)?;
        out.copy_from_slice(items);
        Ok(out)
    }

    fn bytes_of(len: usize) -> Result<usize> {
        len.checked_mul(size_of::<T>()).ok_or(Error::SizeOverflow { what: "buffer" })
    }
}

impl<T: Pod> Deref for PoolBuffer<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(self.handle.bytes())
    }
}

impl<T: Pod> DerefMut for PoolBuffer<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self.handle.bytes_mut())
    }
}

impl<T: Pod> AsRef<[T]> for PoolBuffer<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T: Pod + PartialEq> PartialEq for PoolBuffer<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Pod> fmt::Debug for PoolBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolBuffer({} items)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Shared;

    #[test]
    fn buffers_are_slices_that_return_to_their_pool() {
        let pool = HybridMemoryPool::new().unwrap();
        let mut numbers = PoolBuffer::<f32>::zeroed(100, &pool).unwrap();
        assert_eq!(numbers.iter().sum::<f32>(), 0.0);
        numbers[99] = 2.5;
        let part = Shared::new(numbers).slice(98..100).unwrap();
        assert_eq!(*part, [0.0, 2.5]);
        assert_eq!(pool.get_metrics().total_allocated, 400);
        drop(part);
        assert_eq!(pool.get_metrics().total_allocated, 0);
        assert!(PoolBuffer::<u64>::zeroed(usize::MAX / 4, &pool).is_err());
    }
}

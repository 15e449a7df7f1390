//! A growable array in a memory pool.
use std::ops::{Deref, DerefMut};

use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use bytemuck::Pod;

use crate::error::Result;

/// An array in a pool that keeps its capacity when it shrinks.
#[derive(Debug)]
pub struct PoolVec<T: Pod> {
    buf: Option<PoolBuffer<T>>,
    len: usize,
    pool: HybridMemoryPool,
}

impl<T: Pod> PoolVec<T> {
    /// Creates an empty array that allocates from `pool`.
    #[must_use]
    pub fn new(pool: &HybridMemoryPool) -> Self {
        Self { buf: None, len: 0, pool: pool.clone() }
    }

    /// Sets the length to `len`; new items are zero.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] if memory is exhausted.
    pub fn resize(&mut self, len: usize) -> Result<&mut [T]> {
        self.reserve(len, len)?;
        let before = std::mem::replace(&mut self.len, len);
        if before < len {
            self[before..].fill(T::zeroed());
        }
        Ok(self)
    }

    /// Appends items.
    ///
    /// # Errors
    /// Same as [`PoolVec::resize`].
    pub fn extend_from_slice(&mut self, items: &[T]) -> Result<()> {
        let start = self.len;
        self.reserve(start + items.len(), (start + items.len()).max(2 * start))?;
        self.len += items.len();
        self[start..].copy_from_slice(items);
        Ok(())
    }

    /// Sets the length to 0 and keeps the capacity.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Ensures a capacity of `least` items; a new allocation has `wanted`.
    fn reserve(&mut self, least: usize, wanted: usize) -> Result<()> {
        if self.buf.as_ref().is_none_or(|buf| buf.len() < least) {
            let mut buf = PoolBuffer::scratch(wanted, &self.pool)?;
            buf[..self.len].copy_from_slice(self);
            self.buf = Some(buf);
        }
        Ok(())
    }
}

impl<T: Pod> Deref for PoolVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.buf.as_ref().map_or(&[], |buf| &buf[..self.len])
    }
}

impl<T: Pod> DerefMut for PoolVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let len = self.len;
        self.buf.as_mut().map_or(&mut [], |buf| &mut buf[..len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_as_a_vector_does() {
        let pool = HybridMemoryPool::new().unwrap();
        let (mut empty, mut vector) = (PoolVec::new(&pool), Vec::new());
        for len in [0, 3, 100, 40, 41, 7000] {
            empty.resize(len).unwrap();
            vector.resize(len, 0u32);
            assert_eq!(*empty, vector, "new items are zero, existing ones stay");
            empty.extend_from_slice(&[5, 6]).unwrap();
            vector.extend([5, 6]);
            assert_eq!(*empty, vector);
        }
        empty.clear();
        assert!(empty.is_empty());
        assert!(pool.get_metrics().total_allocated >= 28_000);
    }
}

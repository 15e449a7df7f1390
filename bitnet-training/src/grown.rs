//! Arrays in a pool that grow as they are needed.
use std::ops::{Deref, DerefMut};

use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use bytemuck::Pod;

use crate::error::Result;

/// An array that is as long as it was last made, with room for the longest so far.
#[derive(Debug)]
pub struct Grown<T: Pod> {
    room: Option<PoolBuffer<T>>,
    len: usize,
    pool: HybridMemoryPool,
}

impl<T: Pod> Grown<T> {
    /// Creates an empty array that is to grow in `pool`.
    #[must_use]
    pub fn new(pool: &HybridMemoryPool) -> Self {
        Self { room: None, len: 0, pool: pool.clone() }
    }

    /// Makes it `len` long: what is added is zero.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] if there is none.
    pub fn sized(&mut self, len: usize) -> Result<&mut [T]> {
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
    /// Same as [`Grown::sized`].
    pub fn extend_from_slice(&mut self, items: &[T]) -> Result<()> {
        let start = self.len;
        self.reserve(start + items.len(), (start + items.len()).max(2 * start))?;
        self.len += items.len();
        self[start..].copy_from_slice(items);
        Ok(())
    }

    /// Empties it and keeps the memory.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Makes room for `least` items; if there is none, for `wanted`.
    fn reserve(&mut self, least: usize, wanted: usize) -> Result<()> {
        if self.room.as_ref().is_none_or(|room| room.len() < least) {
            let mut room = PoolBuffer::scratch(wanted, &self.pool)?;
            room[..self.len].copy_from_slice(self);
            self.room = Some(room);
        }
        Ok(())
    }
}

impl<T: Pod> Deref for Grown<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.room.as_ref().map_or(&[], |room| &room[..self.len])
    }
}

impl<T: Pod> DerefMut for Grown<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let len = self.len;
        self.room.as_mut().map_or(&mut [], |room| &mut room[..len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_as_a_vector_does() {
        let pool = HybridMemoryPool::new().unwrap();
        let (mut grown, mut vector) = (Grown::new(&pool), Vec::new());
        for len in [0, 3, 100, 40, 41, 7000] {
            grown.sized(len).unwrap();
            vector.resize(len, 0u32);
            assert_eq!(*grown, vector, "what is added is zero, what was there stays");
            grown.extend_from_slice(&[5, 6]).unwrap();
            vector.extend([5, 6]);
            assert_eq!(*grown, vector);
        }
        grown.clear();
        assert!(grown.is_empty());
        assert!(pool.get_metrics().total_allocated >= 28_000);
    }
}

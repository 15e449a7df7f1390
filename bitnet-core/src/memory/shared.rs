//! Read-only slices with shared ownership: parts of a vector or of a mapped file.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;

use bytemuck::{AnyBitPattern, NoUninit};

/// A slice with shared ownership of its memory. Clones are cheap.
pub struct Shared<T: 'static> {
    items: NonNull<[T]>,
    owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: a `Shared` yields only `&T`, as `Arc<[T]>` does, and its owner may be sent and shared.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The whole slice of `owner`.
    pub fn new<O: AsRef<[T]> + Send + Sync + 'static>(owner: O) -> Self {
        let owner = Arc::new(owner);
        let items = NonNull::from((*owner).as_ref());
        Self { items, owner }
    }

    /// A part of this slice; `None` if the range is not inside it.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let items = NonNull::from(self.get(range)?);
        Some(Self { items, owner: Arc::clone(&self.owner) })
    }
}

impl<T: NoUninit> Shared<T> {
    /// The same memory read as another type; `None` if its address or its length does not fit that type.
    pub fn cast<U: AnyBitPattern>(&self) -> Option<Shared<U>> {
        let items = NonNull::from(bytemuck::try_cast_slice::<T, U>(self).ok()?);
        Some(Shared { items, owner: Arc::clone(&self.owner) })
    }
}

impl<T> Deref for Shared<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `items` was borrowed from the content of `owner`, which is neither moved, dropped nor borrowed
        // mutably while `self` shares it.
        unsafe { self.items.as_ref() }
    }
}

impl<T> AsRef<[T]> for Shared<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T: Send + Sync> From<Vec<T>> for Shared<T> {
    fn from(items: Vec<T>) -> Self {
        Self::new(items)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self { items: self.items, owner: Arc::clone(&self.owner) }
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({} items)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_lives_as_long_as_any_slice() {
        let part = {
            let whole = Shared::from((0..100u32).collect::<Vec<_>>());
            assert_eq!(whole.slice(90..101), None);
            whole.slice(10..14).unwrap()
        };
        assert_eq!(*part, [10, 11, 12, 13]);
        let bytes = part.cast::<u8>().unwrap();
        drop(part);
        assert_eq!(bytes.len(), 16);
        assert_eq!(bytes.cast::<u32>().unwrap(), Shared::from(vec![10u32, 11, 12, 13]));
    }

    #[test]
    fn misfitting_casts_are_refused() {
        let bytes = Shared::from(vec![0u32; 4]).cast::<u8>().unwrap();
        assert_eq!(bytes.slice(1..9).unwrap().cast::<u32>(), None);
        assert_eq!(bytes.slice(0..7).unwrap().cast::<u32>(), None);
        assert_eq!(bytes.slice(4..4).unwrap().cast::<u32>().unwrap().len(), 0);
    }
}

//! Counted references to a tensor that its registry may move or compress while it has no guard.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use super::entry::{Content, TensorEntry};
use super::{BitNetTensor, TensorMetadata, TensorRegistry};
use crate::Result;
use crate::memory::Purpose;

/// A share in a tensor of a [`TensorRegistry`]. A clone is another share in the same tensor; when the last one is
/// dropped, the memory returns to its pool.
///
/// The tensor is used through guards ([`TensorHandle::read`], [`TensorHandle::write`]). While it has none, a cleanup
/// may move or compress it, which never changes its content.
///
/// ```
/// use bitnet_core::memory::HybridMemoryPool;
/// use bitnet_core::memory::tensor::{BitNetTensor, TensorHandle, TensorRegistry};
///
/// let pool = HybridMemoryPool::new()?;
/// let registry = TensorRegistry::new(&pool);
/// let handle = TensorHandle::new(BitNetTensor::zeros(&[2, 3], &pool)?, &registry);
/// handle.write()?.f32_mut()?[0] = 1.5;
/// let weak = handle.downgrade();
/// assert_eq!(handle.read()?.f32()?[0], 1.5);
/// drop(handle);
/// assert!(weak.upgrade().is_none());
/// assert_eq!(pool.get_metrics().total_allocated, 0);
/// # Ok::<(), bitnet_core::Error>(())
/// ```
#[derive(Clone)]
pub struct TensorHandle {
    entry: Arc<TensorEntry>,
}

/// A reference to a tensor that does not keep it alive.
#[derive(Clone)]
pub struct WeakTensorHandle {
    entry: Weak<TensorEntry>,
}

impl TensorHandle {
    /// Adds a tensor to `registry`.
    ///
    /// A tensor that shares its storage with a view or a clone outside of the handle is neither moved nor compressed.
    pub fn new(tensor: BitNetTensor, registry: &TensorRegistry) -> Self {
        Self::enter(None, tensor, registry)
    }

    /// As [`TensorHandle::new`], with a name for reports. Several tensors may have the same one.
    pub fn named(name: impl Into<String>, tensor: BitNetTensor, registry: &TensorRegistry) -> Self {
        Self::enter(Some(name.into()), tensor, registry)
    }

    fn enter(name: Option<String>, tensor: BitNetTensor, registry: &TensorRegistry) -> Self {
        Self { entry: registry.inner().enter(name, tensor) }
    }

    /// The tensor, for shared reading. Waits while it is being written, moved or compressed. A thread that holds a
    /// guard of this tensor must not request another one: it could wait for itself.
    ///
    /// A compressed tensor is restored first.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if there is no memory to restore a compressed tensor; it remains compressed, and a
    /// later attempt may succeed.
    pub fn read(&self) -> Result<TensorRead<'_>> {
        Ok(TensorRead { content: self.entry.read()?, entry: &self.entry })
    }

    /// The tensor, for exclusive writing. Waits as [`TensorHandle::read`] does, and for all readers.
    ///
    /// # Errors
    /// As [`TensorHandle::read`].
    pub fn write(&self) -> Result<TensorWrite<'_>> {
        Ok(TensorWrite { content: self.entry.write()?, entry: &self.entry })
    }

    /// A reference that does not keep the tensor alive.
    pub fn downgrade(&self) -> WeakTensorHandle {
        WeakTensorHandle { entry: Arc::downgrade(&self.entry) }
    }

    /// The name of the tensor.
    pub fn name(&self) -> Option<&str> {
        self.entry.name()
    }

    /// What the tensor's memory is used for; [`Purpose::General`] for memory outside every pool.
    pub fn purpose(&self) -> Purpose {
        self.entry.shared().purpose
    }

    /// Shape, strides, element type and device. Does not count as use and does not restore a compressed tensor.
    pub fn metadata(&self) -> TensorMetadata {
        self.entry.shared().tensor.metadata().clone()
    }

    /// Whether the tensor is compressed at this moment.
    pub fn is_compressed(&self) -> bool {
        self.entry.shared().form.packed().is_some()
    }

    /// The time since the tensor was added to its registry.
    pub fn age(&self) -> Duration {
        self.entry.age()
    }

    /// The time since a guard was last dropped, or since the tensor was added.
    pub fn idle_time(&self) -> Duration {
        self.entry.idle_time()
    }

    /// How many handles share the tensor, this one included.
    pub fn strong_count(&self) -> usize {
        Arc::strong_count(&self.entry)
    }

    /// Whether both are shares in the same tensor.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.entry, &other.entry)
    }
}

impl TensorRegistry {
    /// Returns a handle of each tensor, oldest first.
    pub fn handles(&self) -> Vec<TensorHandle> {
        let entries: Vec<Weak<TensorEntry>> = self.inner().lock().alive.values().cloned().collect();
        entries.iter().filter_map(|entry| Some(TensorHandle { entry: entry.upgrade()? })).collect()
    }
}

impl WeakTensorHandle {
    /// A share in the tensor; `None` once the last handle has been dropped.
    pub fn upgrade(&self) -> Option<TensorHandle> {
        Some(TensorHandle { entry: self.entry.upgrade()? })
    }
}

/// A tensor for shared reading; it is not moved until the guard is dropped.
pub struct TensorRead<'a> {
    content: RwLockReadGuard<'a, Content>,
    entry: &'a TensorEntry,
}

impl Deref for TensorRead<'_> {
    type Target = BitNetTensor;

    #[inline]
    fn deref(&self) -> &BitNetTensor {
        &self.content.tensor
    }
}

impl Drop for TensorRead<'_> {
    fn drop(&mut self) {
        self.entry.touch();
    }
}

/// A tensor for exclusive use until the guard is dropped.
pub struct TensorWrite<'a> {
    content: RwLockWriteGuard<'a, Content>,
    entry: &'a TensorEntry,
}

impl Deref for TensorWrite<'_> {
    type Target = BitNetTensor;

    #[inline]
    fn deref(&self) -> &BitNetTensor {
        &self.content.tensor
    }
}

impl DerefMut for TensorWrite<'_> {
    fn deref_mut(&mut self) -> &mut BitNetTensor {
        &mut self.content.tensor
    }
}

impl Drop for TensorWrite<'_> {
    fn drop(&mut self) {
        self.content.purpose = self.content.tensor.purpose();
        self.entry.touch();
    }
}

impl fmt::Debug for TensorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorHandle({}, {} shares)", self.entry, self.strong_count())
    }
}

impl fmt::Debug for WeakTensorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry.upgrade() {
            Some(entry) => write!(f, "WeakTensorHandle({entry})"),
            None => f.write_str("WeakTensorHandle(dropped)"),
        }
    }
}

impl fmt::Debug for TensorRead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorRead({}, {:?})", self.entry, self.content.tensor)
    }
}

impl fmt::Debug for TensorWrite<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorWrite({}, {:?})", self.entry, self.content.tensor)
    }
}

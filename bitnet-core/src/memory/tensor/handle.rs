//! Counted references to a tensor that the registry may move or compress while nobody looks at it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError, Weak};
use std::time::Duration;

use super::registry::Shelf;
use super::{BitNetTensor, TensorMetadata, TensorRegistry};
use crate::Result;
use crate::memory::compression::{Packed, Packing};
use crate::memory::observer::without_callbacks;
use crate::memory::{HybridMemoryPool, Purpose};

/// A share in a tensor that a [`TensorRegistry`] watches over. A clone is another share in the same tensor; when the last
/// one is dropped, the memory goes back to its pool.
///
/// The tensor is used through guards ([`TensorHandle::read`], [`TensorHandle::write`]). While no guard is out, a cleanup may
/// move the tensor to another place or compress it; its content never changes by that.
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
    slot: Arc<Slot>,
}

/// A reference to a tensor that does not keep it alive.
#[derive(Clone)]
pub struct WeakTensorHandle {
    slot: Weak<Slot>,
}

/// One tensor of a registry.
pub(super) struct Slot {
    id: u64,
    name: Option<String>,
    shelf: Arc<Shelf>,
    created: u64,
    last_used: AtomicU64,
    /// Guards that are being waited for: who packs the tensor stops, and nobody packs it before they have had it.
    wanted: AtomicU32,
    content: RwLock<Content>,
}

/// What stands behind a handle.
pub(super) struct Content {
    pub(super) tensor: BitNetTensor,
    pub(super) purpose: Purpose,
    pub(super) form: Form,
}

/// How far a tensor is compressed.
pub(super) enum Form {
    /// Not at all.
    Plain,
    /// As [`Form::Plain`], and packing was tried without gain since the tensor was last written.
    Dense,
    /// As [`Form::Plain`], and a part of its bytes has been packed since it was last written.
    Begun(Packing),
    /// The tensor has no storage, and no guard is out.
    Packed(Packed),
}

impl Form {
    pub(super) fn packed(&self) -> Option<&Packed> {
        match self {
            Self::Plain | Self::Dense | Self::Begun(_) => None,
            Self::Packed(packed) => Some(packed),
        }
    }
}

impl Content {
    /// Brings the bytes of a packed tensor back to `pool`.
    fn restore(&mut self, pool: &HybridMemoryPool) -> Result<()> {
        let Some(packed) = self.form.packed() else { return Ok(()) };
        // The caller holds the lock of this tensor, which a callback might ask for.
        let block = without_callbacks(|| packed.unpack(&pool.for_purpose(self.purpose)))?;
        self.tensor.restore_block(block);
        without_callbacks(|| self.form = Form::Plain);
        Ok(())
    }

    /// Gives up what has been packed of a tensor that is in use again.
    pub(super) fn stop_packing(&mut self) {
        if matches!(self.form, Form::Begun(_)) {
            without_callbacks(|| self.form = Form::Plain);
        }
    }
}

impl Slot {
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(super) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    pub(super) fn idle_time(&self) -> Duration {
        let now = self.shelf.clock.nanos();
        Duration::from_nanos(now.saturating_sub(self.last_used.load(Ordering::Relaxed)))
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) != 0
    }

    /// The content, if no guard is out; never waits.
    pub(super) fn try_own(&self) -> Option<RwLockWriteGuard<'_, Content>> {
        match self.content.try_write() {
            Ok(content) => Some(content),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    // A panic under a guard leaves a whole tensor behind, so that a poisoned lock says nothing.
    fn shared(&self) -> RwLockReadGuard<'_, Content> {
        match self.content.try_read() {
            Ok(content) => content,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let _wanted = Wanted::new(&self.wanted);
                self.content.read().unwrap_or_else(PoisonError::into_inner)
            }
        }
    }

    fn owned(&self) -> RwLockWriteGuard<'_, Content> {
        self.try_own().unwrap_or_else(|| {
            let _wanted = Wanted::new(&self.wanted);
            self.content.write().unwrap_or_else(PoisonError::into_inner)
        })
    }

    /// The content, unpacked, for reading.
    fn read(&self) -> Result<RwLockReadGuard<'_, Content>> {
        let content = self.shared();
        if content.form.packed().is_none() {
            return Ok(content);
        }
        drop(content);
        let _wanted = Wanted::new(&self.wanted);
        let mut content = self.owned();
        content.restore(&self.shelf.pool)?;
        drop(content);
        // Nobody packs what is wanted.
        Ok(self.shared())
    }

    /// The content, unpacked, for writing.
    fn write(&self) -> Result<RwLockWriteGuard<'_, Content>> {
        let mut content = self.owned();
        content.restore(&self.shelf.pool)?;
        without_callbacks(|| content.form = Form::Plain);
        Ok(content)
    }

    fn touch(&self) {
        self.last_used.store(self.shelf.clock.nanos(), Ordering::Relaxed);
    }
}

/// Keeps a tensor from being packed again.
struct Wanted<'a>(&'a AtomicU32);

impl<'a> Wanted<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shelf.remove(self.id);
    }
}

impl TensorHandle {
    /// Puts a tensor under the care of `registry`.
    ///
    /// A tensor that shares its storage with another one (a view or a clone outside of the handle) is held as well, but is
    /// neither moved nor compressed as long as it shares.
    pub fn new(tensor: BitNetTensor, registry: &TensorRegistry) -> Self {
        Self::enter(None, tensor, registry)
    }

    /// As [`TensorHandle::new`], with a name for reports. Several tensors may have the same one.
    pub fn named(name: impl Into<String>, tensor: BitNetTensor, registry: &TensorRegistry) -> Self {
        Self::enter(Some(name.into()), tensor, registry)
    }

    pub(super) fn over(slot: Arc<Slot>) -> Self {
        Self { slot }
    }

    fn enter(name: Option<String>, tensor: BitNetTensor, registry: &TensorRegistry) -> Self {
        let shelf = registry.shelf();
        let now = shelf.clock.nanos();
        let purpose = tensor.purpose();
        let slot = shelf.enter(|id| Slot {
            id,
            name,
            shelf: Arc::clone(shelf),
            created: now,
            last_used: AtomicU64::new(now),
            wanted: AtomicU32::new(0),
            content: RwLock::new(Content { tensor, purpose, form: Form::Plain }),
        });
        Self { slot }
    }

    /// The tensor, for reading, together with other readers. Waits while it is being written, moved or compressed. A thread
    /// that holds a guard of this tensor must not ask for another one: it could wait for itself.
    ///
    /// A compressed tensor is restored first.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if there is no memory to restore a compressed tensor; it stays compressed, and a later
    /// attempt may succeed.
    pub fn read(&self) -> Result<TensorRead<'_>> {
        Ok(TensorRead { content: self.slot.read()?, slot: &self.slot })
    }

    /// The tensor, for writing, alone. Waits as [`TensorHandle::read`] does, and for all readers.
    ///
    /// # Errors
    /// As [`TensorHandle::read`].
    pub fn write(&self) -> Result<TensorWrite<'_>> {
        Ok(TensorWrite { content: self.slot.write()?, slot: &self.slot })
    }

    /// A reference that does not keep the tensor alive.
    pub fn downgrade(&self) -> WeakTensorHandle {
        WeakTensorHandle { slot: Arc::downgrade(&self.slot) }
    }

    /// The name that the tensor was given.
    pub fn name(&self) -> Option<&str> {
        self.slot.name()
    }

    /// What the tensor's memory is used for; [`Purpose::General`] for memory outside every pool.
    pub fn purpose(&self) -> Purpose {
        self.slot.shared().purpose
    }

    /// Shape, strides, element type and device. Does not count as use and does not restore a compressed tensor.
    pub fn metadata(&self) -> TensorMetadata {
        self.slot.shared().tensor.metadata().clone()
    }

    /// Whether the tensor is compressed at this moment.
    pub fn is_compressed(&self) -> bool {
        self.slot.shared().form.packed().is_some()
    }

    /// The time since the tensor was put under the registry's care.
    pub fn age(&self) -> Duration {
        let now = self.slot.shelf.clock.nanos();
        Duration::from_nanos(now.saturating_sub(self.slot.created))
    }

    /// The time since a guard was last given back, or since the beginning.
    pub fn idle_time(&self) -> Duration {
        self.slot.idle_time()
    }

    /// How many handles share the tensor, this one included.
    pub fn strong_count(&self) -> usize {
        Arc::strong_count(&self.slot)
    }

    /// Whether both are shares in the same tensor.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.slot, &other.slot)
    }
}

impl WeakTensorHandle {
    /// A share in the tensor; `None` once the last handle has been dropped.
    pub fn upgrade(&self) -> Option<TensorHandle> {
        Some(TensorHandle { slot: self.slot.upgrade()? })
    }
}

/// A tensor that may be read; it stays where it is until the guard is dropped.
pub struct TensorRead<'a> {
    content: RwLockReadGuard<'a, Content>,
    slot: &'a Slot,
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
        self.slot.touch();
    }
}

/// A tensor that may be written; nobody else sees it until the guard is dropped.
pub struct TensorWrite<'a> {
    content: RwLockWriteGuard<'a, Content>,
    slot: &'a Slot,
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
        self.slot.touch();
    }
}

impl fmt::Debug for TensorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorHandle({}, {} shares)", self.slot, self.strong_count())
    }
}

impl fmt::Debug for WeakTensorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot.upgrade() {
            Some(slot) => write!(f, "WeakTensorHandle({slot})"),
            None => f.write_str("WeakTensorHandle(gone)"),
        }
    }
}

impl fmt::Debug for TensorRead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorRead({}, {:?})", self.slot, self.content.tensor)
    }
}

impl fmt::Debug for TensorWrite<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorWrite({}, {:?})", self.slot, self.content.tensor)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name:?}"),
            None => write!(f, "tensor {}", self.id),
        }
    }
}

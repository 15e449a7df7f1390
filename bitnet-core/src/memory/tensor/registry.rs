//! All tensors that handles hold, so that those in nobody's hands can be moved, compressed and reported.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLockWriteGuard, Weak};
use std::time::{Duration, Instant};

use super::TensorHandle;
use super::handle::{Content, Slot};
use crate::memory::compression::Packed;
use crate::memory::{Clock, Compaction, HybridMemoryPool, MemoryHandle, Purpose};
use crate::{Error, Result};

/// The tensors that [`super::TensorHandle`]s hold. Clones are the same registry. It keeps no tensor alive.
#[derive(Clone)]
pub struct TensorRegistry {
    shelf: Arc<Shelf>,
}

/// A registry that is not kept alive by it.
#[derive(Clone)]
pub(in crate::memory) struct WeakTensorRegistry {
    shelf: Weak<Shelf>,
}

impl WeakTensorRegistry {
    /// The registry, as long as it or one of its handles is there.
    pub(in crate::memory) fn upgrade(&self) -> Option<TensorRegistry> {
        Some(TensorRegistry { shelf: self.shelf.upgrade()? })
    }

    pub(in crate::memory) fn is_alive(&self) -> bool {
        self.shelf.strong_count() > 0
    }

    pub(in crate::memory) fn is_of(&self, registry: &TensorRegistry) -> bool {
        std::ptr::eq(self.shelf.as_ptr(), Arc::as_ptr(&registry.shelf))
    }
}

impl fmt::Debug for WeakTensorRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakTensorRegistry").field("is_alive", &self.is_alive()).finish()
    }
}

/// What the handles share with their registry.
pub(super) struct Shelf {
    pub(super) pool: HybridMemoryPool,
    pub(super) clock: Clock,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    next: u64,
    alive: BTreeMap<u64, Weak<Slot>>,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps track of the slot that `make` makes for the number given to it.
    pub(super) fn enter(&self, make: impl FnOnce(u64) -> Slot) -> Arc<Slot> {
        let mut slots = self.lock();
        let id = slots.next;
        slots.next += 1;
        let slot = Arc::new(make(id));
        slots.alive.insert(id, Arc::downgrade(&slot));
        slot
    }

    pub(super) fn remove(&self, id: u64) {
        self.lock().alive.remove(&id);
    }
}

impl TensorRegistry {
    /// A registry whose tensors are restored to `pool` when they have been compressed. The tensors themselves may lie in
    /// any pool, or in none.
    pub fn new(pool: &HybridMemoryPool) -> Self {
        Self::with_clock(pool, Clock::system())
    }

    /// As [`TensorRegistry::new`], with ages and idle times by this clock.
    pub fn with_clock(pool: &HybridMemoryPool, clock: Clock) -> Self {
        let shelf = Shelf { pool: pool.clone(), clock, slots: Mutex::default() };
        let registry = Self { shelf: Arc::new(shelf) };
        pool.attach_registry(&registry);
        registry
    }

    pub(in crate::memory) fn downgrade(&self) -> WeakTensorRegistry {
        WeakTensorRegistry { shelf: Arc::downgrade(&self.shelf) }
    }

    pub(super) fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    /// The number of tensors that at least one handle holds.
    pub fn len(&self) -> usize {
        self.shelf.lock().alive.len()
    }

    /// Whether no handle is alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A handle of each tensor, from the oldest one on.
    pub fn handles(&self) -> Vec<TensorHandle> {
        let slots: Vec<Weak<Slot>> = self.shelf.lock().alive.values().cloned().collect();
        slots.iter().filter_map(|slot| Some(TensorHandle::over(slot.upgrade()?))).collect()
    }

    /// Calls `visit` for each tensor that no guard has out and that has been idle for at least `older_than`, from the oldest
    /// one on, until it breaks. Tensors in use are passed over: this never waits for a guard. Whoever asks for a guard of
    /// the tensor visited waits until `visit` has returned.
    pub fn for_each_idle(
        &self,
        older_than: Duration,
        mut visit: impl FnMut(&mut IdleTensor<'_>) -> ControlFlow<()>,
    ) {
        // Handles may be made and dropped by `visit`, so that the list must not be locked meanwhile.
        let slots: Vec<Weak<Slot>> = self.shelf.lock().alive.values().cloned().collect();
        for slot in slots {
            let Some(slot) = slot.upgrade() else { continue };
            let Some(content) = slot.try_own() else { continue };
            if slot.idle_time() < older_than || slot.is_wanted() {
                continue;
            }
            if visit(&mut IdleTensor { slot: &slot, content }).is_break() {
                return;
            }
        }
    }

    /// Compresses each tensor that has been idle for at least `older_than`, as [`IdleTensor::compress`] does. Whoever reads or
    /// writes one of them later finds it restored.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is no room for the compressed bytes beside the others; what has been compressed until
    /// then stays so.
    pub fn compress_idle(&self, older_than: Duration) -> Result<Compressed> {
        let mut done = Compressed::default();
        let mut failed = None;
        self.for_each_idle(older_than, |tensor| match tensor.compress() {
            Ok(one) => {
                done.tensors += one.tensors;
                done.bytes_before += one.bytes_before;
                done.bytes_after += one.bytes_after;
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        });
        failed.map_or(Ok(done), Err)
    }
}

/// What compressing idle tensors did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compressed {
    /// Tensors that were compressed.
    pub tensors: usize,
    /// Bytes that they took before.
    pub bytes_before: usize,
    /// Bytes that they take now.
    pub bytes_after: usize,
}

/// A tensor that nobody reads or writes, and that nobody can while this is alive.
pub struct IdleTensor<'a> {
    slot: &'a Slot,
    content: RwLockWriteGuard<'a, Content>,
}

impl IdleTensor<'_> {
    /// The name that the tensor was given.
    pub fn name(&self) -> Option<&str> {
        self.slot.name()
    }

    /// What the tensor's memory is used for.
    pub fn purpose(&self) -> Purpose {
        self.content.purpose
    }

    /// The time since a guard was last given back.
    pub fn idle_time(&self) -> Duration {
        self.slot.idle_time()
    }

    /// The block that the tensor lies in; `None` if it can't be moved: it lies outside every pool, or shares its storage with a
    /// view or a clone that is alive elsewhere.
    pub fn block(&mut self) -> Option<&MemoryHandle> {
        self.content.tensor.own_block().map(|block| &*block)
    }

    /// Moves the tensor to the block that `place` makes, which has the size of the one given to it. The bytes are copied
    /// here; the old block goes back to its pool. Whether it was moved: no if there is no [`IdleTensor::block`].
    ///
    /// # Errors
    /// That of `place`, or [`Error::BadStorage`] for a block of another size. The tensor then stays where it is.
    pub fn relocate(
        &mut self,
        place: impl FnOnce(&MemoryHandle) -> Result<MemoryHandle>,
    ) -> Result<bool> {
        let Some(block) = self.content.tensor.own_block() else { return Ok(false) };
        let mut new = place(block)?;
        if new.size() != block.size() {
            return Err(Error::BadStorage {
                what: "relocated tensor",
                got: new.size(),
                expected: format!("{} bytes", block.size()),
            });
        }
        new.bytes_mut().copy_from_slice(block.bytes());
        *block = new;
        Ok(true)
    }

    /// Moves the tensor out of sparse memory, if it lies there and can be moved. Whether it was moved: no if there is no
    /// [`IdleTensor::block`], if `compaction` does not concern it, or if its bytes were not copied before the deadline.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; the tensor then stays where it is.
    pub fn leave_sparse(
        &mut self,
        compaction: &Compaction<'_>,
        deadline: Option<Instant>,
    ) -> Result<bool> {
        let tensor = &mut self.content.tensor;
        let Some(block) = tensor.own_block().filter(|block| compaction.concerns(block)) else {
            return Ok(false);
        };
        let before = block.address();
        let Some(block) = tensor.remove_block() else { return Ok(false) };
        let (block, outcome) = match compaction.relocate_until(block, deadline) {
            Ok(block) => (block, Ok(())),
            Err((block, error)) => (block, Err(error)),
        };
        let moved = block.address() != before;
        tensor.restore_block(block);
        outcome.map(|()| moved)
    }
}

impl IdleTensor<'_> {
    /// Whether the tensor is compressed.
    pub fn is_compressed(&self) -> bool {
        self.content.packed.is_some()
    }

    /// Compresses the tensor without loss; its block goes back to the pool. Nothing is done, and zeros are returned, where there
    /// is no [`IdleTensor::block`], where less than a sixteenth would be gained (which is remembered until the tensor is
    /// written), and where it is compressed already.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is no room for the compressed bytes beside the others; the tensor stays as it is.
    pub fn compress(&mut self) -> Result<Compressed> {
        let Content { tensor, purpose, packed, dense } = &mut *self.content;
        let (elements, bytes) = tensor.dtype().packing();
        let width = if elements == 1 { bytes } else { 1 };
        if *dense || packed.is_some() {
            return Ok(Compressed::default());
        }
        let Some(block) = tensor.own_block() else { return Ok(Compressed::default()) };
        let pool = self.slot.pool().for_purpose(*purpose);
        let Some(small) = Packed::pack(block.bytes(), width, &pool)? else {
            *dense = true;
            return Ok(Compressed::default());
        };
        let done =
            Compressed { tensors: 1, bytes_before: small.unpacked_len(), bytes_after: small.len() };
        *packed = Some(small);
        drop(tensor.remove_block());
        Ok(done)
    }
}

impl fmt::Debug for TensorRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorRegistry({} tensors)", self.len())
    }
}

impl fmt::Debug for IdleTensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdleTensor({}, {:?})", self.slot, self.content.tensor)
    }
}

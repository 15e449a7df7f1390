//! The entry of a tensor in a registry: its content, its compressed form, and when it was last used.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
    Weak,
};
use std::time::Duration;

use super::BitNetTensor;
use super::compression::{Packed, Packing};
use crate::Result;
use crate::memory::cleanup::CompressionStep;
use crate::memory::observer::without_callbacks;
use crate::memory::{Clock, HybridMemoryPool, MemoryHandle, Purpose};
use crate::sync::lock;

/// The state that handles share with their registry.
pub(super) struct RegistryInner {
    pub(super) pool: HybridMemoryPool,
    pub(super) clock: Clock,
    entries: Mutex<Entries>,
    /// Blocks of compressed tensors, too large to be dropped before their pages are discarded.
    vacated: Mutex<Vec<MemoryHandle>>,
}

#[derive(Default)]
pub(super) struct Entries {
    pub(super) next: u64,
    pub(super) alive: BTreeMap<u64, Weak<TensorEntry>>,
}

impl RegistryInner {
    pub(super) fn new(pool: HybridMemoryPool, clock: Clock) -> Self {
        Self { pool, clock, entries: Mutex::default(), vacated: Mutex::default() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Entries> {
        lock(&self.entries)
    }

    pub(super) fn enter(
        self: &Arc<Self>,
        name: Option<String>,
        tensor: BitNetTensor,
    ) -> Arc<TensorEntry> {
        let (now, purpose) = (self.clock.nanos(), tensor.purpose());
        let mut entries = self.lock();
        let id = entries.next;
        entries.next += 1;
        let entry = Arc::new(TensorEntry {
            id,
            name,
            inner: Arc::clone(self),
            created: now,
            last_used: AtomicU64::new(now),
            requests: AtomicU32::new(0),
            content: RwLock::new(Content { tensor, purpose, form: Form::Plain }),
        });
        entries.alive.insert(id, Arc::downgrade(&entry));
        entry
    }

    fn remove(&self, id: u64) {
        self.lock().alive.remove(&id);
    }

    pub(super) fn vacated(&self) -> MutexGuard<'_, Vec<MemoryHandle>> {
        lock(&self.vacated)
    }

    /// Frees vacated blocks, after their pages are discarded, as long as `more` returns true.
    pub(super) fn free_vacated_while(&self, more: &dyn Fn() -> bool) -> CompressionStep {
        let mut step = CompressionStep::default();
        while !step.was_cut
            && let Some(mut block) = { self.vacated().pop() }
        {
            let (released, is_empty) = block.discard_while(more);
            step.returned += released;
            if is_empty {
                drop(block);
                step.activity += 1;
            } else {
                step.was_cut = true;
                self.vacated().push(block);
            }
        }
        step
    }
}

pub(super) struct TensorEntry {
    id: u64,
    name: Option<String>,
    inner: Arc<RegistryInner>,
    created: u64,
    last_used: AtomicU64,
    /// The number of threads that wait for a guard: while it is not 0, packing stops and does not begin.
    requests: AtomicU32,
    content: RwLock<Content>,
}

pub(super) struct Content {
    pub(super) tensor: BitNetTensor,
    pub(super) purpose: Purpose,
    pub(super) form: Form,
}

/// The compression state of a tensor.
pub(super) enum Form {
    /// Not at all.
    Plain,
    /// As [`Form::Plain`], and packing saved too little since the tensor was last written.
    Dense,
    /// As [`Form::Plain`], and a part of its bytes has been packed since it was last written.
    Begun(Packing),
    /// The tensor has no storage and no guard.
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
    /// Restores the bytes of a packed tensor in `pool`.
    fn restore(&mut self, pool: &HybridMemoryPool) -> Result<()> {
        let Some(packed) = self.form.packed() else { return Ok(()) };
        // The caller holds the lock of this tensor, which a callback might wait for.
        let block = without_callbacks(|| packed.unpack(&pool.for_purpose(self.purpose)))?;
        self.tensor.restore_block(block);
        without_callbacks(|| self.form = Form::Plain);
        Ok(())
    }

    /// Drops the packed parts of a tensor that is in use again.
    pub(super) fn stop_packing(&mut self) {
        if matches!(self.form, Form::Begun(_)) {
            without_callbacks(|| self.form = Form::Plain);
        }
    }
}

impl TensorEntry {
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(super) fn inner(&self) -> &RegistryInner {
        &self.inner
    }

    pub(super) fn idle_time(&self) -> Duration {
        let now = self.inner.clock.nanos();
        Duration::from_nanos(now.saturating_sub(self.last_used.load(Ordering::Relaxed)))
    }

    pub(super) fn is_requested(&self) -> bool {
        self.requests.load(Ordering::Acquire) != 0
    }

    /// Returns the content, if there is no guard; never waits.
    pub(super) fn try_own(&self) -> Option<RwLockWriteGuard<'_, Content>> {
        match self.content.try_write() {
            Ok(content) => Some(content),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    // A panic under a guard leaves a consistent tensor, so poisoning is ignored.
    pub(super) fn shared(&self) -> RwLockReadGuard<'_, Content> {
        match self.content.try_read() {
            Ok(content) => content,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let _request = Request::new(&self.requests);
                self.content.read().unwrap_or_else(PoisonError::into_inner)
            }
        }
    }

    fn owned(&self) -> RwLockWriteGuard<'_, Content> {
        self.try_own().unwrap_or_else(|| {
            let _request = Request::new(&self.requests);
            self.content.write().unwrap_or_else(PoisonError::into_inner)
        })
    }

    /// Returns the content, unpacked, for reading.
    pub(super) fn read(&self) -> Result<RwLockReadGuard<'_, Content>> {
        let content = self.shared();
        if content.form.packed().is_none() {
            return Ok(content);
        }
        drop(content);
        let _request = Request::new(&self.requests);
        let mut content = self.owned();
        content.restore(&self.inner.pool)?;
        drop(content);
        // A requested tensor is not packed.
        Ok(self.shared())
    }

    /// Returns the content, unpacked, for writing.
    pub(super) fn write(&self) -> Result<RwLockWriteGuard<'_, Content>> {
        let mut content = self.owned();
        content.restore(&self.inner.pool)?;
        without_callbacks(|| content.form = Form::Plain);
        Ok(content)
    }

    pub(super) fn age(&self) -> Duration {
        Duration::from_nanos(self.inner.clock.nanos().saturating_sub(self.created))
    }

    pub(super) fn touch(&self) {
        self.last_used.store(self.inner.clock.nanos(), Ordering::Relaxed);
    }
}

impl fmt::Display for TensorEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name:?}"),
            None => write!(f, "tensor {}", self.id),
        }
    }
}

/// Prevents a tensor from being packed.
struct Request<'a>(&'a AtomicU32);

impl<'a> Request<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for TensorEntry {
    fn drop(&mut self) {
        self.inner.remove(self.id);
    }
}

//! All tensors that handles hold, so that those in nobody's hands can be moved, compressed and reported.

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLockWriteGuard, Weak};
use std::time::{Duration, Instant};

use super::TensorHandle;
use super::handle::{Content, Form, Slot};
use crate::memory::compression::{Packing, Progress};
use crate::memory::observer::without_callbacks;
use crate::memory::{Clock, Compaction, HybridMemoryPool, MemoryHandle, Purpose};
use crate::{Error, Result};

/// Tensors that are looked up at once, and between two looks at the clock.
const BATCH: usize = 64;

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
    /// Blocks of tensors that have been compressed, too large to be dropped before their pages have gone.
    leaving: Mutex<Vec<MemoryHandle>>,
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

    fn leaving(&self) -> MutexGuard<'_, Vec<MemoryHandle>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives blocks that tensors have left back to their pools, after their pages, as long as `more` says so.
    fn give_blocks_back(&self, more: &dyn Fn() -> bool) -> CompressionStep {
        let mut step = CompressionStep::default();
        while !step.was_cut
            && let Some(mut block) = { self.leaving().pop() }
        {
            let (gone, is_empty) = block.discard_while(more);
            step.returned += gone;
            if is_empty {
                drop(block);
                step.activity += 1;
            } else {
                step.was_cut = true;
                self.leaving().push(block);
            }
        }
        step
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
        let shelf =
            Shelf { pool: pool.clone(), clock, slots: Mutex::default(), leaving: Mutex::default() };
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

    /// Gives blocks that compressed tensors have left back to their pools, as far as `more` allows.
    pub(in crate::memory) fn give_blocks_back(&self, more: &dyn Fn() -> bool) -> CompressionStep {
        self.shelf.give_blocks_back(more)
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
    /// the tensor visited waits until `visit` has returned, and so do callbacks of memory pressure on this thread.
    pub fn for_each_idle(
        &self,
        older_than: Duration,
        visit: impl FnMut(&mut IdleTensor<'_>) -> ControlFlow<()>,
    ) {
        self.for_each_idle_while(older_than, &|| true, visit);
        // What callbacks were not told meanwhile.
        self.shelf.pool.inner().report_usage();
    }

    /// As [`TensorRegistry::for_each_idle`], as long as `more` says so; whether it had the time for all tensors.
    pub(in crate::memory) fn for_each_idle_while(
        &self,
        older_than: Duration,
        more: &dyn Fn() -> bool,
        mut visit: impl FnMut(&mut IdleTensor<'_>) -> ControlFlow<()>,
    ) -> bool {
        let mut from = 0;
        // Those that `visit` makes do not belong to it.
        let end = self.shelf.lock().next;
        loop {
            if !more() {
                return false;
            }
            // Handles may be made and dropped by `visit`, so that the list must not be locked meanwhile.
            let batch: Vec<(u64, Weak<Slot>)> = {
                let slots = self.shelf.lock();
                let alive = slots.alive.range(from..end).take(BATCH);
                alive.map(|(&id, slot)| (id, Weak::clone(slot))).collect()
            };
            let Some(&(last, _)) = batch.last() else { return true };
            from = last + 1;
            for slot in batch.iter().filter_map(|(_, slot)| slot.upgrade()) {
                let Some(mut content) = slot.try_own() else { continue };
                if slot.idle_time() < older_than || slot.is_wanted() {
                    content.stop_packing();
                    continue;
                }
                // A callback might ask for the tensor that is locked here.
                let visited = || visit(&mut IdleTensor { slot: &slot, content });
                if without_callbacks(visited).is_break() {
                    return true;
                }
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
                done.add(one);
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

impl Compressed {
    pub(in crate::memory) fn add(&mut self, other: Self) {
        self.tensors += other.tensors;
        self.bytes_before += other.bytes_before;
        self.bytes_after += other.bytes_after;
    }
}

/// What a step of compressing a tensor did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::memory) struct CompressionStep {
    pub(in crate::memory) done: Compressed,
    /// Bytes that left memory with the block of the tensor.
    pub(in crate::memory) returned: usize,
    /// Allocations and deallocations that it made.
    pub(in crate::memory) activity: u64,
    /// Whether it was cut short.
    pub(in crate::memory) was_cut: bool,
}

impl CompressionStep {
    pub(in crate::memory) fn add(&mut self, other: Self) {
        self.done.add(other.done);
        self.returned += other.returned;
        self.activity += other.activity;
        self.was_cut |= other.was_cut;
    }
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
        self.content.form.packed().is_some()
    }

    /// Compresses the tensor without loss; its block goes back to the pool. Nothing is done, and zeros are returned, where there
    /// is no [`IdleTensor::block`], where less than a sixteenth would be gained (which is remembered until the tensor is
    /// written), where it is compressed already, and where someone asks for the tensor meanwhile.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if there is no room for the compressed bytes beside the others; the tensor stays as it is.
    pub fn compress(&mut self) -> Result<Compressed> {
        Ok(self.compress_while(&|| true)?.done)
    }

    /// As [`IdleTensor::compress`], in small pieces as long as `more` says so, which is asked before each piece. What is cut short,
    /// because it says no or because someone asks for the tensor, goes on when this is called again, unless the tensor has been
    /// written meanwhile; until all is packed it stays as it is.
    ///
    /// # Errors
    /// As [`IdleTensor::compress`].
    pub(in crate::memory) fn compress_while(
        &mut self,
        more: &dyn Fn() -> bool,
    ) -> Result<CompressionStep> {
        let mut step = CompressionStep::default();
        let Content { tensor, purpose, form } = &mut *self.content;
        let (elements, bytes) = tensor.dtype().packing();
        let width = if elements == 1 { bytes } else { 1 };
        if let (Form::Plain | Form::Begun(_), Some(block)) = (&*form, tensor.own_block()) {
            let mut packing = match mem::replace(form, Form::Plain) {
                Form::Begun(packing) => packing,
                _ => Packing::new(width),
            };
            let pool = self.slot.shelf().pool.for_purpose(*purpose);
            let slot = self.slot;
            let progress = packing.go_on(block.bytes(), &pool, &|| !slot.is_wanted() && more())?;
            step.activity = packing.take_activity();
            match progress {
                Progress::Cut => {
                    step.was_cut = !slot.is_wanted();
                    *form = Form::Begun(packing);
                }
                Progress::Dense => {
                    step.activity += packing.parts() as u64;
                    *form = Form::Dense;
                }
                Progress::Whole => {
                    let packed = packing.into_packed();
                    let (bytes_before, bytes_after) = (packed.unpacked_len(), packed.len());
                    step.done = Compressed { tensors: 1, bytes_before, bytes_after };
                    *form = Form::Packed(packed);
                    let shelf = self.slot.shelf();
                    shelf.leaving().extend(tensor.remove_block());
                    step.add(shelf.give_blocks_back(more));
                }
            }
        }
        Ok(step)
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

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;
    use crate::device::Device;
    use crate::memory::tensor::BitNetTensor;
    use crate::memory::{HandClock, MemoryPoolConfig};

    /// Says yes as often as told.
    fn times(count: usize) -> impl Fn() -> bool {
        let left = Cell::new(count);
        move || left.replace(left.get().saturating_sub(1)) > 0
    }

    fn step(registry: &TensorRegistry, idle: Duration, looks: usize) -> Option<CompressionStep> {
        let mut done = None;
        registry.for_each_idle(idle, |tensor| {
            done = Some(tensor.compress_while(&times(looks)).unwrap());
            ControlFlow::Break(())
        });
        done
    }

    /// A tensor of 16 blocks of 64 KiB.
    fn tensor(pool: &HybridMemoryPool) -> BitNetTensor {
        let values: Vec<f32> = (0..1 << 18).map(|at| (at % 100) as f32).collect();
        BitNetTensor::from_f32(&[1 << 18], &values, pool).unwrap()
    }

    #[test]
    fn compression_that_was_cut_goes_on_unless_the_tensor_is_written() {
        let pool = HybridMemoryPool::new().unwrap();
        let hand = HandClock::new();
        let registry = TensorRegistry::with_clock(&pool, hand.clock());
        let handle = TensorHandle::new(tensor(&pool), &registry);
        let held = || pool.get_metrics().total_allocated as usize;
        let plain = held();
        let cut = |looks| {
            let step = step(&registry, Duration::ZERO, looks).unwrap();
            assert!(step.was_cut && step.done == Compressed::default() && !handle.is_compressed());
        };
        cut(10);
        assert!(held() > plain, "what has been packed is kept");
        assert_eq!(handle.read().unwrap().f32().unwrap()[77], 77.0, "reading does not disturb it");
        let whole = step(&registry, Duration::ZERO, 6).unwrap();
        assert!(!whole.was_cut && whole.done.tensors == 1, "{whole:?}: six blocks were left");
        assert!(handle.is_compressed());
        assert_eq!(held(), whole.done.bytes_after);

        handle.write().unwrap().f32_mut().unwrap()[0] = 5.0;
        assert_eq!(held(), plain);
        cut(15);
        handle.write().unwrap().f32_mut().unwrap()[1 << 17] = 6.0;
        assert_eq!(held(), plain, "it was packed in vain");
        cut(15);
        assert!(step(&registry, Duration::ZERO, 16).unwrap().done.tensors == 1);
        let read = handle.read().unwrap();
        assert_eq!([0, 1 << 17, 99].map(|at| read.f32().unwrap()[at]), [5.0, 6.0, 99.0]);
        drop(read);

        hand.advance(Duration::from_secs(9));
        cut(3);
        drop(handle.read().unwrap());
        hand.advance(Duration::from_secs(1));
        assert_eq!(step(&registry, Duration::from_secs(2), 100), None);
        assert_eq!(held(), plain, "it is in use again");
        cut(3);
        drop(handle);
        assert_eq!(held(), 0);
    }

    #[test]
    fn who_asks_for_a_tensor_waits_for_one_block_at_most() {
        let pool = HybridMemoryPool::new().unwrap();
        let registry = TensorRegistry::new(&pool);
        let handle = TensorHandle::new(tensor(&pool), &registry);
        for writes in [false, true] {
            let seen = std::thread::scope(|scope| {
                let asking = RefCell::new(None);
                registry.for_each_idle(Duration::ZERO, |tensor| {
                    let slot = tensor.slot;
                    let looks = AtomicU64::new(0);
                    let more = || {
                        // In the middle of the packing someone asks.
                        if looks.fetch_add(1, Ordering::SeqCst) == 5 {
                            *asking.borrow_mut() = Some(scope.spawn(|| {
                                if writes {
                                    handle.write().unwrap().f32().unwrap()[77]
                                } else {
                                    handle.read().unwrap().f32().unwrap()[77]
                                }
                            }));
                            while !slot.is_wanted() {
                                std::thread::yield_now();
                            }
                        }
                        true
                    };
                    let step = tensor.compress_while(&more).unwrap();
                    assert_eq!((step.done.tensors, step.was_cut), (0, false), "{step:?}");
                    assert_eq!(looks.into_inner(), 6);
                    ControlFlow::Continue(())
                });
                asking.into_inner().unwrap().join().unwrap()
            });
            assert_eq!(seen, 77.0);
        }
        assert_eq!(registry.compress_idle(Duration::ZERO).unwrap().tensors, 1);
    }

    #[test]
    fn a_step_says_what_it_asked_of_the_pool() {
        let pool = HybridMemoryPool::new().unwrap();
        let registry = TensorRegistry::new(&pool);
        let calls = || pool.get_metrics().allocations + pool.get_metrics().deallocations;
        let mut random = 88_172_645_463_325_252u64;
        let noise: Vec<f32> = std::iter::repeat_with(|| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            f32::from_bits((random >> 32) as u32)
        })
        .take(1 << 16)
        .collect();
        let noise = BitNetTensor::from_f32(&[1 << 16], &noise, &pool).unwrap();
        for (tensor, looks) in [(noise, 100), (tensor(&pool), 5), (tensor(&pool), 100)] {
            let handle = TensorHandle::new(tensor, &registry);
            let before = calls();
            let step = step(&registry, Duration::ZERO, looks).unwrap();
            assert_eq!(step.activity, calls() - before, "{step:?}");
            drop(handle);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_large_block_leaves_memory_piece_by_piece() {
        let pool = HybridMemoryPool::new().unwrap();
        let registry = TensorRegistry::new(&pool);
        let bytes = 36 << 20;
        let handle =
            TensorHandle::new(BitNetTensor::scratch(&[bytes / 4], &pool).unwrap(), &registry);
        handle.write().unwrap().bytes_mut().unwrap().fill(1);
        let blocks = bytes / (64 << 10);
        let first = step(&registry, Duration::ZERO, blocks + 4).unwrap();
        assert!(first.done.tensors == 1 && first.was_cut && handle.is_compressed());
        assert_eq!(first.returned, 8 << 20, "four pieces");
        let second = registry.give_blocks_back(&times(10));
        assert!(second.was_cut && second.returned <= 20 << 20, "{second:?}");
        let last = registry.give_blocks_back(&times(1000));
        assert_eq!((last.was_cut, last.activity), (false, 1));
        assert_eq!(first.returned + second.returned + last.returned, bytes);
        assert!(handle.read().unwrap().bytes().unwrap().iter().all(|&byte| byte == 1));
    }

    #[test]
    fn callbacks_wait_until_a_visit_is_over() {
        let limit = 8 << 20;
        let config = MemoryPoolConfig {
            max_small_pool_size: limit / 2,
            max_large_pool_size: limit / 2,
            enable_advanced_tracking: true,
            ..MemoryPoolConfig::unbounded()
        };
        let pool = HybridMemoryPool::with_config(config).unwrap();
        let registry = TensorRegistry::new(&pool);
        let handle = TensorHandle::new(BitNetTensor::zeros(&[100], &pool).unwrap(), &registry);
        let visiting = Arc::new(AtomicBool::new(false));
        let during = Arc::new(AtomicBool::new(false));
        let (seen, told) = (Arc::clone(&visiting), Arc::clone(&during));
        let called = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&called);
        pool.register_pressure_callback(Box::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            told.fetch_or(seen.load(Ordering::SeqCst), Ordering::SeqCst);
        }));
        let mut blocks = Vec::new();
        registry.for_each_idle(Duration::ZERO, |_| {
            visiting.store(true, Ordering::SeqCst);
            while let Ok(block) = pool.allocate(1 << 19, 64, &Device::Cpu) {
                blocks.push(block);
            }
            visiting.store(false, Ordering::SeqCst);
            ControlFlow::Continue(())
        });
        assert!(blocks.len() > 5 && !during.load(Ordering::SeqCst));
        assert!(called.load(Ordering::SeqCst) > 0, "afterwards they are told");
        drop((handle, blocks));
    }

    #[test]
    fn tensors_beyond_a_batch_are_visited_once_and_new_ones_are_not() {
        let pool = HybridMemoryPool::new().unwrap();
        let registry = TensorRegistry::new(&pool);
        let make = || TensorHandle::new(BitNetTensor::zeros(&[1], &pool).unwrap(), &registry);
        let mut handles: Vec<_> = (0..3 * BATCH + 1).map(|_| make()).collect();
        let mut seen = 0;
        registry.for_each_idle(Duration::ZERO, |_| {
            seen += 1;
            handles.push(make());
            ControlFlow::Continue(())
        });
        assert_eq!(seen, 3 * BATCH + 1);
        let mut seen = 0;
        let count = |_: &mut IdleTensor<'_>| {
            seen += 1;
            ControlFlow::Continue(())
        };
        assert!(!registry.for_each_idle_while(Duration::ZERO, &times(2), count));
        assert_eq!(seen, 2 * BATCH);
    }
}

//! The state of a pool: its blocks, the caches of its threads, its accounts, and its end.
//!
//! A handle points to the state without counting it, because a count that all threads change would cost more than the
//! allocation. Instead the state goes when its last owner has gone and the accounts say that no block is alive. Owners
//! (`HybridMemoryPool`) close the state; from then on blocks come back under one global lock, and the one that finds none
//! alive frees the state. A thread that had looked before the state was closed touches nothing of it after it has counted
//! its block as returned; if it was the last one, the end of that thread finds it.

use std::cell::{Cell, RefCell};
use std::panic::Location;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::arena::Span;
use super::cleanup::Signal;
use super::directory::{self, Directory};
use super::large_block::LargeBlockPool;
use super::size_class::{LINE, SMALL_LIMIT, class_of};
use super::small_block::SmallBlockPool;
use super::system::{GRANULE, Pages};
use super::tag::{Key, POOLS, Tag};
use super::thread_cache::{CLOSED, Counts, FLUSH, LiveBytes, TRACKED, ThreadCache, Totals};
use super::token::Lent;
use super::tracking::{
    AllocationEvent, DeallocationEvent, LatencyKind, SAMPLED_BELOW, Sampler, Stopwatch, Tracker,
    TrackingLevel,
};
use super::usage::is_small;
use super::{MemoryHandle, MemoryPoolConfig, Purpose};
use crate::error::{Error, MemoryLimit};

/// The state of a pool.
#[derive(Debug)]
pub(super) struct Core {
    /// Unlike those of all other pools of the process, past and future; never 0.
    pub(super) id: u64,
    /// Unlike those of all other pools that are alive.
    pub(super) index: usize,
    pub(super) pages: Pages,
    pub(super) small: SmallBlockPool,
    pub(super) large: LargeBlockPool,
    pub(super) keep_small: usize,
    pub(super) keep_large: usize,
    pub(super) threads: Mutex<Threads>,
    /// What threads without a cache count.
    pub(super) uncached: Counts,
    pub(super) live: LiveBytes,
    /// Who is told when the live bytes pass their mark.
    pub(super) signal: OnceLock<Arc<Signal>>,
    closed: AtomicBool,
    /// Whether a compaction is going on.
    pub(super) compacting: AtomicBool,
    pub(super) tracker: Option<Tracker>,
    pub(super) lent: Lent,
}

#[derive(Debug, Default)]
pub(super) struct Threads {
    pub(super) caches: Vec<Arc<ThreadCache>>,
    /// How many there have been.
    started: usize,
    /// The accounts of threads that have ended.
    pub(super) departed: Totals,
}

/// A block as the allocator hands it out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) address: usize,
    pub(super) tag: Tag,
    /// How many of its bytes, from the start, may not be zero.
    pub(super) used_bytes: usize,
}

static NO_CACHE: ThreadCache = ThreadCache::none();

thread_local! {
    /// The cache of the pool that this thread used last. It has no destructor, so that it is cheap and there to the very end
    /// of the thread; `CACHES` clears it.
    static CURRENT: Cell<*const ThreadCache> = const { Cell::new(&raw const NO_CACHE) };
    static CACHES: RefCell<Caches> = const { RefCell::new(Caches(Vec::new())) };
}

/// The caches of a thread, by the number of their pool that no other pool ever has.
struct Caches(Vec<(u64, Arc<ThreadCache>)>);

impl Drop for Caches {
    fn drop(&mut self) {
        CURRENT.set(&raw const NO_CACHE);
        for (id, cache) in self.0.drain(..) {
            let mut all = directory::lock();
            let Some(core) = all.get(id) else { continue };
            // SAFETY: a listed state is alive while the directory is locked.
            unsafe { core.as_ref() }.detach(&cache);
            let ended = take_if_unused(core, &mut all);
            drop(all);
            drop(ended);
        }
    }
}

/// The cache of this thread in the pool that it used last.
///
/// # Safety
/// It is not used after this thread attaches another one ([`Core::cache`]) or ends.
#[inline(always)]
pub(super) unsafe fn current<'a>() -> &'a ThreadCache {
    // SAFETY: `CURRENT` is set from an `Arc` that `CACHES` of this thread holds, and is cleared before `CACHES` lets go of it.
    unsafe { &*CURRENT.get() }
}

/// A block of 1 MiB or more that was freed a short while ago, counted.
#[inline(never)]
pub(super) fn take_recent(state: &Core, key: Key, size: usize) -> Option<MemoryHandle> {
    // SAFETY: nothing is attached while it is used.
    let cache = unsafe { current() };
    if cache.state() != key.0 {
        return None;
    }
    let span = state.large.take_recent(size.div_ceil(GRANULE), LINE, cache.place as usize)?;
    state.reported(cache.count_large_taken(size, &state.live));
    let tag = Tag::large(key, size, LINE, span.granules);
    // SAFETY: the block was kept in the state, holds `size` bytes, and was counted.
    Some(unsafe { MemoryHandle::new(span.address, tag) })
}

/// Keeps a block of 1 MiB or more for the next request; false if there is no room for it.
///
/// # Safety
/// `tag` is that of a large block at `address` that nobody uses any more, of the pool of the cache that is current.
#[inline(never)]
pub(super) unsafe fn give_recent(address: usize, tag: Tag) -> bool {
    // SAFETY: nothing is attached while it is used.
    let cache = unsafe { current() };
    // SAFETY: the block that comes back is alive, so its pool is.
    let state = unsafe { directory::state_of(tag.key().index()) };
    // SAFETY: as above, and its end is not counted before it is no longer used.
    let state = unsafe { state.as_ref() };
    if !state.large.keep(address, tag.granules(), cache.place as usize) {
        return false;
    }
    let (bytes, told) = cache.count_large_given(tag.size(), &state.live);
    state.reported(told);
    cache.end_large(bytes, tag.key().purpose());
    true
}

/// A closed state of which no block is alive, off the list: to be dropped when the directory is unlocked, since callbacks that
/// the state holds may hold pools.
#[must_use]
fn take_if_unused(core: NonNull<Core>, all: &mut Directory) -> Option<Box<Core>> {
    // SAFETY: the caller holds the lock of the directory, where the state still stands.
    let state = unsafe { core.as_ref() };
    if !state.closed.load(Ordering::Relaxed) {
        return None;
    }
    let totals = state.totals();
    if totals.allocations != totals.deallocations {
        return None;
    }
    // A cache that was attached while the pool was being closed must not serve the next pool of this number.
    state.call(CLOSED);
    all.remove(state.id, state.index);
    // SAFETY: the state came from `Box::leak` in `Core::start` and has just left the directory, so it is taken once; it has no
    // owner, and every block was counted as returned, after which nobody touches the state.
    Some(unsafe { Box::from_raw(core.as_ptr()) })
}

impl Core {
    /// A new state.
    ///
    /// # Errors
    /// [`Error::TooManyPools`]; [`Error::OutOfMemory`] if the system refuses what is reserved at the start.
    pub(super) fn start(
        config: &MemoryPoolConfig,
        huge_pages: bool,
    ) -> Result<NonNull<Self>, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let refused = || {
            let bytes =
                config.initial_small_pool_size.saturating_add(config.initial_large_pool_size);
            let limit = config.max_small_pool_size.saturating_add(config.max_large_pool_size);
            Error::OutOfMemory { bytes, live: 0, limit, met: MemoryLimit::System }
        };
        let pages = Pages::default();
        let (small_limit, small_initial) =
            (config.max_small_pool_size, config.initial_small_pool_size);
        let small = SmallBlockPool::new(small_limit, small_initial, &pages).ok_or_else(refused)?;
        let (large_limit, large_initial) =
            (config.max_large_pool_size, config.initial_large_pool_size);
        let large = LargeBlockPool::new(large_limit, large_initial, huge_pages, &pages);
        let Some(large) = large else {
            // SAFETY: no block of the new pool has been handed out.
            unsafe { small.arena().unmap_all(&pages) };
            return Err(refused());
        };
        let mut state = Box::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            index: 0,
            pages,
            small,
            large,
            keep_small: small_initial.min(small_limit),
            keep_large: large_initial.min(large_limit),
            threads: Mutex::default(),
            uncached: Counts::default(),
            live: LiveBytes::default(),
            signal: OnceLock::new(),
            closed: AtomicBool::new(false),
            compacting: AtomicBool::new(false),
            tracker: config
                .enable_advanced_tracking
                .then(|| Tracker::new(config.tracking_config.clone().unwrap_or_default())),
            lent: Lent::default(),
        });
        let mut all = directory::lock();
        // Without a number the state goes again, and its mappings with it.
        state.index = all.reserve().ok_or(Error::TooManyPools { limit: POOLS - 1 })?;
        let (id, index) = (state.id, state.index);
        let core = NonNull::from(Box::leak(state));
        all.add(id, index, core);
        Ok(core)
    }

    /// The last owner is gone: frees the state at once, or when the last block comes back.
    ///
    /// # Safety
    /// `core` came from [`Core::start`], and this is called once, by its last owner.
    pub(super) unsafe fn close(core: NonNull<Self>) {
        let mut all = directory::lock();
        // SAFETY: a state is alive until it has been closed and found unused, which happens under the lock that is held.
        let state = unsafe { core.as_ref() };
        state.closed.store(true, Ordering::SeqCst);
        state.call(CLOSED);
        let ended = take_if_unused(core, &mut all);
        drop(all);
        drop(ended);
    }

    pub(super) fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the attention of every thread.
    pub(super) fn call(&self, attention: u32) {
        for cache in &self.threads().caches {
            cache.call(attention);
        }
    }

    /// Its number and no purpose in particular.
    fn key(&self) -> Key {
        Key::new(self.index, Purpose::General)
    }

    /// The cache of this thread, made if need be; `None` when the thread is ending or the pool is closed.
    pub(super) fn cache(&self) -> Option<&ThreadCache> {
        // SAFETY: it is not used after `attach`.
        if !unsafe { current() }.serves(self.key()) {
            self.attach()?;
        }
        // SAFETY: the caller borrows this state, and attaches no other while it uses the cache.
        let cache = unsafe { current() };
        if cache.answer(FLUSH) {
            cache.flush(&self.small);
        }
        Some(cache)
    }

    /// Makes the cache of this thread the current one.
    #[cold]
    fn attach(&self) -> Option<()> {
        let attached = CACHES.try_with(|caches| {
            let mut caches = caches.try_borrow_mut().ok()?;
            let known = caches.0.iter().find(|(id, _)| *id == self.id);
            let cache = if let Some((_, cache)) = known {
                Arc::as_ptr(cache)
            } else {
                if self.closed.load(Ordering::SeqCst) {
                    return None;
                }
                CURRENT.set(&raw const NO_CACHE);
                // Caches of pools that have gone are held by nobody else.
                caches.0.retain(|(_, cache)| Arc::strong_count(cache) > 1);
                let cache = self.make_cache();
                let pointer = Arc::as_ptr(&cache);
                caches.0.push((self.id, cache));
                pointer
            };
            CURRENT.set(cache);
            Some(())
        });
        attached.ok().flatten()
    }

    fn make_cache(&self) -> Arc<ThreadCache> {
        let level = self.recorder().map(Tracker::level);
        let attention = if level == Some(TrackingLevel::Detailed) { TRACKED } else { 0 };
        let sampler = if level == Some(TrackingLevel::Standard) {
            Sampler::of_this_thread()
        } else {
            Sampler::none()
        };
        let mut threads = self.threads();
        let place = threads.started;
        let cache = Arc::new(ThreadCache::new(self.key(), attention, place, sampler));
        threads.started += 1;
        threads.caches.push(Arc::clone(&cache));
        cache
    }

    /// Takes over what a thread that ends had of this pool.
    fn detach(&self, cache: &Arc<ThreadCache>) {
        cache.flush(&self.small);
        cache.report(&self.live);
        let mut threads = self.threads();
        cache.add_to(&mut threads.departed);
        threads.caches.retain(|other| !Arc::ptr_eq(other, cache));
    }

    /// The tracker, if it wants to hear of allocations.
    fn recorder(&self) -> Option<&Tracker> {
        self.tracker.as_ref().filter(|tracker| tracker.level() >= TrackingLevel::Standard)
    }

    /// Blocks of so many bytes and more take the slow path.
    pub(super) fn fast_below(&self) -> usize {
        match self.recorder() {
            Some(_) => SAMPLED_BELOW.min(SMALL_LIMIT),
            // Below the limit, so that large blocks take the slow path, on which pressure is observed.
            None if self.watches_pressure() => SMALL_LIMIT - 1,
            None => SMALL_LIMIT,
        }
    }

    /// As [`Core::allocate`], and tells the tracker.
    pub(super) fn allocate_tracked(
        &self,
        size: usize,
        align: usize,
        purpose: Purpose,
        site: &'static Location<'static>,
    ) -> Option<Block> {
        let (block, observe) = match self.recorder() {
            Some(tracker) => self.allocate_recorded(tracker, size, align, purpose, site)?,
            None => self.allocate(size, align, purpose)?,
        };
        // Callbacks run last: they see the block among those recorded, and no latency includes them.
        if observe {
            self.observe_pressure();
        }
        Some(block)
    }

    fn allocate_recorded(
        &self,
        tracker: &Tracker,
        size: usize,
        align: usize,
        purpose: Purpose,
        site: &'static Location<'static>,
    ) -> Option<(Block, bool)> {
        let chosen = match self.cache() {
            Some(cache) if tracker.level() == TrackingLevel::Standard => cache.sample(size),
            _ => tracker.chooses(size),
        };
        let clock = Stopwatch::start(tracker);
        let (block, observe) = self.allocate(size, align, purpose)?;
        if let Some(clock) = clock {
            clock.stop(LatencyKind::Allocate);
        }
        if !chosen {
            return Some((block, observe));
        }
        let class_bytes = block.tag.occupied();
        let address = block.address;
        tracker.note(&AllocationEvent { address, size, class_bytes, purpose, site });
        Some((Block { tag: block.tag.with_slow_end(), ..block }, observe))
    }

    /// Allocates, by the slow path; also whether pressure is to be observed. `align` is a power of two. `None` if the limits or
    /// the system refuse.
    fn allocate(&self, size: usize, align: usize, purpose: Purpose) -> Option<(Block, bool)> {
        let (align, key) = (align.max(LINE), Key::new(self.index, purpose));
        let mut changed = true;
        let block = if is_small(size, align) {
            // Even of no bytes a block has an address of its own.
            let class = class_of(size.max(1) + align - LINE);
            let (address, from_slab) = self.take_small(class)?;
            changed = from_slab;
            let aligned = address.next_multiple_of(align);
            let tag = Tag::small(key, class, size, align, aligned - address);
            Block { address: aligned, tag, used_bytes: size }
        } else {
            let span = self.large.allocate(size, align, &self.pages)?;
            let Span { address, granules, used_bytes } = span;
            let tag = Tag::large(key, size, align, granules);
            let tag = if self.watches_pressure() { tag.with_slow_end() } else { tag };
            Block { address, tag, used_bytes }
        };
        let told = self.count_allocation(size, purpose);
        Some((block, changed || told))
    }

    /// A free block of `class`, and whether this thread had none.
    fn take_small(&self, class: usize) -> Option<(usize, bool)> {
        let Some(cache) = self.cache() else {
            let mut block = [0];
            let got = self.small.take(class, &mut block, &self.pages) == 1;
            return got.then_some((block[0], true));
        };
        if let Some(block) = cache.take(class) {
            return Some((block, false));
        }
        Some((cache.refill_and_take(class, &self.small, &self.pages)?, true))
    }

    /// Counts an allocation; whether the pool was told of its live bytes.
    fn count_allocation(&self, size: usize, purpose: Purpose) -> bool {
        match self.cache() {
            Some(cache) => {
                let told = cache.count_allocation(size, purpose, &self.live);
                if told == Some(true) {
                    self.pass_mark();
                }
                told.is_some()
            }
            None => {
                self.uncached.live[purpose.index()].fetch_add(size as i64, Ordering::Relaxed);
                self.uncached.allocations.fetch_add(1, Ordering::Release);
                self.live.change(size as i64, size as i64);
                false
            }
        }
    }

    /// If the pool was told of its live bytes: whether they have passed their mark. Callbacks may run: the caller holds no
    /// lock, and uses no cache that a callback might detach.
    fn reported(&self, told: Option<bool>) {
        let Some(passed) = told else { return };
        if passed {
            self.pass_mark();
        }
        if self.tracker.is_some() {
            self.observe_pressure();
        }
    }

    /// Takes a block back, by the slow path.
    ///
    /// # Safety
    /// The block of `address` and `tag` came from the pool that `tag` names, and nobody uses it any more.
    #[cold]
    pub(super) unsafe fn free(address: usize, tag: Tag) {
        // SAFETY: the block that comes back is alive, so its pool is.
        let core = unsafe { directory::state_of(tag.key().index()) };
        // SAFETY: as above.
        let state = unsafe { core.as_ref() };
        let open = !state.closed.load(Ordering::SeqCst);
        let Some(cache) = open.then(|| state.cache()).flatten() else {
            // SAFETY: the caller's promise is the one that is asked for.
            return unsafe { Self::free_past_caches(core, address, tag) };
        };
        state.tell_of_return(address, tag);
        let clock = state.recorder().and_then(Stopwatch::start);
        // Without a fold, if nothing else is to be done: the state may be gone when this returns.
        if clock.is_none() && cache.put_back(address, tag) {
            return;
        }
        state.give_to(cache, address, tag);
        if let Some(clock) = clock {
            clock.stop(LatencyKind::Deallocate);
        }
        let told = cache.count_bytes_back(tag.size(), tag.key().purpose(), &state.live);
        state.reported(told);
        if tag.is_large() && state.watches_pressure() {
            state.observe_pressure();
        }
        cache.count_deallocation();
    }

    /// As [`Core::free`], past the caches of threads.
    ///
    /// # Safety
    /// As [`Core::free`], and `core` is the state of that pool.
    pub(super) unsafe fn free_past_caches(core: NonNull<Self>, address: usize, tag: Tag) {
        // SAFETY: the block that comes back is alive, so the state is.
        let state = unsafe { core.as_ref() };
        state.tell_of_return(address, tag);
        // Under the lock, because the pool may be closed: who then counts the last block ends it.
        let mut all = directory::lock();
        state.give_back(address, tag);
        state.count_uncached_return(tag.size(), tag.key().purpose());
        let ended = take_if_unused(core, &mut all);
        drop(all);
        drop(ended);
    }

    fn tell_of_return(&self, address: usize, tag: Tag) {
        if let Some(tracker) = self.recorder()
            && tag.has_slow_end()
        {
            let (class_bytes, purpose) = (tag.occupied(), tag.key().purpose());
            tracker.forget(&DeallocationEvent { address, size: tag.size(), class_bytes, purpose });
        }
    }

    fn give_to(&self, cache: &ThreadCache, address: usize, tag: Tag) {
        if tag.is_large() {
            return self.give_back(address, tag);
        }
        let (class, block) = (tag.class(), tag.block_address(address));
        if !cache.put(class, block) {
            cache.spill(class, &self.small);
            cache.put(class, block);
        }
    }

    fn give_back(&self, address: usize, tag: Tag) {
        if tag.is_large() {
            self.large.free(address, tag.granules(), &self.pages);
        } else {
            self.small.put(tag.class(), &[tag.block_address(address)]);
        }
    }

    fn count_uncached_return(&self, size: usize, purpose: Purpose) {
        self.uncached.live[purpose.index()].fetch_sub(size as i64, Ordering::Relaxed);
        self.live.change(-(size as i64), 0);
        self.uncached.deallocations.fetch_add(1, Ordering::Release);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // SAFETY: the state goes only when no block of it is alive; its users have gone.
        unsafe { self.large.unmap_all(&self.pages) };
        // SAFETY: as above.
        unsafe { self.small.arena().unmap_all(&self.pages) };
    }
}

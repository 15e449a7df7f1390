//! The state of a pool: its blocks, the caches of its threads, its accounts, and its end.
//!
//! A handle points to the state without counting it, because a count that all threads change would cost more than the
//! allocation. Instead the state goes when its last owner has gone and the accounts say that no block is alive. Owners
//! (`HybridMemoryPool`) close the state; from then on blocks come back under one global lock, and the one that finds none
//! alive frees the state. A thread that had looked before the state was closed touches nothing of it after it has counted
//! its block as returned; if it was the last one, the end of that thread finds it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::Location;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::arena::Span;
use super::cleanup::Signal;
use super::handle::{Extent, Tag};
use super::large_block::LargeBlockPool;
use super::size_class::{LINE, SMALL_LIMIT, block_bytes, class_of};
use super::small_block::SmallBlockPool;
use super::system::{GRANULE, Pages};
use super::thread_cache::{CLOSED, Counts, FLUSH, LiveBytes, TRACKED, ThreadCache, Totals};
use super::token::Lent;
use super::tracking::{
    AllocationEvent, DeallocationEvent, LatencyKind, Stopwatch, Tracker, TrackingLevel,
};
use super::{MemoryPoolConfig, Purpose};

/// The state of a pool.
#[derive(Debug)]
pub(super) struct Core {
    /// Unlike those of all other pools of the process, past and future; never 0.
    pub(super) id: u64,
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

/// A pointer to a state that is alive as long as it is listed.
#[derive(Debug, Clone, Copy)]
struct Listed(NonNull<Core>);

// SAFETY: `Core` is `Sync`, and the list below hands the pointer out under its lock only.
unsafe impl Send for Listed {}

/// All states that are alive, by number. Whoever holds the lock can rely on them staying so.
static ALL: Mutex<BTreeMap<u64, Listed>> = Mutex::new(BTreeMap::new());

fn all() -> MutexGuard<'static, BTreeMap<u64, Listed>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// The pool that this thread used last, by number, and its cache of it. It has no destructor, so that it is cheap and
    /// there to the very end of the thread; `CACHES` clears it.
    static CURRENT: Cell<(u64, *const ThreadCache)> = const { Cell::new((0, std::ptr::null())) };
    static CACHES: RefCell<Caches> = const { RefCell::new(Caches(Vec::new())) };
}

/// The caches of a thread, by the number of their pool.
struct Caches(Vec<(u64, Arc<ThreadCache>)>);

impl Drop for Caches {
    fn drop(&mut self) {
        CURRENT.set((0, std::ptr::null()));
        for (id, cache) in self.0.drain(..) {
            let mut all = all();
            let Some(&Listed(core)) = all.get(&id) else { continue };
            // SAFETY: a listed state is alive while the list is locked.
            unsafe { core.as_ref() }.detach(&cache);
            let ended = take_if_unused(core, &mut all);
            drop(all);
            drop(ended);
        }
    }
}

/// A closed state of which no block is alive, off the list: to be dropped when the list is unlocked, since callbacks that the
/// state holds may hold pools.
#[must_use]
fn take_if_unused(core: NonNull<Core>, all: &mut BTreeMap<u64, Listed>) -> Option<Box<Core>> {
    // SAFETY: the caller holds the lock of the list, where the state still stands.
    let state = unsafe { core.as_ref() };
    let totals = state.totals();
    if !state.closed.load(Ordering::Relaxed) || totals.allocations != totals.deallocations {
        return None;
    }
    all.remove(&state.id);
    // SAFETY: the state came from `Box::leak` in `Core::start` and has just left the list, so it is taken once; it has no
    // owner, and every block was counted as returned, after which nobody touches the state.
    Some(unsafe { Box::from_raw(core.as_ptr()) })
}

impl Core {
    /// A new state; `None` if the system refuses what is reserved at the start.
    pub(super) fn start(config: &MemoryPoolConfig, huge_pages: bool) -> Option<NonNull<Self>> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let pages = Pages::default();
        let small = SmallBlockPool::new(
            config.max_small_pool_size,
            config.initial_small_pool_size,
            &pages,
        )?;
        let large = LargeBlockPool::new(
            config.max_large_pool_size,
            config.initial_large_pool_size,
            huge_pages,
            &pages,
        );
        let Some(large) = large else {
            // SAFETY: no block of the new pool has been handed out.
            unsafe { small.arena().unmap_all(&pages) };
            return None;
        };
        let tracking = config.enable_advanced_tracking;
        let tracker =
            tracking.then(|| Tracker::new(config.tracking_config.clone().unwrap_or_default()));
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let core = NonNull::from(Box::leak(Box::new(Self {
            id,
            pages,
            small,
            large,
            keep_small: config.initial_small_pool_size.min(config.max_small_pool_size),
            keep_large: config.initial_large_pool_size.min(config.max_large_pool_size),
            threads: Mutex::default(),
            uncached: Counts::default(),
            live: LiveBytes::default(),
            signal: OnceLock::new(),
            closed: AtomicBool::new(false),
            compacting: AtomicBool::new(false),
            tracker,
            lent: Lent::default(),
        })));
        all().insert(id, Listed(core));
        Some(core)
    }

    /// The last owner is gone: frees the state at once, or when the last block comes back.
    ///
    /// # Safety
    /// `core` came from [`Core::start`], and this is called once, by its last owner.
    pub(super) unsafe fn close(core: NonNull<Self>) {
        let mut all = all();
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
    pub(super) fn call(&self, attention: u8) {
        for cache in &self.threads().caches {
            cache.attention.fetch_or(attention, Ordering::SeqCst);
        }
    }

    /// The cache of this thread, if it is the one that it used last and nothing asks for attention.
    #[inline(always)]
    pub(super) fn ready_cache(&self) -> Option<&ThreadCache> {
        let (id, cache) = CURRENT.get();
        if id != self.id {
            return None;
        }
        // SAFETY: `CURRENT` is set from an `Arc` that `CACHES` of this thread holds, and is cleared before `CACHES` lets go
        // of it.
        let cache = unsafe { &*cache };
        (cache.attention.load(Ordering::Relaxed) == 0).then_some(cache)
    }

    /// The cache of this thread, made if need be; `None` when the thread is ending or the pool is closed.
    pub(super) fn cache(&self) -> Option<&ThreadCache> {
        if CURRENT.get().0 != self.id {
            self.attach()?;
        }
        // SAFETY: as in `ready_cache`; `attach` has set it, if it was another pool's.
        let cache = unsafe { &*CURRENT.get().1 };
        if cache.attention.load(Ordering::Relaxed) & FLUSH != 0 {
            cache.attention.fetch_and(!FLUSH, Ordering::SeqCst);
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
                CURRENT.set((0, std::ptr::null()));
                // Caches of pools that have gone are held by nobody else.
                caches.0.retain(|(_, cache)| Arc::strong_count(cache) > 1);
                let attention = if self.recorder().is_some() { TRACKED } else { 0 };
                let mut threads = self.threads();
                let cache = Arc::new(ThreadCache::new(attention, threads.started));
                threads.started += 1;
                threads.caches.push(Arc::clone(&cache));
                drop(threads);
                let pointer = Arc::as_ptr(&cache);
                caches.0.push((self.id, cache));
                pointer
            };
            CURRENT.set((self.id, cache));
            Some(())
        });
        attached.ok().flatten()
    }

    /// Takes over what a thread that ends had of this pool.
    fn detach(&self, cache: &Arc<ThreadCache>) {
        cache.flush(&self.small);
        cache.report(&self.live);
        let mut threads = self.threads();
        cache.counts.add_to(&mut threads.departed);
        threads.caches.retain(|other| !Arc::ptr_eq(other, cache));
    }

    /// The tracker, if it wants to hear of each allocation.
    fn recorder(&self) -> Option<&Tracker> {
        self.tracker.as_ref().filter(|tracker| tracker.level() >= TrackingLevel::Standard)
    }

    /// As [`Core::allocate`], and tells the tracker.
    pub(super) fn allocate_tracked(
        &self,
        size: usize,
        align: usize,
        purpose: Purpose,
        site: &'static Location<'static>,
    ) -> Option<Block> {
        let Some(tracker) = self.recorder() else { return self.allocate(size, align, purpose) };
        let clock = Stopwatch::start(tracker);
        let block = self.allocate(size, align, purpose)?;
        clock.stop(LatencyKind::Allocate);
        let class_bytes = occupied_by(block.tag);
        let address = block.address;
        tracker.allocated(&AllocationEvent { address, size, class_bytes, purpose, site });
        Some(block)
    }

    /// Allocates, by the slow path. `align` is a power of two. `None` if the limits or the system refuse.
    pub(super) fn allocate(&self, size: usize, align: usize, purpose: Purpose) -> Option<Block> {
        let align_log = align.max(LINE).trailing_zeros() as u8;
        // Even of no bytes a block has an address of its own.
        let whole = size.max(1).checked_add(align.max(LINE) - LINE)?;
        if whole < SMALL_LIMIT
            && let Some(address) = self.take_small(class_of(whole))
        {
            let class = class_of(whole);
            let aligned = address.next_multiple_of(align.max(LINE));
            let extent = Extent::skip(aligned - address);
            let tag = Tag { class: class as u8, purpose, align_log, extent };
            self.count_allocation(size, purpose);
            return Some(Block { address: aligned, tag, used_bytes: size });
        }
        let span = self.large.allocate(size, align, &self.pages)?;
        let Span { address, granules, used_bytes } = span;
        let tag = Tag { class: Tag::LARGE, purpose, align_log, extent: Extent::granules(granules) };
        self.count_allocation(size, purpose);
        Some(Block { address, tag, used_bytes })
    }

    fn take_small(&self, class: usize) -> Option<usize> {
        match self.cache() {
            Some(cache) => {
                cache.take(class).or_else(|| cache.refill_and_take(class, &self.small, &self.pages))
            }
            None => {
                let mut block = [0];
                (self.small.take(class, &mut block, &self.pages) == 1).then_some(block[0])
            }
        }
    }

    fn count_allocation(&self, size: usize, purpose: Purpose) {
        match self.cache() {
            Some(cache) => {
                if cache.count_allocation(size, purpose) {
                    self.report(cache);
                }
            }
            None => {
                self.uncached.live[purpose.index()].fetch_add(size as i64, Ordering::Relaxed);
                self.uncached.allocations.fetch_add(1, Ordering::Release);
                self.live.change(size as i64, size as i64);
            }
        }
    }

    /// A block of 1 MiB or more that was freed a short while ago, counted.
    #[inline]
    pub(super) fn allocate_recent(&self, size: usize, purpose: Purpose) -> Option<(usize, Tag)> {
        let cache = self.ready_cache()?;
        let span = self.large.take_recent(size.div_ceil(GRANULE), LINE, cache.place)?;
        if cache.count_allocation(size, purpose) {
            self.report(cache);
        }
        let align_log = LINE.trailing_zeros() as u8;
        let extent = Extent::granules(span.granules);
        Some((span.address, Tag { class: Tag::LARGE, purpose, align_log, extent }))
    }

    /// Keeps a block of 1 MiB or more for the next request; false if there is no room for it.
    ///
    /// `tag` is that of a large block of `size` bytes at `address` that nobody uses any more.
    #[inline]
    pub(super) fn keep_recent(
        &self,
        cache: &ThreadCache,
        address: usize,
        size: usize,
        tag: Tag,
    ) -> bool {
        let kept = self.large.keep(address, tag.extent.as_granules(), cache.place);
        if kept {
            if cache.count_bytes_back(size, tag.purpose) {
                self.report(cache);
            }
            cache.count_deallocation();
        }
        kept
    }

    /// Takes note of the live bytes of this thread. Callbacks may run: no lock is held by the caller.
    #[inline]
    pub(super) fn report(&self, cache: &ThreadCache) {
        if cache.report(&self.live) {
            self.pass_mark();
        }
        if self.tracker.is_some() {
            self.observe_pressure();
        }
    }

    /// Takes a block back, by the slow path.
    ///
    /// # Safety
    /// `core` is the state that the block of `address`, `size` and `tag` came from, and nobody uses the block any more.
    pub(super) unsafe fn free(core: NonNull<Self>, address: usize, size: usize, tag: Tag) {
        // SAFETY: the block that comes back is alive, so the state is.
        let state = unsafe { core.as_ref() };
        let open = !state.closed.load(Ordering::SeqCst);
        let Some(cache) = open.then(|| state.cache()).flatten() else {
            // SAFETY: the caller's promise is the one that is asked for.
            return unsafe { Self::free_past_caches(core, address, size, tag) };
        };
        state.tell_of_return(address, size, tag);
        let clock = state.recorder().map(Stopwatch::start);
        state.give_to(cache, address, tag);
        if let Some(clock) = clock {
            clock.stop(LatencyKind::Deallocate);
        }
        if cache.count_bytes_back(size, tag.purpose) {
            state.report(cache);
        }
        cache.count_deallocation();
    }

    /// As [`Core::free`], past the caches of threads.
    ///
    /// # Safety
    /// As [`Core::free`].
    pub(super) unsafe fn free_past_caches(
        core: NonNull<Self>,
        address: usize,
        size: usize,
        tag: Tag,
    ) {
        // SAFETY: the block that comes back is alive, so the state is.
        let state = unsafe { core.as_ref() };
        state.tell_of_return(address, size, tag);
        // Under the lock, because the pool may be closed: who then counts the last block ends it.
        let mut all = all();
        state.give_back(address, tag);
        state.count_uncached_return(size, tag.purpose);
        let ended = take_if_unused(core, &mut all);
        drop(all);
        drop(ended);
    }

    fn tell_of_return(&self, address: usize, size: usize, tag: Tag) {
        if let Some(tracker) = self.recorder() {
            let (class_bytes, purpose) = (occupied_by(tag), tag.purpose);
            tracker.deallocated(&DeallocationEvent { address, size, class_bytes, purpose });
        }
    }

    fn give_to(&self, cache: &ThreadCache, address: usize, tag: Tag) {
        if tag.class == Tag::LARGE {
            return self.give_back(address, tag);
        }
        let (class, block) = (tag.class as usize, tag.block_address(address));
        if !cache.put(class, block) {
            cache.spill(class, &self.small);
            cache.put(class, block);
        }
    }

    fn give_back(&self, address: usize, tag: Tag) {
        if tag.class == Tag::LARGE {
            self.large.free(address, tag.extent.as_granules(), &self.pages);
        } else {
            self.small.put(tag.class as usize, &[tag.block_address(address)]);
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

/// The bytes that a block of this tag occupies.
pub(super) fn occupied_by(tag: Tag) -> usize {
    if tag.class == Tag::LARGE {
        tag.extent.as_granules() * GRANULE
    } else {
        block_bytes(tag.class as usize)
    }
}

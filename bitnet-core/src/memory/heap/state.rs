//! The state of a pool, from its start to its end, and the caches of its threads.
//!
//! A handle points to the state without counting it, because a counter that all threads change would cost more than the
//! allocation. Instead the last owner closes the state; from then on blocks are freed under one global lock, and the
//! free after which the totals show no live block also frees the state. A thread that read the state before it was
//! closed does not access it after it has counted its block as freed;
//! if that was the last block, the state is freed when the thread ends.

use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::Purpose;
use super::block_tag::{Key, POOLS, Tag};
use super::large_block::LargeBlockPool;
use super::observer::{HeapObserver, Recording};
use super::pool_table::{Locked, PoolTable};
use super::sampling::{SAMPLED_BELOW, Sampler};
use super::size_class::SMALL_LIMIT;
use super::small_block::SmallBlockPool;
use super::stats::{Counts, LiveBytes, Totals};
use super::thread_cache::{
    CLOSED, DRAIN, RECORD_ALL, ThreadCache, clear_current, current, set_current,
};
use crate::error::{Error, MemoryLimit};
use crate::os::pages::Pages;
use crate::sync::lock;

static POOL_TABLE: PoolTable<PoolInner> = PoolTable::new();

/// Returns the pool that made the block of `tag`.
///
/// # Safety
/// The block is alive.
#[inline]
pub(super) unsafe fn pool_of(tag: Tag) -> NonNull<PoolInner> {
    // SAFETY: a pool is alive as long as any of its blocks is.
    unsafe { POOL_TABLE.get(tag.key().index()) }
}

pub(super) fn lock_table() -> Locked<'static, PoolInner> {
    POOL_TABLE.lock()
}

/// The bytes that are mapped for one kind of blocks, at the start and at most.
#[derive(Debug, Clone, Copy)]
pub(in crate::memory) struct Limits {
    pub(in crate::memory) initial: usize,
    pub(in crate::memory) max: usize,
}

#[derive(Debug)]
pub(in crate::memory) struct PoolInner {
    /// Unique among all pools of the process, past and future; never 0.
    pub(in crate::memory) id: u64,
    /// Unique among live pools.
    index: usize,
    pub(in crate::memory) pages: Pages,
    pub(super) small: SmallBlockPool,
    pub(super) large: LargeBlockPool,
    pub(super) keep_small: usize,
    pub(super) keep_large: usize,
    threads: Mutex<Threads>,
    /// The counts of threads without a cache.
    pub(super) uncached: Counts,
    pub(super) live: LiveBytes,
    closed: AtomicBool,
    /// Whether sparse memory is being drained.
    pub(super) draining: AtomicBool,
    pub(super) observer: Arc<dyn HeapObserver>,
    pub(super) recording: Recording,
    pub(super) watches_usage: bool,
}

#[derive(Debug, Default)]
pub(super) struct Threads {
    pub(super) caches: Vec<Arc<ThreadCache>>,
    /// How many threads there have been.
    started: usize,
    /// The totals of threads that have ended.
    pub(super) ended: Totals,
}

thread_local! {
    static CACHES: RefCell<Caches> = const { RefCell::new(Caches(Vec::new())) };
}

/// The caches of a thread, by the id of their pool.
struct Caches(Vec<(u64, Arc<ThreadCache>)>);

impl Drop for Caches {
    fn drop(&mut self) {
        clear_current();
        for (id, cache) in self.0.drain(..) {
            let mut table = lock_table();
            let Some(inner) = table.by_id(id) else { continue };
            // SAFETY: a listed pool is alive while the table is locked.
            unsafe { inner.as_ref() }.detach(&cache);
            let ended = take_if_unused(inner, &mut table);
            drop(table);
            drop(ended);
        }
    }
}

/// Removes a closed pool without live blocks from the table. The caller drops it after the table is unlocked, because
/// callbacks of its observer may own pools.
#[must_use]
pub(super) fn take_if_unused(
    inner: NonNull<PoolInner>,
    table: &mut Locked<'_, PoolInner>,
) -> Option<Box<PoolInner>> {
    // SAFETY: the caller holds the lock of the table, where the pool is still listed.
    let state = unsafe { inner.as_ref() };
    if state.is_open() {
        return None;
    }
    let totals = state.totals();
    if totals.allocations != totals.deallocations {
        return None;
    }
    // A cache that was attached while the pool was being closed must not serve the next pool of this number.
    state.raise(CLOSED);
    table.remove(state.id, state.index);
    // SAFETY: the pool came from `Box::leak` in `start` and was just removed from the table, so it is taken once; it
    // has no owner, and every block was counted as freed, after which no thread accesses the state.
    Some(unsafe { Box::from_raw(inner.as_ptr()) })
}

impl PoolInner {
    /// Makes a pool.
    ///
    /// # Errors
    /// [`Error::TooManyPools`]; [`Error::OutOfMemory`] if the system refuses the initial bytes.
    pub(in crate::memory) fn start(
        small_limits: Limits,
        large_limits: Limits,
        observer: Arc<dyn HeapObserver>,
    ) -> Result<NonNull<Self>, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let refused = || {
            let bytes = small_limits.initial.saturating_add(large_limits.initial);
            let limit = small_limits.max.saturating_add(large_limits.max);
            Error::OutOfMemory { bytes, live: 0, limit, met: MemoryLimit::System }
        };
        let pages = Pages::default();
        let Limits { initial, max } = small_limits;
        let small = SmallBlockPool::new(max, initial, &pages).ok_or_else(refused)?;
        let Limits { initial, max } = large_limits;
        let Some(large) = LargeBlockPool::new(max, initial, true, &pages) else {
            // SAFETY: no block of the new pool has been allocated.
            unsafe { small.arena().unmap_all(&pages) };
            return Err(refused());
        };
        let mut state = Box::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            index: 0,
            pages,
            small,
            large,
            keep_small: small_limits.initial.min(small_limits.max),
            keep_large: large_limits.initial.min(large_limits.max),
            threads: Mutex::default(),
            uncached: Counts::default(),
            live: LiveBytes::default(),
            closed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            recording: observer.recording(),
            watches_usage: observer.watches_usage(),
            observer,
        });
        let mut table = lock_table();
        // On failure the state is dropped, which unmaps its regions.
        state.index = table.reserve().ok_or(Error::TooManyPools { limit: POOLS - 1 })?;
        let (id, index) = (state.id, state.index);
        let inner = NonNull::from(Box::leak(state));
        table.add(id, index, inner);
        Ok(inner)
    }

    /// Ends the pool at once, or when its last block is freed.
    ///
    /// # Safety
    /// `inner` came from [`PoolInner::start`], and this is called once, by its last owner.
    pub(in crate::memory) unsafe fn close(inner: NonNull<Self>) {
        let mut table = lock_table();
        // SAFETY: a pool is alive until it has been closed and found unused, which happens under the lock that is held.
        let state = unsafe { inner.as_ref() };
        state.closed.store(true, Ordering::SeqCst);
        state.raise(CLOSED);
        let ended = take_if_unused(inner, &mut table);
        drop(table);
        drop(ended);
    }

    pub(super) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::SeqCst)
    }

    pub(super) fn threads(&self) -> MutexGuard<'_, Threads> {
        lock(&self.threads)
    }

    /// Sets `flag` for every thread.
    pub(super) fn raise(&self, flag: u32) {
        for cache in &self.threads().caches {
            cache.stats.raise(flag);
        }
    }

    /// The key of its blocks of `purpose`.
    pub(in crate::memory) fn key(&self, purpose: Purpose) -> Key {
        Key::new(self.index, purpose)
    }

    /// Blocks of at least this many bytes take the slow path; those of [`SMALL_LIMIT`] and more only if this is less.
    pub(in crate::memory) fn fast_below(&self) -> usize {
        if self.recording != Recording::Off {
            SAMPLED_BELOW.min(SMALL_LIMIT)
        } else if self.watches_usage {
            // Below the limit, so that large blocks take the slow path, which reports usage.
            SMALL_LIMIT - 1
        } else {
            SMALL_LIMIT
        }
    }

    /// Returns the cache of this thread, creating it if absent; `None` when the thread is ending or the pool is closed.
    pub(super) fn cache(&self) -> Option<&ThreadCache> {
        // SAFETY: it is not used after `attach`.
        if !unsafe { current() }.serves(self.key(Purpose::General)) {
            self.attach()?;
        }
        // SAFETY: the caller borrows this state, and attaches no other while it uses the cache.
        let cache = unsafe { current() };
        if cache.stats.clear(DRAIN) {
            cache.bins.drain(&self.small);
        }
        Some(cache)
    }

    /// Makes the cache of this thread in this pool the current one.
    #[cold]
    fn attach(&self) -> Option<()> {
        let attached = CACHES.try_with(|caches| {
            let mut caches = caches.try_borrow_mut().ok()?;
            let existing = caches.0.iter().find(|(id, _)| *id == self.id);
            let cache = if let Some((_, cache)) = existing {
                Arc::as_ptr(cache)
            } else {
                if !self.is_open() {
                    return None;
                }
                clear_current();
                // Caches of ended pools have no other owner.
                caches.0.retain(|(_, cache)| Arc::strong_count(cache) > 1);
                let cache = self.make_cache();
                let pointer = Arc::as_ptr(&cache);
                caches.0.push((self.id, cache));
                pointer
            };
            // SAFETY: `CACHES` owns the cache, and the current one is cleared before any is dropped.
            unsafe { set_current(cache) };
            Some(())
        });
        attached.ok().flatten()
    }

    fn make_cache(&self) -> Arc<ThreadCache> {
        let (flags, sampler) = match self.recording {
            Recording::Off => (0, Sampler::none()),
            Recording::Sampled => (0, Sampler::of_this_thread()),
            Recording::All => (RECORD_ALL, Sampler::none()),
        };
        let mut threads = self.threads();
        let shard_hint = threads.started;
        let key = self.key(Purpose::General);
        let cache = Arc::new(ThreadCache::new(key, flags, shard_hint, sampler));
        threads.started += 1;
        threads.caches.push(Arc::clone(&cache));
        cache
    }

    /// Takes over the blocks and counts of a thread that ends.
    fn detach(&self, cache: &Arc<ThreadCache>) {
        cache.bins.drain(&self.small);
        cache.stats.report(&self.live);
        let mut threads = self.threads();
        cache.stats.add_to(&mut threads.ended);
        threads.caches.retain(|other| !Arc::ptr_eq(other, cache));
    }
}

impl Drop for PoolInner {
    fn drop(&mut self) {
        // SAFETY: a state is dropped only when no block of it is alive.
        unsafe { self.large.unmap_all(&self.pages) };
        // SAFETY: as above.
        unsafe { self.small.arena().unmap_all(&self.pages) };
    }
}

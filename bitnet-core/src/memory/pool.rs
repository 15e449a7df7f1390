//! The public pool: blocks of every size and alignment, with exact totals.

use std::panic::Location;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::cleanup::{Cleaner, Released};
use super::heap::{Key, LINE, Limits, MemoryHandle, MemoryMetrics, PoolInner, SMALL_LIMIT};
use super::observer::PoolObserver;
use super::token::{BlockToken, Tokens};
use super::tracking::{LatencyKind, PressureCallback};
use super::{DetailedMetrics, MemoryPoolConfig, Purpose, Tracker};
use crate::device::Device;
use crate::{Error, Result};

/// The most attempts to query the resident bytes of the mappings.
const RESIDENT_ATTEMPTS: usize = 16;

/// What the owners of a pool share; the last one closes the pool.
#[derive(Debug)]
pub(super) struct PoolGuard {
    inner: NonNull<PoolInner>,
    observer: Arc<PoolObserver>,
    cleaner: Cleaner,
    tokens: Tokens,
}

// SAFETY: `PoolInner` is `Sync`, and closing is done by whichever thread drops the guard.
unsafe impl Send for PoolGuard {}
// SAFETY: as above.
unsafe impl Sync for PoolGuard {}

impl Drop for PoolGuard {
    fn drop(&mut self) {
        self.cleaner.stop();
        // SAFETY: the state came from `PoolInner::start`; this is its only guard, which is being dropped.
        unsafe { PoolInner::close(self.inner) };
    }
}

/// A pool of aligned memory with exact totals. Clones are the same pool.
///
/// Blocks below 1 MiB come from slabs of their size class, cached in bins of each thread; larger ones from a buddy
/// allocator, or from mappings of their own above 32 MiB. Freed memory is reused until [`HybridMemoryPool::trim`] or a
/// cleanup returns it to the system. Blocks may be freed by any thread, and may outlive the pool.
///
/// ```
/// use bitnet_core::device::auto_select_device;
/// use bitnet_core::memory::HybridMemoryPool;
///
/// let pool = HybridMemoryPool::new()?;
/// let handle = pool.allocate(1024 * 1024, 64, &auto_select_device())?;
/// assert_eq!(pool.get_metrics().total_allocated, 1024 * 1024);
/// pool.deallocate(handle)?;
/// assert_eq!(pool.get_metrics().total_allocated, 0);
/// # Ok::<(), bitnet_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct HybridMemoryPool {
    /// The state that `guard` keeps alive.
    inner: NonNull<PoolInner>,
    guard: Arc<PoolGuard>,
    /// The key of its blocks.
    key: Key,
    /// As [`PoolInner::fast_below`].
    fast_below: usize,
}

// SAFETY: as `PoolGuard`, of which the pointer is a copy.
unsafe impl Send for HybridMemoryPool {}
// SAFETY: as above.
unsafe impl Sync for HybridMemoryPool {}

/// A reference to a pool that does not keep it open.
#[derive(Debug, Clone)]
pub(super) struct WeakPool {
    guard: Weak<PoolGuard>,
}

impl WeakPool {
    /// The pool, if it still has an owner.
    pub(super) fn upgrade(&self) -> Option<HybridMemoryPool> {
        let guard = self.guard.upgrade()?;
        Some(HybridMemoryPool::of(guard, Purpose::General))
    }
}

impl HybridMemoryPool {
    /// A pool of the default sizes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the system refuses the address space that is reserved at the start;
    /// [`Error::TooManyPools`].
    pub fn new() -> Result<Self> {
        Self::with_config(MemoryPoolConfig::default())
    }

    /// A pool of these sizes.
    ///
    /// # Errors
    /// As [`HybridMemoryPool::new`], and [`Error::ThreadNotStarted`] if the system refuses the thread of
    /// `enable_automatic_cleanup`.
    pub fn with_config(config: MemoryPoolConfig) -> Result<Self> {
        let small =
            Limits { initial: config.initial_small_pool_size, max: config.max_small_pool_size };
        let large =
            Limits { initial: config.initial_large_pool_size, max: config.max_large_pool_size };
        let observer = Arc::new(PoolObserver::new(&config));
        let inner = PoolInner::start(small, large, Arc::<PoolObserver>::clone(&observer))?;
        let cleaner = Cleaner::new(config.cleanup_config.unwrap_or_default());
        let guard = Arc::new(PoolGuard { inner, observer, cleaner, tokens: Tokens::default() });
        let pool = Self::of(guard, Purpose::General);
        if config.enable_automatic_cleanup {
            let weak = WeakPool { guard: Arc::downgrade(&pool.guard) };
            pool.cleaner().start(&pool, weak)?;
        }
        Ok(pool)
    }

    fn of(guard: Arc<PoolGuard>, purpose: Purpose) -> Self {
        let inner = guard.inner;
        // SAFETY: the guard keeps the state alive.
        let state = unsafe { inner.as_ref() };
        let (key, fast_below) = (state.key(purpose), state.fast_below());
        Self { inner, guard, key, fast_below }
    }

    /// Returns the same pool, whose allocations are counted under `purpose`.
    pub fn for_purpose(&self, purpose: Purpose) -> Self {
        Self::of(Arc::clone(&self.guard), purpose)
    }

    pub(super) fn cleaner(&self) -> &Cleaner {
        &self.guard.cleaner
    }

    pub(super) fn observer(&self) -> &PoolObserver {
        &self.guard.observer
    }

    #[inline(always)]
    pub(super) fn made(&self, handle: &MemoryHandle) -> bool {
        handle.is_of(self.key)
    }

    #[inline(always)]
    pub(super) fn inner(&self) -> &PoolInner {
        // SAFETY: `self` owns a share of the guard, which keeps the state alive.
        unsafe { self.inner.as_ref() }
    }

    /// Allocates `size` bytes aligned to at least `align` (a power of two up to 2 MiB) and at least a cache line. They
    /// are initialised, but may have the content of an earlier block.
    ///
    /// # Errors
    /// [`Error::BadAlignment`], [`Error::SizeOverflow`] or [`Error::OutOfMemory`], which names the limit that was met.
    /// Before the last, all free memory is returned to the system and the allocation is tried once more. If pressure is
    /// watched, callbacks then receive [`Critical`](crate::memory::MemoryPressureLevel::Critical), also if that was the
    /// level before, and a last attempt follows. If another thread is running callbacks just then, it runs them for
    /// this failure too, and the last attempt does not wait for it. A failure inside a callback runs none.
    #[inline]
    #[track_caller]
    pub fn allocate(&self, size: usize, align: usize, device: &Device) -> Result<MemoryHandle> {
        if matches!(align, 1 | 2 | 4 | 8 | 16 | 32 | LINE)
            && let Some(handle) = MemoryHandle::take(self.inner(), self.key, self.fast_below, size)
        {
            return Ok(handle);
        }
        self.allocate_slow(size, align, device).map(|(handle, _)| handle)
    }

    /// As [`HybridMemoryPool::allocate`], with every byte zero.
    ///
    /// # Errors
    /// As [`HybridMemoryPool::allocate`].
    #[track_caller]
    pub fn allocate_zeroed(
        &self,
        size: usize,
        align: usize,
        device: &Device,
    ) -> Result<MemoryHandle> {
        // A small block is always cleared whole.
        let (mut handle, used_bytes) = if size < SMALL_LIMIT {
            (self.allocate(size, align, device)?, size)
        } else {
            self.allocate_slow(size, align, device)?
        };
        handle.bytes_mut()[..used_bytes].fill(0);
        Ok(handle)
    }

    /// Allocates on the slow path. Returns the block, and how many of its bytes, from the start, may not be zero.
    #[cold]
    #[track_caller]
    fn allocate_slow(
        &self,
        size: usize,
        align: usize,
        _device: &Device,
    ) -> Result<(MemoryHandle, usize)> {
        let site = Location::caller();
        let block = self.inner().allocate(size, align, self.key.purpose(), site)?;
        let used_bytes = block.used_bytes.min(size);
        // SAFETY: the heap has just allocated and counted this block for `size` bytes.
        Ok((unsafe { MemoryHandle::of_block(block) }, used_bytes))
    }

    /// Frees a block.
    ///
    /// # Errors
    /// [`Error::ForeignHandle`] if another pool made the handle (its block then returns to that pool).
    #[inline]
    pub fn deallocate(&self, handle: MemoryHandle) -> Result<()> {
        // The drop of `handle` at the end frees the block, in whichever pool made it.
        if self.made(&handle) { Ok(()) } else { Err(Error::ForeignHandle) }
    }

    /// Converts a handle to a token. The block outlives even the pool,
    /// until [`HybridMemoryPool::from_token`] accepts it.
    ///
    /// # Errors
    /// [`Error::ForeignHandle`] if another pool made the handle (its block then returns to that pool).
    pub fn into_token(&self, handle: MemoryHandle) -> Result<BlockToken> {
        if !self.made(&handle) {
            return Err(Error::ForeignHandle);
        }
        Ok(self.guard.tokens.issue(self.inner().id, handle))
    }

    /// Converts a token back to its handle.
    ///
    /// # Errors
    /// [`Error::ForeignHandle`] if another pool made the token; [`Error::StaleToken`] if it was accepted before or
    /// never made; [`Error::BadToken`] if its address or size are not those
    /// that it was made with. The token then remains valid.
    pub fn from_token(&self, token: BlockToken) -> Result<MemoryHandle> {
        if token.pool != self.inner().id {
            return Err(Error::ForeignHandle);
        }
        self.guard.tokens.redeem(token)
    }

    /// Returns free memory to the system. Returns the number of resident bytes released, as reported by the OS. Other
    /// threads return their bins to the slabs at their next call; the next trim or cleanup then releases those pages.
    pub fn trim(&self) -> usize {
        self.release(None).total()
    }

    /// Purges free memory until the deadline, and records how long it took.
    pub(super) fn release(&self, deadline: Option<Instant>) -> Released {
        let start = Instant::now();
        let released = self.inner().purge(deadline);
        if let Some(tracker) = self.tracker() {
            tracker.latency_since(LatencyKind::Trim, start);
        }
        released
    }

    /// Returns the resident bytes of the pool's mappings, as reported by the OS; `None` where it does not report them.
    pub fn resident_bytes(&self) -> Option<usize> {
        let pages = &self.inner().pages;
        // Fails for a mapping that another thread unmaps meanwhile.
        (0..RESIDENT_ATTEMPTS).find_map(|_| {
            self.ranges().into_iter().map(|(address, bytes)| pages.resident(address, bytes)).sum()
        })
    }

    /// The totals.
    pub fn get_metrics(&self) -> MemoryMetrics {
        self.inner().metrics()
    }

    /// Returns the bytes requested by live allocations, for each of [`Purpose::ALL`].
    pub fn allocated_by_purpose(&self) -> [u64; Purpose::ALL.len()] {
        self.inner().totals().live.map(|bytes| bytes.max(0) as u64)
    }

    /// Calls `callback` with the new level each time that memory pressure changes, on the thread that observes it. A
    /// pool without tracking or without `enable_pressure_detection` drops the callback.
    pub fn register_pressure_callback(&self, callback: PressureCallback) {
        if let Some(monitor) = self.tracker().and_then(Tracker::pressure) {
            monitor.register(callback);
        }
    }

    /// The recorder of this pool; `None` without `enable_advanced_tracking`.
    pub fn tracker(&self) -> Option<&Tracker> {
        self.observer().tracker()
    }

    /// Detailed metrics; `None` if the pool is not tracked.
    pub fn get_detailed_metrics(&self) -> Option<DetailedMetrics> {
        self.tracker()?.detailed_metrics(self.inner().figures())
    }

    /// Makes every mapping after `count` more of them fail, for tests; `None` ends it.
    pub fn refuse_mappings_after(&self, count: Option<usize>) {
        self.inner().pages.fail_after(count);
    }

    /// Returns the bytes of bookkeeping: bitmaps, magazines and thread caches.
    pub fn bookkeeping_bytes(&self) -> usize {
        self.inner().metadata_bytes()
    }

    /// Returns the address ranges that the pool has mapped, as (address, bytes), lowest first.
    pub fn ranges(&self) -> Vec<(usize, usize)> {
        self.inner().ranges()
    }
}

//! The pool that users see: blocks of every size and alignment, with exact accounts.

use std::panic::Location;
use std::ptr::NonNull;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::cleanup::Cleaner;
use super::core::{Core, current, take_recent};
use super::handle::MemoryHandle;
use super::metrics::MemoryMetrics;
use super::size_class::{LINE, SMALL_LIMIT, class_of};
use super::tag::{Key, SIZE_LIMIT, Tag};
use super::tracking::{LatencyKind, PressureCallback};
use super::{Compaction, DetailedMetrics, MemoryPoolConfig, Purpose, Tracker};
use crate::device::Device;
use crate::{Error, Result};

/// The largest alignment served.
const MAX_ALIGN: usize = 2 << 20;

/// How often the mappings are listed to see what of them lies in memory.
const LOOKS_AT_RANGES: usize = 16;

/// An owner of the state of a pool; the last one closes it.
#[derive(Debug)]
struct Owner {
    core: NonNull<Core>,
    cleaner: Cleaner,
}

// SAFETY: `Core` is `Sync`, and closing is done by whichever thread drops the last owner.
unsafe impl Send for Owner {}
// SAFETY: as above.
unsafe impl Sync for Owner {}

impl Drop for Owner {
    fn drop(&mut self) {
        self.cleaner.stop();
        // SAFETY: the state came from `Core::start`; this is the one `Owner` of it, and it is going.
        unsafe { Core::close(self.core) };
    }
}

/// A pool of aligned memory with exact accounts. Cloning gives another handle to the same pool.
///
/// Blocks below 1 MiB come from slabs of their size class, by way of a few that each thread keeps for itself; larger ones
/// from a buddy allocator, or from mappings of their own above 32 MiB. What is freed is kept for the next request until
/// [`HybridMemoryPool::trim`] or a cleanup gives it back to the system. Blocks may be given back by any thread, and may
/// outlive the pool.
///
/// ```
/// use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
/// use bitnet_core::device::auto_select_device;
/// # fn main() -> bitnet_core::Result<()> {
///
/// // Create memory pool with default configuration
/// let pool = HybridMemoryPool::new()?;
/// let device = auto_select_device();
///
/// // Allocate 1MB of memory with 64-byte alignment
/// let handle = pool.allocate(1024 * 1024, 64, &device)?;
///
/// // Get memory metrics
/// let metrics = pool.get_metrics();
/// println!("Total allocated: {} bytes", metrics.total_allocated);
/// println!("Peak usage: {} bytes", metrics.peak_allocated);
///
/// // Deallocate memory
/// pool.deallocate(handle)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct HybridMemoryPool {
    /// The state that `owner` keeps alive.
    core: NonNull<Core>,
    owner: Arc<Owner>,
    /// Of the blocks that it hands out.
    key: Key,
    /// Blocks of so many bytes and more take the slow path, but for recent ones.
    fast_below: usize,
}

// SAFETY: as `Owner`, of which the pointer is a copy.
unsafe impl Send for HybridMemoryPool {}
// SAFETY: as above.
unsafe impl Sync for HybridMemoryPool {}

/// A pool that is not kept open by it.
#[derive(Debug, Clone)]
pub(super) struct WeakPool {
    /// The state, which may be gone; alive as long as `owner` has a strong reference.
    core: NonNull<Core>,
    owner: Weak<Owner>,
}

// SAFETY: as `HybridMemoryPool`, of which it is a part.
unsafe impl Send for WeakPool {}
// SAFETY: as above.
unsafe impl Sync for WeakPool {}

impl WeakPool {
    /// The pool, if it still has an owner.
    pub(super) fn upgrade(&self) -> Option<HybridMemoryPool> {
        let owner = self.owner.upgrade()?;
        Some(HybridMemoryPool::of(self.core, owner, Purpose::General))
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
        let core = Core::start(&config, true)?;
        let owner = Arc::new(Owner { core, cleaner: Cleaner::new(&config) });
        let pool = Self::of(core, owner, Purpose::General);
        if config.enable_automatic_cleanup {
            let weak = WeakPool { core, owner: Arc::downgrade(&pool.owner) };
            pool.cleaner().start(&pool, weak)?;
        }
        Ok(pool)
    }

    /// `owner` keeps `core` alive.
    fn of(core: NonNull<Core>, owner: Arc<Owner>, purpose: Purpose) -> Self {
        // SAFETY: an owner keeps the state alive.
        let state = unsafe { core.as_ref() };
        let (key, fast_below) = (Key::new(state.index, purpose), state.fast_below());
        Self { core, owner, key, fast_below }
    }

    /// The same pool, whose allocations are accounted under `purpose`.
    pub fn for_purpose(&self, purpose: Purpose) -> Self {
        Self::of(self.core, Arc::clone(&self.owner), purpose)
    }

    pub(super) fn cleaner(&self) -> &Cleaner {
        &self.owner.cleaner
    }

    /// Whether this pool made the handle.
    #[inline(always)]
    pub(super) fn made(&self, handle: &MemoryHandle) -> bool {
        handle.is_of(self.key)
    }

    #[inline(always)]
    pub(super) fn core(&self) -> &Core {
        // SAFETY: an owner keeps the state alive, and `self` has a share in it.
        unsafe { self.core.as_ref() }
    }

    /// `size` bytes aligned to at least `align` (a power of two up to 2 MiB) and at least a cache line. They are
    /// initialised, but may hold what an earlier user of this pool left in them.
    ///
    /// # Errors
    /// [`Error::BadAlignment`], [`Error::SizeOverflow`] or [`Error::OutOfMemory`], which names the limit that was met; before
    /// the last, everything that is free is given back to the system and the allocation is tried once more. If pressure is
    /// watched, callbacks then hear of [`Critical`](crate::memory::MemoryPressureLevel::Critical), also if that was the level
    /// before, and a last attempt follows. If another thread is calling callbacks just then, that thread calls them for this
    /// refusal too, and the last attempt does not wait for it. A refusal inside a callback calls none.
    #[inline]
    #[track_caller]
    pub fn allocate(&self, size: usize, align: usize, device: &Device) -> Result<MemoryHandle> {
        if matches!(align, 1 | 2 | 4 | 8 | 16 | 32 | LINE)
            && let Some(handle) = self.take_at_hand(size)
        {
            return Ok(handle);
        }
        self.allocate_slowly(size, align, device).map(|(handle, _)| handle)
    }

    /// A block that this thread, or for large ones the pool, has at hand; `None` if the slow path is to be taken.
    #[inline(always)]
    fn take_at_hand(&self, size: usize) -> Option<MemoryHandle> {
        // Of no bytes: the slow path.
        if size.wrapping_sub(1) >= self.fast_below - 1 {
            return if size >= SMALL_LIMIT { self.take_recent(size) } else { None };
        }
        // SAFETY: nothing is attached while it is used.
        let cache = unsafe { current() };
        if cache.state() != self.key.0 {
            return None;
        }
        let class = class_of(size);
        let address = cache.take_counted(class, size)?;
        // SAFETY: the block was free in this thread's cache of the pool, holds `size` bytes, and was counted.
        Some(unsafe { MemoryHandle::new(address, Tag::of_line(self.key, class, size)) })
    }

    #[inline(always)]
    fn take_recent(&self, size: usize) -> Option<MemoryHandle> {
        if self.fast_below < SMALL_LIMIT {
            return None;
        }
        take_recent(self.core(), self.key, size)
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
        // A small block is cleared whole, so it need not be asked what it held.
        let (mut handle, used_bytes) = if size < SMALL_LIMIT {
            (self.allocate(size, align, device)?, size)
        } else {
            self.allocate_slowly(size, align, device)?
        };
        handle.bytes_mut()[..used_bytes].fill(0);
        Ok(handle)
    }

    /// A block, and how many of its bytes, from the start, may not be zero.
    #[cold]
    #[track_caller]
    fn allocate_slowly(
        &self,
        size: usize,
        align: usize,
        _device: &Device,
    ) -> Result<(MemoryHandle, usize)> {
        if !align.is_power_of_two() || align > MAX_ALIGN {
            return Err(Error::BadAlignment { align });
        }
        if size > isize::MAX as usize - MAX_ALIGN {
            return Err(Error::SizeOverflow { what: "allocation" });
        }
        let core = self.core();
        let (purpose, site) = (self.key.purpose(), Location::caller());
        let try_once = || core.allocate_tracked(size, align, purpose, site);
        let after_release = || {
            core.release_all();
            try_once()
        };
        let block = Some(size).filter(|&size| (size as u64) < SIZE_LIMIT).and_then(|_| {
            try_once()
                .or_else(after_release)
                // Callbacks hear of it before the caller does, and may have given something back.
                .or_else(|| core.announce_refusal(size, align).then(after_release).flatten())
        });
        let Some(block) = block else {
            if let Some(tracker) = self.tracker() {
                tracker.failed(size);
            }
            return Err(core.refusal(size, align));
        };
        // SAFETY: the state has just handed out and counted this block for `size` bytes.
        let handle = unsafe { MemoryHandle::of_block(block) };
        Ok((handle, block.used_bytes.min(size)))
    }

    /// Gives a block back for reuse.
    ///
    /// # Errors
    /// [`Error::ForeignHandle`] if another pool made the handle (its block then goes back to that pool).
    #[inline]
    pub fn deallocate(&self, handle: MemoryHandle) -> Result<()> {
        if self.made(&handle) { Ok(()) } else { Err(Error::ForeignHandle) }
    }

    /// Gives memory that is free back to the system; the bytes that left memory, by the system's word. What other threads
    /// keep for themselves follows when they next use the pool.
    pub fn trim(&self) -> usize {
        let start = Instant::now();
        let returned = self.core().release(None).total();
        if let Some(tracker) = self.tracker() {
            let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            tracker.latency(LatencyKind::Trim, nanoseconds);
        }
        returned
    }

    /// Begins to empty slabs and regions of which at most `share` (0 to 1) is in use; `None` while that is going on already.
    pub fn start_compaction(&self, share: f64) -> Option<Compaction<'_>> {
        Compaction::start(self, share, None)
    }

    /// As [`HybridMemoryPool::start_compaction`]; what is free is not looked through any longer than until the deadline.
    pub(super) fn start_compaction_until(
        &self,
        share: f64,
        deadline: Option<Instant>,
    ) -> Option<Compaction<'_>> {
        Compaction::start(self, share, deadline)
    }

    /// Bytes of the pool's mappings that lie in memory now, by the system's word; `None` where it does not tell.
    pub fn resident_bytes(&self) -> Option<usize> {
        let pages = &self.core().pages;
        // A mapping that another thread gives back meanwhile is asked for in vain.
        (0..LOOKS_AT_RANGES).find_map(|_| {
            self.ranges().into_iter().map(|(address, bytes)| pages.resident(address, bytes)).sum()
        })
    }

    /// The accounts.
    pub fn get_metrics(&self) -> MemoryMetrics {
        self.core().metrics()
    }

    /// Bytes asked for by the allocations that are alive, for each of [`Purpose::ALL`].
    pub fn allocated_by_purpose(&self) -> [u64; Purpose::ALL.len()] {
        self.core().totals().live.map(|bytes| bytes.max(0) as u64)
    }

    /// Calls `callback` with the new level each time that memory pressure changes, on the thread that notices it. A pool that
    /// is not tracked, or without `enable_pressure_detection`, watches no pressure: the callback is dropped.
    pub fn register_pressure_callback(&self, callback: PressureCallback) {
        if let Some(monitor) = self.tracker().and_then(Tracker::pressure) {
            monitor.register(callback);
        }
    }

    /// Who records what this pool does; `None` without `enable_advanced_tracking`.
    pub fn tracker(&self) -> Option<&Tracker> {
        self.core().tracker.as_ref()
    }

    /// What the pool knows about itself; `None` if it is not tracked.
    pub fn get_detailed_metrics(&self) -> Option<DetailedMetrics> {
        self.tracker()?.detailed_metrics(self.core().figures())
    }

    /// Lets the system refuse every mapping after `count` more of them, to see what happens then; `None` ends it.
    pub fn refuse_mappings_after(&self, count: Option<usize>) {
        self.core().pages.fail_after(count);
    }

    /// Bytes that the pool's own books take, beside the blocks: bitmaps, lists between threads and caches of threads.
    pub fn bookkeeping_bytes(&self) -> usize {
        self.core().own_bytes()
    }

    /// The address ranges that the pool has mapped, as (address, bytes), lowest first.
    pub fn ranges(&self) -> Vec<(usize, usize)> {
        self.core().ranges()
    }
}

//! A pool of aligned blocks by size class: freed blocks are kept and handed out again.
//!
//! Sizes are rounded up to four classes per doubling (at most a quarter is lost), never below one cache line.
//! A block that is freed goes to the free list of its class; [`HybridMemoryPool::trim`] gives them back.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::block::Block;
use super::tracking::{
    AllocationEvent, ClassFigures, DeallocationEvent, PoolFigures, PressureCallback,
};
use super::{DetailedMetrics, MemoryPoolConfig, Purpose, Tracker, TrackingLevel};
use crate::device::Device;
use crate::{Error, Result};

/// The smallest alignment and size: a cache line.
const LINE: usize = 64;
/// The largest alignment served.
const MAX_ALIGN: usize = 2 << 20;

/// What a pool holds, in bytes and calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryMetrics {
    /// Bytes asked for by the allocations that are alive.
    pub total_allocated: u64,
    /// The largest value that `total_allocated` has had.
    pub peak_allocated: u64,
    /// Bytes that the pool has from the system: alive, rounding and free blocks kept.
    pub reserved: u64,
    /// Allocations made so far.
    pub allocations: u64,
    /// Allocations given back so far.
    pub deallocations: u64,
}

/// A block of a pool, owned: it can't be duplicated, so it can't be freed twice. Dropping it gives it back.
#[derive(Debug)]
pub struct MemoryHandle {
    /// `None` only while it is dropped.
    block: Option<Block>,
    size: usize,
    purpose: Purpose,
    pool: Arc<PoolState>,
}

impl MemoryHandle {
    /// The bytes asked for.
    pub fn size(&self) -> usize {
        self.size
    }

    /// What the block is used for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The bytes. They are initialised: zero, or what an earlier user of the pool left.
    pub fn bytes(&self) -> &[u8] {
        self.block.as_ref().map_or(&[], |block| &block.bytes()[..self.size])
    }

    /// The bytes, for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let size = self.size;
        self.block.as_mut().map_or(&mut [], |block| &mut block.bytes_mut()[..size])
    }
}

impl Drop for MemoryHandle {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.pool.give_back(block, self.size, self.purpose);
        }
    }
}

#[derive(Debug)]
struct PoolState {
    limit: usize,
    inner: Mutex<Inner>,
    tracker: Option<Tracker>,
}

#[derive(Debug, Default)]
struct Inner {
    free: BTreeMap<(usize, usize), Vec<Block>>,
    metrics: MemoryMetrics,
    by_purpose: [u64; Purpose::ALL.len()],
    /// Blocks in use and the bytes asked for by them, by bytes of a block; kept if the pool is tracked.
    live: BTreeMap<usize, (u64, u64)>,
}

impl PoolState {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a block on its free list and settles the accounts.
    fn give_back(&self, block: Block, size: usize, purpose: Purpose) {
        let class_bytes = block.len();
        if let Some(tracker) = self.recorder() {
            let address = block.bytes().as_ptr() as usize;
            tracker.deallocated(&DeallocationEvent { address, size, class_bytes, purpose });
        }
        let mut inner = self.lock();
        if self.tracker.is_some() {
            let (blocks, bytes) = inner.live.entry(class_bytes).or_default();
            *blocks -= 1;
            *bytes -= size as u64;
        }
        inner.metrics.total_allocated -= size as u64;
        inner.metrics.deallocations += 1;
        inner.by_purpose[purpose.index()] -= size as u64;
        inner.free.entry((class_bytes, block.align())).or_default().push(block);
        drop(inner);
        self.observe_pressure();
    }

    /// The tracker, if it wants to hear of each allocation.
    fn recorder(&self) -> Option<&Tracker> {
        self.tracker.as_ref().filter(|tracker| tracker.level() >= TrackingLevel::Standard)
    }

    /// Callbacks may run: no lock is held by the caller.
    fn observe_pressure(&self) {
        if let Some(monitor) = self.tracker.as_ref().and_then(Tracker::pressure) {
            let used = self.lock().metrics.total_allocated;
            monitor.observe(used, self.limit as u64);
        }
    }
}

/// A pool of aligned memory with exact accounts. Cloning gives another handle to the same pool.
#[derive(Debug, Clone)]
pub struct HybridMemoryPool {
    state: Arc<PoolState>,
    purpose: Purpose,
}

impl HybridMemoryPool {
    /// A pool of the default sizes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if the system refuses the address space that is reserved at the start.
    pub fn new() -> Result<Self> {
        Self::with_config(MemoryPoolConfig::default())
    }

    /// A pool of these sizes.
    ///
    /// # Errors
    /// As [`HybridMemoryPool::new`].
    pub fn with_config(config: MemoryPoolConfig) -> Result<Self> {
        let limit = config.max_small_pool_size.saturating_add(config.max_large_pool_size);
        let tracking =
            config.enable_advanced_tracking.then(|| config.tracking_config.unwrap_or_default());
        let tracker = tracking.map(Tracker::new);
        let state = Arc::new(PoolState { limit, inner: Mutex::default(), tracker });
        Ok(Self { state, purpose: Purpose::General })
    }

    /// The same pool, whose allocations are accounted under `purpose`.
    pub fn for_purpose(&self, purpose: Purpose) -> Self {
        Self { state: Arc::clone(&self.state), purpose }
    }

    /// `size` bytes aligned to at least `align` and at least a cache line. They are initialised, but may hold what an
    /// earlier user of this pool left in them.
    ///
    /// # Errors
    /// [`Error::BadAlignment`], [`Error::SizeOverflow`] or [`Error::OutOfMemory`]; before the last, the free
    /// blocks kept are given back and the allocation is tried once more.
    #[track_caller]
    pub fn allocate(&self, size: usize, align: usize, device: &Device) -> Result<MemoryHandle> {
        self.take(size, align, device).map(|(handle, _)| handle)
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
        let (mut handle, recycled) = self.take(size, align, device)?;
        if recycled {
            handle.bytes_mut().fill(0);
        }
        Ok(handle)
    }

    /// A block, and whether it has been used before; otherwise it is zero.
    #[track_caller]
    fn take(&self, size: usize, align: usize, _device: &Device) -> Result<(MemoryHandle, bool)> {
        if !align.is_power_of_two() || align > MAX_ALIGN {
            return Err(Error::BadAlignment { align });
        }
        let align = align.max(LINE);
        let class = size_class(size).ok_or(Error::SizeOverflow { what: "allocation" })?;
        let recycled = self.state.lock().free.get_mut(&(class, align)).and_then(Vec::pop);
        let used = recycled.is_some();
        let block = match recycled {
            Some(block) => block,
            None => self.grow(class, align)?,
        };
        let mut inner = self.state.lock();
        let metrics = &mut inner.metrics;
        metrics.total_allocated += size as u64;
        metrics.peak_allocated = metrics.peak_allocated.max(metrics.total_allocated);
        metrics.allocations += 1;
        inner.by_purpose[self.purpose.index()] += size as u64;
        if let Some(tracker) = &self.state.tracker {
            let (blocks, bytes) = inner.live.entry(class).or_default();
            *blocks += 1;
            *bytes += size as u64;
            drop(inner);
            let address = block.bytes().as_ptr() as usize;
            let (purpose, site) = (self.purpose, Location::caller());
            tracker.allocated(&AllocationEvent {
                address,
                size,
                class_bytes: class,
                purpose,
                site,
            });
            self.state.observe_pressure();
        } else {
            drop(inner);
        }
        let pool = Arc::clone(&self.state);
        Ok((MemoryHandle { block: Some(block), size, purpose: self.purpose, pool }, used))
    }

    /// Gives a block back for reuse.
    ///
    /// # Errors
    /// [`Error::ForeignHandle`] if another pool made the handle (its block then goes back to that pool).
    pub fn deallocate(&self, handle: MemoryHandle) -> Result<()> {
        let foreign = !Arc::ptr_eq(&handle.pool, &self.state);
        drop(handle);
        if foreign { Err(Error::ForeignHandle) } else { Ok(()) }
    }

    /// Gives the free blocks that are kept back to the system; the bytes given back.
    pub fn trim(&self) -> usize {
        let free = std::mem::take(&mut self.state.lock().free);
        let bytes: usize = free.values().flatten().map(Block::len).sum();
        self.state.lock().metrics.reserved -= bytes as u64;
        bytes
    }

    /// The accounts.
    pub fn get_metrics(&self) -> MemoryMetrics {
        self.state.lock().metrics
    }

    /// Bytes asked for by the allocations that are alive, for each of [`Purpose::ALL`].
    pub fn allocated_by_purpose(&self) -> [u64; Purpose::ALL.len()] {
        self.state.lock().by_purpose
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
        self.state.tracker.as_ref()
    }

    /// What the pool knows about itself; `None` if it is not tracked.
    pub fn get_detailed_metrics(&self) -> Option<DetailedMetrics> {
        self.tracker()?.detailed_metrics(self.figures())
    }

    fn figures(&self) -> PoolFigures {
        let inner = self.state.lock();
        let mut classes: BTreeMap<usize, ClassFigures> = BTreeMap::new();
        for (&block_bytes, &(live_blocks, requested)) in &inner.live {
            let (capacity_blocks, requested) = (live_blocks, Some(requested));
            let class = ClassFigures { block_bytes, live_blocks, capacity_blocks, requested };
            classes.insert(block_bytes, class);
        }
        for (&(block_bytes, _), blocks) in &inner.free {
            let class = classes.entry(block_bytes).or_default();
            class.block_bytes = block_bytes;
            class.capacity_blocks += blocks.len() as u64;
        }
        let metrics = inner.metrics;
        let free_kept = inner.free.values().flatten().map(|block| block.len() as u64).sum();
        let largest_free =
            inner.free.iter().filter(|(_, blocks)| !blocks.is_empty()).map(|(key, _)| key.0).max();
        PoolFigures {
            limit: self.state.limit as u64,
            mapped: metrics.reserved,
            occupied: metrics.reserved - free_kept,
            requested: metrics.total_allocated,
            peak_requested: metrics.peak_allocated,
            free_kept,
            largest_free: largest_free.unwrap_or(0) as u64,
            total_free_large: free_kept,
            allocations: metrics.allocations,
            deallocations: metrics.deallocations,
            by_purpose: inner.by_purpose,
            classes: classes.into_values().collect(),
        }
    }

    fn grow(&self, class: usize, align: usize) -> Result<Block> {
        for attempt in 0..2 {
            let mut inner = self.state.lock();
            let reserved = inner.metrics.reserved as usize;
            if class <= self.state.limit.saturating_sub(reserved)
                && let Some(block) = Block::zeroed(class, align)
            {
                inner.metrics.reserved += block.len() as u64;
                return Ok(block);
            }
            drop(inner);
            if attempt == 0 {
                self.trim();
            }
        }
        if let Some(tracker) = self.tracker() {
            tracker.failed(class);
        }
        let live = self.get_metrics().total_allocated as usize;
        Err(Error::OutOfMemory { bytes: class, live, limit: self.state.limit })
    }
}

/// The size rounded up to four classes per doubling, at least a cache line.
fn size_class(size: usize) -> Option<usize> {
    let size = size.max(LINE);
    let step = ((size - 1).checked_ilog2().map_or(LINE, |log| 1usize << log) / 4).max(LINE);
    let class = size.checked_next_multiple_of(step)?;
    (class <= isize::MAX as usize - MAX_ALIGN).then_some(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(bytes: usize) -> HybridMemoryPool {
        let config = MemoryPoolConfig {
            max_small_pool_size: 0,
            max_large_pool_size: bytes,
            ..MemoryPoolConfig::unbounded()
        };
        HybridMemoryPool::with_config(config).unwrap()
    }

    #[test]
    fn every_size_and_alignment_is_served_and_accounted() {
        let pool = HybridMemoryPool::new().unwrap();
        let mut sizes = vec![0usize, 1, 63, 64, 65, 4095, 4096, 4097];
        for k in [512 << 10, 1 << 20, 3 << 20] {
            sizes.extend([k - 1, k, k + 1]);
        }
        for &size in &sizes {
            for align in [1usize, 64, 4096, 2 << 20] {
                let mut handle = pool.allocate_zeroed(size, align, &Device::Cpu).unwrap();
                assert_eq!(handle.bytes().len(), size);
                assert_eq!(handle.bytes().as_ptr() as usize % align.max(64), 0);
                assert!(handle.bytes().iter().all(|&b| b == 0), "recycled blocks are zeroed");
                handle.bytes_mut().fill(0xa5);
                pool.deallocate(handle).unwrap();
            }
        }
        let mut handle = pool.allocate(100, 64, &Device::Cpu).unwrap();
        handle.bytes_mut().fill(0xa5);
        pool.deallocate(handle).unwrap();
        let handle = pool.allocate(100, 64, &Device::Cpu).unwrap();
        assert!(handle.bytes().iter().all(|&b| b == 0xa5), "nothing is written to scratch");
        pool.deallocate(handle).unwrap();
        let metrics = pool.get_metrics();
        assert_eq!(metrics.total_allocated, 0);
        assert_eq!(metrics.allocations, metrics.deallocations);
        assert_eq!(pool.trim() as u64, metrics.reserved);
        assert_eq!(pool.get_metrics().reserved, 0);
    }

    #[test]
    fn classes_waste_at_most_a_quarter() {
        for size in (64..100_000).chain([1 << 20, (1 << 20) + 1, 700 << 20]) {
            let class = size_class(size).unwrap();
            assert!(class >= size && class - size <= (size / 4).max(63), "{size} -> {class}");
        }
        assert_eq!(size_class(usize::MAX), None);
    }

    #[test]
    fn limits_alignment_and_foreign_handles_are_errors() {
        let pool = limited(1 << 20);
        assert!(matches!(pool.allocate(8, 3, &Device::Cpu), Err(Error::BadAlignment { align: 3 })));
        assert!(matches!(
            pool.allocate(usize::MAX, 64, &Device::Cpu),
            Err(Error::SizeOverflow { .. })
        ));
        assert!(matches!(pool.allocate(2 << 20, 64, &Device::Cpu), Err(Error::OutOfMemory { .. })));
        let other = HybridMemoryPool::new().unwrap();
        let handle = other.allocate(100, 64, &Device::Cpu).unwrap();
        assert_eq!(pool.deallocate(handle), Err(Error::ForeignHandle));
        assert_eq!(other.get_metrics().total_allocated, 0);
    }

    #[test]
    fn kept_blocks_give_way_when_the_limit_is_reached() {
        let pool = limited(1 << 20);
        let handle = pool.allocate(700 << 10, 64, &Device::Cpu).unwrap();
        pool.deallocate(handle).unwrap();
        assert!(
            pool.allocate(600 << 10, 4096, &Device::Cpu).is_ok(),
            "the kept block is trimmed first"
        );
    }
}

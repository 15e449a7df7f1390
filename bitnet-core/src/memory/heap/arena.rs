//! Regions of mapped pages under one limit of bytes, each managed by a buddy allocator.
//!
//! A span is a run of granules of one region. Regions are mapped on demand, used lowest address first, and unmapped
//! when no span of them is allocated. Each region has its own lock; which orders it can serve is readable without it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::buddy::{Buddy, MAX_ORDER};
use super::discard::discard_while;
use crate::os::pages::{GRANULE, Pages};
use crate::sync::lock;

/// The bytes of a region, and its alignment.
const REGION: usize = GRANULE << MAX_ORDER;

/// A run of granules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) address: usize,
    pub(super) granules: usize,
    /// How many of its bytes, from the start, may not be zero.
    pub(super) used_bytes: usize,
}

#[derive(Debug)]
struct Region {
    address: usize,
    bytes: usize,
    align: usize,
    state: Mutex<RegionState>,
    /// As [`Buddy::orders`], readable without the lock.
    orders: AtomicU32,
    /// Whether it is being drained, so that no span may be taken.
    draining: AtomicBool,
}

#[derive(Debug)]
struct RegionState {
    buddy: Buddy,
    /// Granules from here on were never allocated: they are zero, and not resident.
    fresh_from: usize,
    /// Whether spans were freed since free pages were last discarded.
    dirty: bool,
}

impl Region {
    /// Whether it seems to have a free block of this order, and may be used.
    fn may_serve(&self, order: usize) -> bool {
        self.orders.load(Ordering::Relaxed).checked_shr(order as u32) > Some(0)
            && !self.draining.load(Ordering::Relaxed)
    }

    fn allocate(&self, granules: usize, align: usize) -> Option<Span> {
        let mut state = lock(&self.state);
        let start = state.buddy.allocate(granules, align)?;
        self.orders.store(state.buddy.orders(), Ordering::Relaxed);
        let used = state.fresh_from.saturating_sub(start).min(granules);
        state.fresh_from = state.fresh_from.max(start + granules);
        let address = self.address + start * GRANULE;
        Some(Span { address, granules, used_bytes: used * GRANULE })
    }

    fn free(&self, address: usize, granules: usize) {
        let mut state = lock(&self.state);
        state.buddy.free((address - self.address) / GRANULE, granules);
        state.dirty = true;
        self.orders.store(state.buddy.orders(), Ordering::Relaxed);
    }

    /// Discards the pages of free blocks of at least 64 KiB.
    /// Returns the resident bytes released, as reported by the OS.
    ///
    /// A block is allocated while its pages are discarded, so that the lock is not held over the call.
    fn discard_free(
        &self,
        in_transit: &Mutex<()>,
        pages: &Pages,
        more: &dyn Fn() -> bool,
    ) -> usize {
        let blocks = {
            let mut state = lock(&self.state);
            if !std::mem::take(&mut state.dirty) {
                return 0;
            }
            let fresh_from = state.fresh_from;
            let mut blocks = state.buddy.free_blocks(4);
            blocks.retain(|&(start, _)| start < fresh_from);
            blocks
        };
        let mut released = 0;
        for (start, granules) in blocks {
            if !more() {
                lock(&self.state).dirty = true;
                break;
            }
            let _in_transit = lock(in_transit);
            if !lock(&self.state).buddy.take_block(start, granules) {
                continue;
            }
            let (address, bytes) = (self.address + start * GRANULE, granules * GRANULE);
            // SAFETY: the block is in this region's mapping, allocated to this call alone.
            let (piece, whole) = unsafe { discard_while(address, bytes, pages, more) };
            released += piece;
            let mut state = lock(&self.state);
            state.dirty |= !whole;
            state.buddy.free(start, granules);
            self.orders.store(state.buddy.orders(), Ordering::Relaxed);
        }
        released
    }

    /// Allocates the region as one span, if it is unused.
    fn allocate_whole(&self) -> Option<Span> {
        let mut state = lock(&self.state);
        if !state.buddy.is_unused() {
            return None;
        }
        let granules = state.buddy.granules();
        for (start, granules) in state.buddy.free_blocks(0) {
            state.buddy.take_block(start, granules);
        }
        self.orders.store(0, Ordering::Relaxed);
        let used_bytes = state.fresh_from * GRANULE;
        state.fresh_from = granules;
        Some(Span { address: self.address, granules, used_bytes })
    }

    /// Undoes [`Region::allocate_whole`] of a region that has not been accessed since.
    fn restore_whole(&self, whole: Span) {
        let mut state = lock(&self.state);
        state.buddy.free(0, whole.granules);
        state.fresh_from = whole.used_bytes / GRANULE;
        state.dirty = true;
        self.orders.store(state.buddy.orders(), Ordering::Relaxed);
    }
}

/// The figures of an arena, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ArenaFigures {
    pub(super) mapped: usize,
    pub(super) free: usize,
    pub(super) largest_free: usize,
    /// Of the free bytes, those outside the largest free block of their region; none of an unused region.
    pub(super) scattered: usize,
    pub(super) metadata_bytes: usize,
}

/// Regions under one limit.
#[derive(Debug)]
pub(super) struct Arena {
    limit: usize,
    /// Bytes mapped, regions and whole mappings together.
    mapped: AtomicUsize,
    /// Bytes of allocated spans.
    used: AtomicUsize,
    /// By address.
    regions: RwLock<Vec<Arc<Region>>>,
    /// Held while free memory is unlisted because it is being discarded: an allocation that finds no span waits for it,
    /// then searches again.
    in_transit: Mutex<()>,
}

impl Arena {
    /// Makes an arena of at most `limit` bytes, `initial` of them mapped at once; `None` if the system refuses.
    pub(super) fn new(limit: usize, initial: usize, pages: &Pages) -> Option<Self> {
        let limit = limit / GRANULE * GRANULE;
        let [mapped, used] = [0, 0].map(AtomicUsize::new);
        let regions = RwLock::default();
        let arena = Self { limit, mapped, used, regions, in_transit: Mutex::default() };
        let mut missing = initial.min(limit);
        while missing >= GRANULE {
            let bytes = missing.min(REGION) / GRANULE * GRANULE;
            if !arena.grow(bytes, pages) {
                // SAFETY: no span of the new arena has been allocated.
                unsafe { arena.unmap_all(pages) };
                return None;
            }
            missing -= bytes;
        }
        Some(arena)
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn mapped(&self) -> usize {
        self.mapped.load(Ordering::Relaxed)
    }

    /// Bytes of allocated spans.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether the limit allows `bytes` more, so that a refusal was the system's.
    pub(super) fn has_capacity(&self, bytes: usize) -> bool {
        self.mapped().checked_add(bytes).is_some_and(|sum| sum <= self.limit)
    }

    /// Allocates `granules` at a multiple of `align` granules, from a mapped region or a new one.
    pub(super) fn allocate(&self, granules: usize, align: usize, pages: &Pages) -> Option<Span> {
        let span = self.find_or_grow(granules, align, pages).or_else(|| {
            let _all_there = self.in_transit();
            self.find_or_grow(granules, align, pages)
        });
        if let Some(span) = span {
            self.used.fetch_add(span.granules * GRANULE, Ordering::Relaxed);
        }
        span
    }

    /// While the guard is held, no free memory is being discarded.
    pub(super) fn in_transit(&self) -> MutexGuard<'_, ()> {
        lock(&self.in_transit)
    }

    fn find_or_grow(&self, granules: usize, align: usize, pages: &Pages) -> Option<Span> {
        if let Some(span) = self.find(granules, align) {
            return Some(span);
        }
        let order = Buddy::order_for(granules, align);
        if order > MAX_ORDER {
            return None;
        }
        let needed = GRANULE << order;
        // A whole region if the limit and the system allow it, else what is needed.
        let available = self.limit.saturating_sub(self.mapped()).min(REGION);
        let grown = [available, needed, granules * GRANULE]
            .into_iter()
            .filter(|&bytes| bytes >= granules * GRANULE)
            .any(|bytes| self.grow(bytes, pages));
        if grown { self.find(granules, align) } else { None }
    }

    fn find(&self, granules: usize, align: usize) -> Option<Span> {
        let order = Buddy::order_for(granules, align);
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        regions
            .iter()
            .filter(|region| region.may_serve(order))
            .find_map(|region| region.allocate(granules, align))
            .or_else(|| {
                // A region whose length is no power of two may hold the request only as its whole.
                let exact = |r: &&Arc<Region>| r.bytes == granules * GRANULE && align == 1;
                regions.iter().filter(exact).find_map(|region| region.allocate_whole())
            })
    }

    fn grow(&self, bytes: usize, pages: &Pages) -> bool {
        if !self.reserve(bytes) {
            return false;
        }
        let align = bytes.next_power_of_two().min(REGION);
        let Some(address) = pages.map(bytes, align) else {
            self.mapped.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        };
        let buddy = Buddy::new(bytes / GRANULE);
        let orders = AtomicU32::new(buddy.orders());
        let state = Mutex::new(RegionState { buddy, fresh_from: 0, dirty: false });
        let region = Arc::new(Region {
            address,
            bytes,
            align,
            state,
            orders,
            draining: AtomicBool::new(false),
        });
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        let at = regions.partition_point(|other| other.address < address);
        regions.insert(at, region);
        true
    }

    /// Counts `bytes` towards the limit; false if they go beyond it.
    pub(super) fn reserve(&self, bytes: usize) -> bool {
        self.mapped
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |mapped| {
                mapped.checked_add(bytes).filter(|&sum| sum <= self.limit)
            })
            .is_ok()
    }

    /// Undoes [`Arena::reserve`].
    pub(super) fn unreserve(&self, bytes: usize) {
        self.mapped.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Frees a span of this arena that is no longer used.
    pub(super) fn free(&self, address: usize, granules: usize) {
        if let Some(region) = self.region_of(address) {
            region.free(address, granules);
            self.used.fetch_sub(granules * GRANULE, Ordering::Relaxed);
        }
    }

    /// Drains the regions of which at most `share` is in use, but for the fullest: no span is taken from them. Returns
    /// the bytes in use there.
    pub(super) fn start_draining(&self, share: f64) -> usize {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let used = |region: &Region| {
            let state = lock(&region.state);
            (state.buddy.granules() - state.buddy.free_granules()) * GRANULE
        };
        let fullest =
            regions.iter().map(|region| used(region)).enumerate().max_by_key(|&(_, used)| used);
        let mut sum = 0;
        for (at, region) in regions.iter().enumerate() {
            let used = used(region);
            let is_fullest = fullest.is_some_and(|(fullest, _)| fullest == at);
            if !is_fullest && used > 0 && used as f64 <= share * region.bytes as f64 {
                region.draining.store(true, Ordering::Relaxed);
                sum += used;
            }
        }
        sum
    }

    /// Ends what [`Arena::start_draining`] began.
    pub(super) fn stop_draining(&self) {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        regions.iter().for_each(|region| region.draining.store(false, Ordering::Relaxed));
    }

    /// Whether the span at this address is in a region that is draining.
    pub(super) fn is_draining(&self, address: usize) -> bool {
        self.region_of(address).is_some_and(|region| region.draining.load(Ordering::Relaxed))
    }

    fn region_of(&self, address: usize) -> Option<Arc<Region>> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let after = regions.partition_point(|region| region.address <= address);
        let region = regions.get(after.checked_sub(1)?)?;
        (address - region.address < region.bytes).then(|| Arc::clone(region))
    }

    /// Unmaps unused regions as long as more than `keep` bytes are mapped, and discards the pages of free blocks of the
    /// others, as long as `more` returns true. Returns the resident bytes released, as reported by the OS.
    pub(super) fn release(&self, keep: usize, pages: &Pages, more: &dyn Fn() -> bool) -> usize {
        let all: Vec<_> = self.regions.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut released = 0;
        for region in all.into_iter().rev() {
            if !more() {
                break;
            }
            let spare = self.mapped().saturating_sub(region.bytes) >= keep;
            released += region.discard_free(&self.in_transit, pages, more);
            if spare && more() {
                released += self.unmap_if_unused(&region, pages, more);
            }
        }
        released
    }

    fn unmap_if_unused(&self, region: &Region, pages: &Pages, more: &dyn Fn() -> bool) -> usize {
        let _in_transit = self.in_transit();
        // Allocated whole, so that neither allocations nor other purges can use it.
        let Some(whole) = region.allocate_whole() else { return 0 };
        // First the pages, in pieces: unmapping them at once would take too long between two checks of the clock.
        // SAFETY: the region is mapped, since only the call that allocated it whole unmaps it, and that is this one.
        let (released, done) =
            unsafe { discard_while(region.address, whole.used_bytes, pages, more) };
        if !done {
            region.restore_whole(whole);
            return released;
        }
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        regions.retain(|other| other.address != region.address);
        drop(regions);
        // SAFETY: the region came from `map` with these figures, is unused, and is no longer listed.
        unsafe { pages.unmap(region.address, region.bytes, region.align) };
        self.unreserve(region.bytes);
        released
    }

    /// Unmaps every region.
    ///
    /// # Safety
    /// No span of the arena is used any more.
    pub(super) unsafe fn unmap_all(&self, pages: &Pages) {
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        for region in regions.drain(..) {
            // SAFETY: the region came from `map` with these figures; the caller guarantees that it is unused.
            unsafe { pages.unmap(region.address, region.bytes, region.align) };
            self.unreserve(region.bytes);
        }
    }

    pub(super) fn ranges(&self) -> Vec<(usize, usize)> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        regions.iter().map(|region| (region.address, region.bytes)).collect()
    }

    /// The figures. `cached` are allocated spans that are free nevertheless, as (address, bytes).
    pub(super) fn figures(&self, cached: &[(usize, usize)]) -> ArenaFigures {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let mut figures = ArenaFigures { mapped: self.mapped(), ..Default::default() };
        for region in regions.iter() {
            let state = lock(&region.state);
            let in_buddy = state.buddy.free_granules() * GRANULE;
            let mut largest = state.buddy.largest_free() * GRANULE;
            figures.free += in_buddy;
            figures.largest_free = figures.largest_free.max(largest);
            let mut free = in_buddy;
            let region_end = region.address + region.bytes;
            for &(_, bytes) in cached.iter().filter(|c| (region.address..region_end).contains(&c.0))
            {
                free += bytes;
                largest = largest.max(bytes);
            }
            if free < region.bytes {
                figures.scattered += free.saturating_sub(largest);
            }
            figures.metadata_bytes += state.buddy.metadata_bytes() + size_of::<Region>();
        }
        figures
    }
}

#[cfg(test)]
mod tests;

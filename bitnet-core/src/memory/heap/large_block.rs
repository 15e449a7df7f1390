//! Blocks of 1 MiB and more: regions with a buddy allocator,
//! separate mappings for the largest, and a cache before both.
//!
//! A freed block enters the cache with its pages resident, and a request of about its size searches there first, which
//! saves page faults. A purge of the pool returns cached blocks to the buddy allocator.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::arena::{Arena, ArenaFigures, Span};
use super::discard::{discard_while, past};
use crate::os::pages::{GRANULE, Pages};
use crate::sync::lock;

/// Blocks above this many granules (32 MiB) are mapped by themselves.
const DIRECT: usize = 1 << 13;
/// Freed blocks from 2^8 granules (1 MiB) to 2^14 (64 MiB) are cached.
const CACHED: std::ops::RangeInclusive<usize> = 1 << 8..=1 << 14;
/// Classes of cached blocks: four to a doubling.
const CACHE_CLASSES: usize = 25;
/// The most cached blocks of one class: fewer above 8 MiB, see [`slots_for`].
const CACHE_SLOTS: usize = 4;
/// From this many bytes on a mapping is aligned and advised for huge pages.
const HUGE_FROM: usize = 4 << 20;
const HUGE: usize = 2 << 20;

#[derive(Debug)]
pub(super) struct LargeBlockPool {
    arena: Arena,
    large_cache: [[CacheSlot; CACHE_SLOTS]; CACHE_CLASSES],
    /// Mappings of single blocks: address to (bytes, alignment).
    direct: Mutex<BTreeMap<usize, (usize, usize)>>,
    direct_bytes: AtomicUsize,
    huge_pages: bool,
}

/// A cached block, as [`pack`] writes it; 0 is an empty slot. A line for each, so that threads with different hints do
/// not share one.
#[derive(Debug, Default)]
#[repr(align(64))]
struct CacheSlot(AtomicU64);

/// The figures of the large blocks, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LargeFigures {
    pub(super) arena: ArenaFigures,
    pub(super) cached: usize,
    pub(super) largest_cached: usize,
}

impl LargeBlockPool {
    /// `None` if the system refuses the `initial` bytes.
    pub(super) fn new(
        limit: usize,
        initial: usize,
        huge_pages: bool,
        pages: &Pages,
    ) -> Option<Self> {
        Some(Self {
            arena: Arena::new(limit, initial, pages)?,
            large_cache: std::array::from_fn(|_| std::array::from_fn(|_| CacheSlot::default())),
            direct: Mutex::default(),
            direct_bytes: AtomicUsize::new(0),
            huge_pages,
        })
    }

    /// A block of at least `bytes` at a multiple of `align`; `None` if the limit or the system refuses.
    pub(super) fn allocate(&self, bytes: usize, align: usize, pages: &Pages) -> Option<Span> {
        let granules = bytes.max(1).div_ceil(GRANULE);
        if let Some(span) = self.take_cached(granules, align, 0) {
            return Some(span);
        }
        let from_arena = if granules <= DIRECT {
            self.arena.allocate(granules, (align / GRANULE).max(1), pages)
        } else {
            None
        };
        from_arena.or_else(|| self.map_direct(granules, align, pages)).or_else(|| {
            let _all_there = self.arena.in_transit();
            self.map_direct(granules, align, pages)
        })
    }

    /// Frees a block that is no longer used; `granules` are those of its span.
    #[inline]
    pub(super) fn free(&self, address: usize, granules: usize, pages: &Pages) {
        if !self.cache(address, granules, 0) {
            self.return_span(address, granules, pages);
        }
    }

    /// Takes a cached block of at least `granules`; the search begins at `shard_hint`.
    #[inline]
    pub(super) fn take_cached(
        &self,
        granules: usize,
        align: usize,
        shard_hint: usize,
    ) -> Option<Span> {
        if !CACHED.contains(&granules) {
            return None;
        }
        let slots = &self.large_cache[cache_class(granules)];
        for at in 0..CACHE_SLOTS {
            let CacheSlot(slot) = &slots[(shard_hint + at) % CACHE_SLOTS];
            let packed = slot.load(Ordering::Relaxed);
            let (address, cached) = unpack(packed);
            if packed != 0
                && cached >= granules
                && address & (align - 1) == 0
                // Acquire: the writes of its last user happened before.
                && slot.compare_exchange(packed, 0, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return Some(Span { address, granules: cached, used_bytes: cached * GRANULE });
            }
        }
        None
    }

    /// Caches a block that is no longer used, at `shard_hint` if that slot is empty. Returns false if the block is too
    /// large or too small, or no slot is empty.
    #[inline]
    pub(super) fn cache(&self, address: usize, granules: usize, shard_hint: usize) -> bool {
        if !CACHED.contains(&granules) {
            return false;
        }
        let slots_used = slots_for(granules);
        let packed = pack(address, granules);
        let slots = &self.large_cache[cache_class(granules)];
        (0..slots_used).any(|at| {
            let CacheSlot(slot) = &slots[(shard_hint + at) % slots_used];
            slot.load(Ordering::Relaxed) == 0
                && slot.compare_exchange(0, packed, Ordering::Release, Ordering::Relaxed).is_ok()
        })
    }

    /// Frees a block to the arena or, if it is a mapping of its own,
    /// to the system. Returns the resident bytes released.
    fn return_span(&self, address: usize, granules: usize, pages: &Pages) -> usize {
        let direct = lock(&self.direct).remove(&address);
        let Some((bytes, align)) = direct else {
            self.arena.free(address, granules);
            return 0;
        };
        let resident = pages.resident(address, bytes).unwrap_or(0);
        // SAFETY: `map_direct` mapped this block with these figures; it is unused and no longer listed.
        unsafe { pages.unmap(address, bytes, align) };
        self.arena.unreserve(bytes);
        self.direct_bytes.fetch_sub(bytes, Ordering::Relaxed);
        resident
    }

    fn map_direct(&self, granules: usize, align: usize, pages: &Pages) -> Option<Span> {
        let bytes = granules * GRANULE;
        if !self.arena.reserve(bytes) {
            return None;
        }
        let huge = self.huge_pages && bytes >= HUGE_FROM;
        let align = if huge { align.max(HUGE) } else { align.max(GRANULE) };
        let Some(address) = pages.map(bytes, align) else {
            self.arena.unreserve(bytes);
            return None;
        };
        if huge {
            pages.advise_huge(address, bytes);
        }
        lock(&self.direct).insert(address, (bytes, align));
        self.direct_bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(Span { address, granules, used_bytes: 0 })
    }

    /// Empties the cache until the deadline. Returns the resident bytes released at once.
    pub(super) fn flush(&self, pages: &Pages, deadline: Option<Instant>) -> usize {
        let mut released = 0;
        for CacheSlot(slot) in self.large_cache.iter().flatten() {
            if slot.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let _in_transit = self.arena.in_transit();
            let (address, granules) = unpack(slot.swap(0, Ordering::Acquire));
            if granules == 0 {
                continue;
            }
            if lock(&self.direct).contains_key(&address) {
                // SAFETY: the block was cached, so it is unused, and this call has removed it from the cache.
                let (bytes, whole) = unsafe {
                    discard_while(address, granules * GRANULE, pages, &|| !past(deadline))
                };
                released += bytes;
                if !whole && self.cache(address, granules, 0) {
                    break;
                }
            }
            released += self.return_span(address, granules, pages);
            if past(deadline) {
                break;
            }
        }
        released
    }

    pub(super) fn arena(&self) -> &Arena {
        &self.arena
    }

    pub(super) fn figures(&self) -> LargeFigures {
        let cached: Vec<_> = self.cached().collect();
        LargeFigures {
            arena: self.arena.figures(&cached),
            cached: cached.iter().map(|(_, bytes)| bytes).sum(),
            largest_cached: cached.iter().map(|&(_, bytes)| bytes).max().unwrap_or(0),
        }
    }

    /// The cached blocks, as (address, bytes).
    fn cached(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let slots = self.large_cache.iter().flatten();
        slots.map(|CacheSlot(slot)| unpack(slot.load(Ordering::Relaxed))).filter_map(
            |(address, granules)| (granules > 0).then_some((address, granules * GRANULE)),
        )
    }

    /// Bytes of live and cached blocks.
    pub(super) fn out_bytes(&self) -> usize {
        self.arena.used() + self.direct_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn occupied(&self) -> usize {
        self.out_bytes().saturating_sub(self.cached().map(|(_, bytes)| bytes).sum())
    }

    /// The address ranges of the mappings of single blocks.
    pub(super) fn direct_ranges(&self) -> Vec<(usize, usize)> {
        lock(&self.direct).iter().map(|(&address, &(bytes, _))| (address, bytes)).collect()
    }

    /// Unmaps all regions and mappings.
    ///
    /// # Safety
    /// No block of this pool is used any more.
    pub(super) unsafe fn unmap_all(&self, pages: &Pages) {
        for (address, (bytes, align)) in std::mem::take(&mut *lock(&self.direct)) {
            // SAFETY: `map_direct` mapped this block with these figures; the caller guarantees that it is unused.
            unsafe { pages.unmap(address, bytes, align) };
            self.arena.unreserve(bytes);
        }
        // SAFETY: the caller's promise covers the arena.
        unsafe { self.arena.unmap_all(pages) };
    }
}

/// How many blocks of about this length are cached: about 32 MiB of them, but one at least.
#[inline]
fn slots_for(granules: usize) -> usize {
    match granules {
        ..=2048 => CACHE_SLOTS,
        2049..=4096 => 2,
        _ => 1,
    }
}

/// The class of a cached block: (4 + r) << k granules hold it, as with small blocks.
#[inline]
fn cache_class(granules: usize) -> usize {
    let last = granules - 1;
    let log = last.ilog2() as usize;
    (log - 1) * 4 + ((last >> (log - 2)) & 3) - 27
}

/// An address (a multiple of a granule) and a number of granules (at most 2^14, so below 2^16) in one word.
#[inline]
fn pack(address: usize, granules: usize) -> u64 {
    ((address / GRANULE) as u64) << 16 | granules as u64
}

#[inline]
fn unpack(packed: u64) -> (usize, usize) {
    ((packed >> 16) as usize * GRANULE, packed as usize & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(limit: usize, pages: &Pages) -> LargeBlockPool {
        LargeBlockPool::new(limit, 0, true, pages).unwrap()
    }

    #[test]
    fn cache_classes_cover_their_range() {
        assert_eq!(cache_class(*CACHED.start()), 0);
        assert_eq!(cache_class(*CACHED.end()), CACHE_CLASSES - 1);
        let mut previous = 0;
        for granules in CACHED {
            let class = cache_class(granules);
            assert!(class == previous || class == previous + 1);
            previous = class;
            let address = 0x7fff_ffff_f000;
            assert_eq!(unpack(pack(address, granules)), (address, granules));
        }
    }

    #[test]
    fn cached_blocks_keep_their_pages() {
        let pages = Pages::default();
        let pool = pool(usize::MAX >> 1, &pages);
        for bytes in [1 << 20, 3 << 20, 40 << 20] {
            let first = pool.allocate(bytes, 64, &pages).unwrap();
            assert_eq!(first.used_bytes, 0);
            pool.free(first.address, first.granules, &pages);
            let second = pool.allocate(bytes, 64, &pages).unwrap();
            assert_eq!((second.address, second.used_bytes), (first.address, bytes));
            pool.free(second.address, second.granules, &pages);
        }
        assert_eq!(pool.figures().cached, 44 << 20);
        pool.flush(&pages, None);
        pool.arena().release(0, &pages, &|| true);
        assert_eq!((pool.figures().cached, pool.arena().mapped()), (0, 0));
    }

    #[test]
    fn blocks_above_32_mib_are_mapped_to_the_page() {
        let pages = Pages::default();
        let pool = pool(usize::MAX >> 1, &pages);
        let bytes = 128_256 * 2560 * 2;
        let block = pool.allocate(bytes, 64, &pages).unwrap();
        assert!(block.granules * GRANULE - bytes < GRANULE);
        assert_eq!(pool.direct_ranges(), [(block.address, block.granules * GRANULE)]);
        pool.free(block.address, block.granules, &pages);
        assert_eq!(pool.arena().mapped(), 0, "not cached");
    }

    #[test]
    fn alignments_and_limits_hold() {
        let pages = Pages::default();
        let pool = pool(80 << 20, &pages);
        for log in 0..=21 {
            let block = pool.allocate((1 << 20) + 1, 1 << log, &pages).unwrap();
            assert_eq!(block.address % (1 << log), 0);
            pool.return_span(block.address, block.granules, &pages);
        }
        assert_eq!(pool.allocate(81 << 20, 64, &pages), None);
        assert_eq!(pool.allocate(usize::MAX / 2, 64, &pages), None);
    }
}

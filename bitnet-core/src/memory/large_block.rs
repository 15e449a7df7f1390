//! Blocks of 1 MiB and more: a buddy allocator whose tails are given back, a few recent blocks kept whole, and mappings of
//! their own for the largest.
//!
//! A block that is freed is put where a request of about its size finds it first, with its pages still in memory: that
//! saves the page faults, which cost a hundred times more than any search. Such blocks go back to the buddy
//! allocator when the pool is cleaned or runs out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::arena::{Arena, ArenaFigures, Span, discard, past};
use super::system::{GRANULE, Pages};

/// Blocks above this many granules (32 MiB) are mapped by themselves.
const DIRECT: usize = 1 << 13;
/// Blocks from 2^8 granules (1 MiB) to 2^14 (64 MiB) are kept when they are freed.
const KEPT: std::ops::RangeInclusive<usize> = 1 << 8..=1 << 14;
/// Classes of kept blocks: four to a doubling.
const KEPT_CLASSES: usize = 25;
/// Blocks kept of one class, at most: fewer of those above 8 MiB, see [`places_for`].
const KEPT_SLOTS: usize = 4;
/// From this many bytes on a mapping is aligned and advised for huge pages.
const HUGE_FROM: usize = 4 << 20;
const HUGE: usize = 2 << 20;

#[derive(Debug)]
pub(super) struct LargeBlockPool {
    arena: Arena,
    recent: [[Kept; KEPT_SLOTS]; KEPT_CLASSES],
    /// Mappings of single blocks: address to (bytes, alignment).
    direct: Mutex<BTreeMap<usize, (usize, usize)>>,
    /// The bytes of these mappings.
    direct_bytes: AtomicUsize,
    huge_pages: bool,
}

/// A kept block, as [`pack`] writes it; 0 is an empty place. A line for each, so that threads with places of their own don't
/// disturb each other.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Kept(AtomicU64);

/// The figures of the large blocks, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LargeFigures {
    pub(super) arena: ArenaFigures,
    pub(super) kept: usize,
    pub(super) largest_kept: usize,
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
            recent: std::array::from_fn(|_| std::array::from_fn(|_| Kept::default())),
            direct: Mutex::default(),
            direct_bytes: AtomicUsize::new(0),
            huge_pages,
        })
    }

    /// A block of at least `bytes` at a multiple of `align`; `None` if the limit or the system refuses.
    pub(super) fn allocate(&self, bytes: usize, align: usize, pages: &Pages) -> Option<Span> {
        let granules = bytes.max(1).div_ceil(GRANULE);
        if let Some(span) = self.take_recent(granules, align, 0) {
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

    /// Takes a block that nobody uses any more; `granules` are those of its span.
    #[inline]
    pub(super) fn free(&self, address: usize, granules: usize, pages: &Pages) {
        if !self.keep(address, granules, 0) {
            self.give_back(address, granules, pages);
        }
    }

    /// Takes a kept block of at least `granules`; the search begins at `place`.
    #[inline]
    pub(super) fn take_recent(&self, granules: usize, align: usize, place: usize) -> Option<Span> {
        if !KEPT.contains(&granules) {
            return None;
        }
        let slots = &self.recent[kept_class(granules)];
        for at in 0..KEPT_SLOTS {
            let Kept(slot) = &slots[(place + at) % KEPT_SLOTS];
            let packed = slot.load(Ordering::Relaxed);
            let (address, kept) = unpack(packed);
            if packed != 0
                && kept >= granules
                && address & (align - 1) == 0
                // Acquire: what its last user wrote happened before.
                && slot.compare_exchange(packed, 0, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return Some(Span { address, granules: kept, used_bytes: kept * GRANULE });
            }
        }
        None
    }

    /// Keeps a block that nobody uses any more, in `place` if that is empty; false if it is too large, too small, or there is
    /// no room for it.
    #[inline]
    pub(super) fn keep(&self, address: usize, granules: usize, place: usize) -> bool {
        if !KEPT.contains(&granules) {
            return false;
        }
        let places = places_for(granules);
        let packed = pack(address, granules);
        let slots = &self.recent[kept_class(granules)];
        (0..places).any(|at| {
            let Kept(slot) = &slots[(place + at) % places];
            slot.load(Ordering::Relaxed) == 0
                && slot.compare_exchange(0, packed, Ordering::Release, Ordering::Relaxed).is_ok()
        })
    }

    /// Gives a block to the arena or, if it is a mapping of its own, to the system; the bytes that left memory at once.
    fn give_back(&self, address: usize, granules: usize, pages: &Pages) -> usize {
        let own = self.direct_maps().remove(&address);
        let Some((bytes, align)) = own else {
            self.arena.free(address, granules);
            return 0;
        };
        let resident = pages.resident(address, bytes).unwrap_or(0);
        // SAFETY: `map_direct` mapped this block with these figures, nobody uses it, and it is no longer listed.
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
        self.direct_maps().insert(address, (bytes, align));
        self.direct_bytes.fetch_add(bytes, Ordering::Relaxed);
        Some(Span { address, granules, used_bytes: 0 })
    }

    fn direct_maps(&self) -> MutexGuard<'_, BTreeMap<usize, (usize, usize)>> {
        self.direct.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the kept blocks up; the bytes that left memory at once.
    pub(super) fn drain(&self, pages: &Pages, deadline: Option<Instant>) -> usize {
        let mut gone = 0;
        for Kept(slot) in self.recent.iter().flatten() {
            if slot.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let _in_transit = self.arena.in_transit();
            let (address, granules) = unpack(slot.swap(0, Ordering::Acquire));
            if granules == 0 {
                continue;
            }
            if self.direct_maps().contains_key(&address) {
                // SAFETY: the block was kept, so that nobody used it, and this call has taken it out.
                let (bytes, whole) =
                    unsafe { discard(address, granules * GRANULE, pages, deadline) };
                gone += bytes;
                if !whole && self.keep(address, granules, 0) {
                    break;
                }
            }
            gone += self.give_back(address, granules, pages);
            if past(deadline) {
                break;
            }
        }
        gone
    }

    pub(super) fn arena(&self) -> &Arena {
        &self.arena
    }

    pub(super) fn figures(&self) -> LargeFigures {
        let kept: Vec<_> = self.kept().collect();
        LargeFigures {
            arena: self.arena.figures(&kept),
            kept: kept.iter().map(|(_, bytes)| bytes).sum(),
            largest_kept: kept.iter().map(|&(_, bytes)| bytes).max().unwrap_or(0),
        }
    }

    /// The blocks that are kept, as (address, bytes).
    fn kept(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let slots = self.recent.iter().flatten();
        slots.map(|Kept(slot)| unpack(slot.load(Ordering::Relaxed))).filter_map(
            |(address, granules)| (granules > 0).then_some((address, granules * GRANULE)),
        )
    }

    /// Bytes of the blocks that users have, and of those that are kept.
    pub(super) fn out_bytes(&self) -> usize {
        self.arena.used() + self.direct_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the blocks that users have.
    pub(super) fn occupied(&self) -> usize {
        self.out_bytes().saturating_sub(self.kept().map(|(_, bytes)| bytes).sum())
    }

    /// The address ranges of the mappings of single blocks.
    pub(super) fn direct_ranges(&self) -> Vec<(usize, usize)> {
        self.direct_maps().iter().map(|(&address, &(bytes, _))| (address, bytes)).collect()
    }

    /// Gives everything back to the system.
    ///
    /// # Safety
    /// Nobody uses any block of this pool.
    pub(super) unsafe fn unmap_all(&self, pages: &Pages) {
        for (address, (bytes, align)) in std::mem::take(&mut *self.direct_maps()) {
            // SAFETY: `map_direct` mapped this block with these figures; the caller says that nobody uses it.
            unsafe { pages.unmap(address, bytes, align) };
            self.arena.unreserve(bytes);
        }
        // SAFETY: the caller's promise covers the arena.
        unsafe { self.arena.unmap_all(pages) };
    }
}

/// How many blocks of about this length are kept: about 32 MiB of them, but one at least.
#[inline]
fn places_for(granules: usize) -> usize {
    match granules {
        ..=2048 => KEPT_SLOTS,
        2049..=4096 => 2,
        _ => 1,
    }
}

/// The class of a kept block: (4 + r) << k granules hold it, as with small blocks.
#[inline]
fn kept_class(granules: usize) -> usize {
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
    fn kept_classes_cover_their_range() {
        assert_eq!(kept_class(*KEPT.start()), 0);
        assert_eq!(kept_class(*KEPT.end()), KEPT_CLASSES - 1);
        let mut previous = 0;
        for granules in KEPT {
            let class = kept_class(granules);
            assert!(class == previous || class == previous + 1);
            previous = class;
            let address = 0x7fff_ffff_f000;
            assert_eq!(unpack(pack(address, granules)), (address, granules));
        }
    }

    #[test]
    fn a_block_is_found_again_with_its_pages() {
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
        assert_eq!(pool.figures().kept, 44 << 20);
        pool.drain(&pages, None);
        pool.arena().release(0, &pages, None);
        assert_eq!((pool.figures().kept, pool.arena().mapped()), (0, 0));
    }

    #[test]
    fn the_largest_are_mapped_alone_to_the_page() {
        let pages = Pages::default();
        let pool = pool(usize::MAX >> 1, &pages);
        let bytes = 128_256 * 2560 * 2;
        let block = pool.allocate(bytes, 64, &pages).unwrap();
        assert!(block.granules * GRANULE - bytes < GRANULE);
        assert_eq!(pool.direct_ranges(), [(block.address, block.granules * GRANULE)]);
        pool.free(block.address, block.granules, &pages);
        assert_eq!(pool.arena().mapped(), 0, "not kept");
    }

    #[test]
    fn every_alignment_is_met_and_limits_hold() {
        let pages = Pages::default();
        let pool = pool(80 << 20, &pages);
        for log in 0..=21 {
            let block = pool.allocate((1 << 20) + 1, 1 << log, &pages).unwrap();
            assert_eq!(block.address % (1 << log), 0);
            pool.give_back(block.address, block.granules, &pages);
        }
        assert_eq!(pool.allocate(81 << 20, 64, &pages), None);
        assert_eq!(pool.allocate(usize::MAX / 2, 64, &pages), None);
    }
}

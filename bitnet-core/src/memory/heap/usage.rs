//! How much of each limit of a pool is in use, the reports of it, and which limit a failed allocation met.

use super::block_tag::SIZE_LIMIT;
use super::size_class::{CLASSES, LINE, SMALL_LIMIT, block_bytes, class_of};
use super::small_block::share_of_slab;
use super::state::PoolInner;
use crate::error::{Error, MemoryLimit};
use crate::os::pages::GRANULE;

/// Bytes in use, and the most that there may be.
#[derive(Debug, Clone, Copy)]
struct Usage {
    used: usize,
    limit: usize,
}

impl Usage {
    fn ratio(self) -> f64 {
        if self.limit == 0 { 0.0 } else { self.used as f64 / self.limit as f64 }
    }
}

impl PoolInner {
    /// Reports the usage of the tighter limit to an observer that watches it.
    /// Callbacks may run: the caller holds no lock.
    #[cold]
    pub(in crate::memory) fn report_usage(&self) {
        if !self.watches_usage || !self.observer.accepts_usage() {
            return;
        }
        // Free blocks in bins and caches are subtracted only near a limit,
        // since that costs as much as many allocations.
        let most = Usage { used: self.small.out_bytes(), limit: self.small.arena().limit() };
        let is_near = self.observer.is_near_limit(most.ratio());
        let small = if is_near { self.small_usage() } else { most };
        let most = Usage { used: self.large.out_bytes(), limit: self.large.arena().limit() };
        let is_near = self.observer.is_near_limit(most.ratio());
        let large = if is_near { self.large_usage() } else { most };
        let Usage { used, limit } = if small.ratio() > large.ratio() { small } else { large };
        self.observer.usage(used as u64, limit as u64);
    }

    /// Returns the bytes in use and the limit of the kind of blocks, small or large, of which a larger part is in use.
    pub(in crate::memory) fn tightest_usage(&self) -> (u64, u64) {
        let (small, large) = (self.small_usage(), self.large_usage());
        let Usage { used, limit } = if small.ratio() > large.ratio() { small } else { large };
        (used as u64, limit as u64)
    }

    /// Announces that an allocation of `size` bytes, which the limit of its kind would allow, is about to fail. Returns
    /// whether callbacks may have freed memory.
    #[cold]
    pub(super) fn about_to_fail(&self, size: usize, align: usize) -> bool {
        let arena = if is_small(size, align) { self.small.arena() } else { self.large.arena() };
        self.watches_usage
            && self.observer.accepts_usage()
            && size <= arena.limit()
            && self.observer.about_to_fail()
    }

    /// Sets the live bytes above which the observer is notified, once; `None` is no threshold.
    pub(in crate::memory) fn set_live_threshold(&self, bytes: Option<u64>) {
        let threshold = bytes.and_then(|bytes| i64::try_from(bytes).ok()).unwrap_or(i64::MAX);
        self.live.set_threshold(threshold);
    }

    #[cold]
    pub(super) fn crossed_threshold(&self) {
        self.live.set_threshold(i64::MAX);
        self.observer.crossed_threshold();
    }

    /// Returns the error of a failed allocation: which limit it met, or that the system had no memory.
    #[cold]
    pub(super) fn refusal(&self, size: usize, align: usize) -> Error {
        let small = is_small(size, align);
        let arena = if small { self.small.arena() } else { self.large.arena() };
        let needed = block_to_map(size, align);
        let usage = if small { self.small_usage() } else { self.large_usage() };
        let (limit, met) = if size as u64 >= SIZE_LIMIT {
            (usize::try_from(SIZE_LIMIT).unwrap_or(usize::MAX), MemoryLimit::Block)
        } else if arena.has_capacity(needed) {
            (usage.limit, MemoryLimit::System)
        } else if small {
            (usage.limit, MemoryLimit::SmallPool)
        } else {
            (usage.limit, MemoryLimit::LargePool)
        };
        Error::OutOfMemory { bytes: size, live: usage.used, limit, met }
    }

    /// The usage of the limit of small blocks.
    fn small_usage(&self) -> Usage {
        let live = self.live_blocks();
        let used = (0..CLASSES).map(|class| live[class] * share_of_slab(class)).sum();
        Usage { used, limit: self.small.arena().limit() }
    }

    /// The usage of the limit of large blocks.
    fn large_usage(&self) -> Usage {
        Usage { used: self.large.occupied(), limit: self.large.arena().limit() }
    }
}

/// The fewest bytes that are mapped for a block of `size` bytes at a multiple of `align`, if there is no free one.
fn block_to_map(size: usize, align: usize) -> usize {
    let bytes = if is_small(size, align) {
        block_bytes(class_of(size.max(1) + align.max(LINE) - LINE))
    } else {
        size
    };
    bytes.checked_next_multiple_of(GRANULE).unwrap_or(usize::MAX)
}

/// Whether a block of `size` bytes at a multiple of `align` comes from the slabs.
pub(super) fn is_small(size: usize, align: usize) -> bool {
    size.max(1).checked_add(align.max(LINE) - LINE).is_some_and(|whole| whole < SMALL_LIMIT)
}

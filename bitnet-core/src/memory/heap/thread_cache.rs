//! The cache of a thread in a pool: free blocks of each class ([`super::bins`]) and counters ([`super::stats`]).

use std::cell::Cell;

use super::bins::Bins;
use super::block_tag::{Key, Tag};
use super::sampling::Sampler;
use super::stats::LocalStats;

/// Flag: the pool is closed: its last owner was dropped, though blocks may be alive.
pub(super) const CLOSED: u32 = 1 << 24;
/// Flag: the thread has to return its free blocks.
pub(super) const DRAIN: u32 = 1 << 25;
/// Flag: every allocation is recorded.
pub(super) const RECORD_ALL: u32 = 1 << 26;

/// The cache of one thread in one pool. Only that thread changes it, but for flags.
///
/// Aligned to 128 bytes, because cache lines are fetched in pairs.
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct ThreadCache {
    pub(super) stats: LocalStats,
    /// Where in the cache of large blocks this thread searches first.
    pub(super) shard_hint: u32,
    pub(super) bins: Bins,
}

static NONE: ThreadCache =
    ThreadCache { stats: LocalStats::none(), shard_hint: 0, bins: Bins::closed() };

thread_local! {
    /// The cache of the pool that this thread used last. Without a destructor,
    /// it is cheap, and usable until the thread ends.
    static CURRENT: Cell<*const ThreadCache> = const { Cell::new(&raw const NONE) };
}

/// Returns the cache of this thread in the pool that it used last.
///
/// # Safety
/// The result is not used after this thread calls [`set_current`] or [`clear_current`], nor after it ends.
#[inline(always)]
pub(super) unsafe fn current<'a>() -> &'a ThreadCache {
    // SAFETY: the caller of `set_current` guarantees that the cache lives until it is replaced or cleared.
    unsafe { &*CURRENT.get() }
}

/// Makes `cache` the current one of this thread.
///
/// # Safety
/// `cache` lives until this thread sets another one or calls [`clear_current`].
pub(super) unsafe fn set_current(cache: *const ThreadCache) {
    CURRENT.set(cache);
}

pub(super) fn clear_current() {
    CURRENT.set(&raw const NONE);
}

impl ThreadCache {
    /// The cache of a thread in the pool of `key`.
    pub(super) fn new(key: Key, flags: u32, shard_hint: usize, sampler: Sampler) -> Self {
        let stats = LocalStats::new(key, flags, sampler);
        Self { stats, shard_hint: shard_hint as u32, bins: Bins::open() }
    }

    /// Whether this is a cache of the pool of `key`, which is not closed.
    #[inline]
    pub(super) fn serves(&self, key: Key) -> bool {
        let state = self.stats.state();
        state & CLOSED == 0 && Key(state).same_pool(key)
    }

    /// Pops a free block of `class` for an allocation of `size` bytes (below 1 MiB), and counts it. `None` if there is
    /// none, or if the slow path has to count it.
    #[inline(always)]
    pub(super) fn pop_counted(&self, class: usize, size: usize) -> Option<usize> {
        self.bins.of(class).pop_if(|| self.stats.count_allocated(size, 0))
    }

    /// Pushes a freed block, of which `size` bytes (below 1 MiB) were requested, and counts it. Returns false if its
    /// bin is full, or if the slow path has to count it; if true, the pool may have been freed.
    #[inline(always)]
    pub(super) fn push_counted(&self, class: usize, block: usize, size: usize) -> bool {
        let Some(freed) = self.stats.freed_with(size, 0) else { return false };
        let pushed = self.bins.of(class).push(block);
        if pushed {
            self.stats.set_freed(freed);
        }
        pushed
    }

    /// As [`ThreadCache::push_counted`] for any block and under any flag. Returns false for a block that is large, of
    /// no bytes, or of another purpose than the counters'.
    pub(super) fn push_tagged(&self, address: usize, tag: Tag) -> bool {
        let is_counted = Key(self.stats.state()).purpose() == tag.key().purpose();
        !tag.is_large()
            && tag.size() > 0
            && is_counted
            && self.push_counted(tag.class(), tag.block_address(address), tag.size())
    }
}

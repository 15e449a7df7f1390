//! The calls without a lock or a shared line: a block from the bins of this thread, or from the cache of large blocks.

use super::block_tag::{Key, Tag};
use super::size_class::{LINE, SMALL_LIMIT, class_of};
use super::state::{PoolInner, pool_of};
use super::thread_cache::current;
use crate::os::pages::GRANULE;

/// Pops a block of `size` bytes (below 1 MiB) aligned to a line. `None` if the slow path has to allocate.
#[inline(always)]
pub(super) fn allocate_small(key: Key, size: usize) -> Option<(usize, Tag)> {
    // SAFETY: no other cache becomes current while this one is used.
    let cache = unsafe { current() };
    // Unequal for another pool, another purpose than the last one, and under any flag.
    if cache.stats.state() != key.0 {
        return None;
    }
    let class = class_of(size);
    let address = cache.pop_counted(class, size)?;
    Some((address, Tag::of_line(key, class, size)))
}

/// Takes a block of at least [`SMALL_LIMIT`] bytes, aligned to a line, from the cache of large blocks of `inner`.
#[inline(never)]
pub(super) fn allocate_large(inner: &PoolInner, key: Key, size: usize) -> Option<(usize, Tag)> {
    debug_assert!(size >= SMALL_LIMIT);
    // SAFETY: as in `allocate_small`.
    let cache = unsafe { current() };
    if cache.stats.state() != key.0 {
        return None;
    }
    let hint = cache.shard_hint as usize;
    let span = inner.large.take_cached(size.div_ceil(GRANULE), LINE, hint)?;
    inner.after_report(cache.stats.count_large_allocated(size, &inner.live));
    Some((span.address, Tag::large(key, size, LINE, span.granules)))
}

/// Caches a freed block. Returns false if the slow path has to free it; if true, the pool may have been freed.
///
/// # Safety
/// The block of `address` and `tag` is no longer used; it came from the pool that `tag` names.
#[inline(always)]
pub(super) unsafe fn free(address: usize, tag: Tag) -> bool {
    // SAFETY: as in `allocate_small`.
    let cache = unsafe { current() };
    let state = cache.stats.state();
    if tag.small_key() == state {
        return cache.push_counted(tag.class(), tag.block_address(address), tag.small_size());
    }
    // SAFETY: guaranteed by the caller; the equal key shows that the current cache belongs to the pool of the block.
    tag.large_key() == state && unsafe { free_large(address, tag) }
}

/// As [`free`], of a large block.
///
/// # Safety
/// As [`free`], and the current cache belongs to the pool of the block.
#[inline(never)]
unsafe fn free_large(address: usize, tag: Tag) -> bool {
    // SAFETY: as in `allocate_small`.
    let cache = unsafe { current() };
    // SAFETY: the block is alive, so its pool is.
    let inner = unsafe { pool_of(tag) };
    // SAFETY: as above, and the end of the block is counted after the last use.
    let inner = unsafe { inner.as_ref() };
    if !inner.large.cache(address, tag.granules(), cache.shard_hint as usize) {
        return false;
    }
    let (bytes, crossed_limit) = cache.stats.count_large_freed(tag.size(), &inner.live);
    inner.after_report(crossed_limit);
    cache.stats.end_large(bytes, tag.key().purpose());
    true
}

//! The calls that the fast path does not serve: empty bins, other alignments, large blocks, and observed pools.

use std::panic::Location;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Purpose;
use super::arena::Span;
use super::block_tag::{SIZE_LIMIT, Tag};
use super::observer::{AllocationEvent, DeallocationEvent, LatencyKind, Recording};
use super::sampling;
use super::size_class::{LINE, class_of};
use super::state::{PoolInner, lock_table, pool_of, take_if_unused};
use super::usage::is_small;
use crate::error::Error;

/// The largest alignment served.
const MAX_ALIGN: usize = 2 << 20;

#[derive(Debug, Clone, Copy)]
pub(in crate::memory) struct Block {
    pub(super) address: usize,
    pub(super) tag: Tag,
    /// How many of its bytes, from the start, may not be zero.
    pub(in crate::memory) used_bytes: usize,
}

impl PoolInner {
    /// Allocates, counts and records a block. If none is available it purges free memory and retries, then runs
    /// callbacks that may free some and retries once more.
    ///
    /// # Errors
    /// [`Error::BadAlignment`], [`Error::SizeOverflow`], [`Error::OutOfMemory`].
    #[cold]
    pub(in crate::memory) fn allocate(
        &self,
        size: usize,
        align: usize,
        purpose: Purpose,
        site: &'static Location<'static>,
    ) -> Result<Block, Error> {
        if !align.is_power_of_two() || align > MAX_ALIGN {
            return Err(Error::BadAlignment { align });
        }
        if size > isize::MAX as usize - MAX_ALIGN {
            return Err(Error::SizeOverflow { what: "allocation" });
        }
        let attempt = || self.try_allocate(size, align, purpose, site);
        let after_purge = || {
            self.purge_all();
            attempt()
        };
        let block = if size as u64 >= SIZE_LIMIT {
            None
        } else {
            attempt()
                .or_else(after_purge)
                .or_else(|| self.about_to_fail(size, align).then(after_purge).flatten())
        };
        block.ok_or_else(|| {
            self.observer.failed(size);
            self.refusal(size, align)
        })
    }

    /// One attempt of [`PoolInner::allocate`], with its record and its report of usage.
    fn try_allocate(
        &self,
        size: usize,
        align: usize,
        purpose: Purpose,
        site: &'static Location<'static>,
    ) -> Option<Block> {
        let is_recorded = match (self.recording, self.cache()) {
            (Recording::Off, _) => false,
            (Recording::Sampled, Some(cache)) => cache.stats.sample(size),
            (Recording::Sampled, None) => sampling::picks(size),
            (Recording::All, _) => true,
        };
        let clock = self.start_clock();
        let (mut block, usage_changed) = self.find_block(size, align, purpose)?;
        if let Some(start) = clock {
            self.observer.latency(LatencyKind::Allocate, start);
        }
        if is_recorded {
            let (address, class_bytes) = (block.address, block.tag.occupied());
            self.observer.allocated(&AllocationEvent { address, size, class_bytes, purpose, site });
            block.tag = block.tag.with_slow_end();
        }
        // Callbacks run last: they see the block among those recorded, and no latency includes them.
        if usage_changed {
            self.report_usage();
        }
        Some(block)
    }

    fn start_clock(&self) -> Option<Instant> {
        if self.recording == Recording::All { self.observer.start_clock() } else { None }
    }

    /// Takes a block from a bin, a slab, a region or the system, and counts it. Returns it, and whether usage is to be
    /// reported; `None` if the limits or the system refuse.
    fn find_block(&self, size: usize, align: usize, purpose: Purpose) -> Option<(Block, bool)> {
        let (align, key) = (align.max(LINE), self.key(purpose));
        let mut usage_changed = true;
        let block = if is_small(size, align) {
            // A block of 0 bytes has a unique address too.
            let class = class_of(size.max(1) + align - LINE);
            let (address, from_slab) = self.take_small(class)?;
            usage_changed = from_slab;
            let aligned = address.next_multiple_of(align);
            let tag = Tag::small(key, class, size, align, aligned - address);
            Block { address: aligned, tag, used_bytes: size }
        } else {
            let span = self.large.allocate(size, align, &self.pages)?;
            let Span { address, granules, used_bytes } = span;
            // Weights and activations are written whole. Other blocks may stay unused in part, and huge pages would make
            // all of them resident.
            if matches!(purpose, Purpose::Weights | Purpose::Activations) {
                self.pages.advise_huge(address, size);
            }
            let tag = Tag::large(key, size, align, granules);
            let tag = if self.watches_usage { tag.with_slow_end() } else { tag };
            Block { address, tag, used_bytes }
        };
        let was_reported = self.count_allocation(size, purpose);
        Some((block, usage_changed || was_reported))
    }

    /// Takes a free block of `class`. Returns it, and whether this thread had none.
    fn take_small(&self, class: usize) -> Option<(usize, bool)> {
        let Some(cache) = self.cache() else {
            let mut block = [0];
            let got = self.small.take(class, &mut block, &self.pages) == 1;
            return got.then_some((block[0], true));
        };
        if let Some(block) = cache.bins.take(class) {
            return Some((block, false));
        }
        Some((cache.bins.refill_and_take(class, &self.small, &self.pages)?, true))
    }

    /// Counts an allocation. Returns whether live bytes were reported.
    fn count_allocation(&self, size: usize, purpose: Purpose) -> bool {
        match self.cache() {
            Some(cache) => {
                let crossed_limit = cache.stats.count_allocation(size, purpose, &self.live);
                if crossed_limit == Some(true) {
                    self.crossed_threshold();
                }
                crossed_limit.is_some()
            }
            None => {
                self.uncached.live[purpose.index()].fetch_add(size as i64, Ordering::Relaxed);
                self.uncached.allocations.fetch_add(1, Ordering::Release);
                self.live.change(size as i64, size as i64);
                false
            }
        }
    }

    /// Acts on the report of live bytes that counting a block returned. Callbacks may run: the caller holds no lock,
    /// and uses no cache that a callback might detach.
    pub(super) fn after_report(&self, crossed_limit: Option<bool>) {
        let Some(crossed) = crossed_limit else { return };
        if crossed {
            self.crossed_threshold();
        }
        self.report_usage();
    }

    /// Frees a block.
    ///
    /// # Safety
    /// The block of `address` and `tag` came from the pool that `tag` names, and is no longer used.
    #[cold]
    pub(super) unsafe fn free(address: usize, tag: Tag) {
        // SAFETY: the block is alive.
        let inner = unsafe { pool_of(tag) };
        // SAFETY: as above.
        let state = unsafe { inner.as_ref() };
        let Some(cache) = state.is_open().then(|| state.cache()).flatten() else {
            // SAFETY: the caller guarantees the same.
            return unsafe { Self::free_past_caches(inner, address, tag) };
        };
        state.record_end(address, tag);
        let clock = state.start_clock();
        // The pool may have been freed when this returns true.
        if clock.is_none() && cache.push_tagged(address, tag) {
            return;
        }
        if tag.is_large() {
            state.return_block(address, tag);
        } else {
            cache.bins.push_or_spill(tag.class(), tag.block_address(address), &state.small);
        }
        if let Some(start) = clock {
            state.observer.latency(LatencyKind::Deallocate, start);
        }
        let (size, purpose) = (tag.size(), tag.key().purpose());
        state.after_report(cache.stats.count_bytes_freed(size, purpose, &state.live));
        if tag.is_large() {
            state.report_usage();
        }
        cache.stats.count_deallocation();
    }

    /// As [`PoolInner::free`], past the caches of threads.
    ///
    /// # Safety
    /// As [`PoolInner::free`], and `inner` is the pool of the block.
    pub(super) unsafe fn free_past_caches(inner: NonNull<Self>, address: usize, tag: Tag) {
        // SAFETY: the block is alive, so the pool is.
        let state = unsafe { inner.as_ref() };
        state.record_end(address, tag);
        // Under the lock, because the pool may be closed: the thread that then counts the last block ends it.
        let mut table = lock_table();
        state.return_block(address, tag);
        state.count_uncached_free(tag.size(), tag.key().purpose());
        let ended = take_if_unused(inner, &mut table);
        drop(table);
        drop(ended);
    }

    fn record_end(&self, address: usize, tag: Tag) {
        if self.recording != Recording::Off && tag.has_slow_end() {
            let (size, class_bytes, purpose) = (tag.size(), tag.occupied(), tag.key().purpose());
            self.observer.freed(&DeallocationEvent { address, size, class_bytes, purpose });
        }
    }

    fn return_block(&self, address: usize, tag: Tag) {
        if tag.is_large() {
            self.large.free(address, tag.granules(), &self.pages);
        } else {
            self.small.free(tag.class(), &[tag.block_address(address)]);
        }
    }

    fn count_uncached_free(&self, size: usize, purpose: Purpose) {
        self.uncached.live[purpose.index()].fetch_sub(size as i64, Ordering::Relaxed);
        self.live.change(-(size as i64), 0);
        self.uncached.deallocations.fetch_add(1, Ordering::Release);
    }
}

//! Returning free memory to the system, and draining sparse memory so that more becomes free.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::block_tag::Tag;
use super::discard::past;
use super::state::PoolInner;
use super::thread_cache::DRAIN;

/// Resident bytes released, as reported by the OS: pages that were in memory before and are not afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Released {
    /// With large blocks that had separate mappings: cached ones, and those of compressed tensors.
    pub separate_mappings: usize,
    /// With unused regions and free spans of blocks of 1 MiB and more.
    pub regions: usize,
    /// With unused regions and free slabs of blocks below 1 MiB.
    pub slabs: usize,
}

impl Released {
    /// The sum.
    pub fn total(&self) -> usize {
        self.separate_mappings + self.regions + self.slabs
    }

    pub(in crate::memory) fn add(&mut self, other: Self) {
        self.separate_mappings += other.separate_mappings;
        self.regions += other.regions;
        self.slabs += other.slabs;
    }
}

impl PoolInner {
    /// Returns free memory to the system until the deadline. Other threads return their bins to the slabs at their next
    /// call; the next purge then releases those pages.
    pub(in crate::memory) fn purge(&self, deadline: Option<Instant>) -> Released {
        self.drain_bins();
        self.small.flush(deadline);
        let separate_mappings = self.large.flush(&self.pages, deadline);
        let mut released = Released { separate_mappings, ..Released::default() };
        let more = || !past(deadline);
        if more() {
            released.regions = self.large.arena().release(self.keep_large, &self.pages, &more);
        }
        if more() {
            released.slabs = self.small.arena().release(self.keep_small, &self.pages, &more);
        }
        released
    }

    /// As [`PoolInner::purge`], including the initial bytes.
    pub(super) fn purge_all(&self) {
        self.purge(None);
        self.large.arena().release(0, &self.pages, &|| true);
        self.small.arena().release(0, &self.pages, &|| true);
    }

    /// Begins to drain slabs and regions of which at most `share` is in use: nothing is allocated there any more.
    /// Returns the bytes in use there; `None` while they are being drained already.
    pub(in crate::memory) fn start_draining(
        &self,
        share: f64,
        deadline: Option<Instant>,
    ) -> Option<usize> {
        if self.draining.swap(true, Ordering::SeqCst) {
            return None;
        }
        // Bins must not serve free blocks of sparse memory.
        self.drain_bins();
        self.small.flush(deadline);
        self.large.flush(&self.pages, deadline);
        Some(self.small.start_draining(share) + self.large.arena().start_draining(share))
    }

    /// Ends what [`PoolInner::start_draining`] began.
    pub(in crate::memory) fn stop_draining(&self) {
        self.small.stop_draining();
        self.large.arena().stop_draining();
        self.draining.store(false, Ordering::SeqCst);
    }

    /// Whether the block of `address` and `tag` is in memory that is being drained.
    pub(super) fn is_draining(&self, address: usize, tag: Tag) -> bool {
        if tag.is_large() {
            self.large.arena().is_draining(address)
        } else {
            self.small.is_draining(tag.class(), tag.block_address(address))
        }
    }

    /// Returns the bins of this thread to the slabs, and flags the other threads to do so.
    fn drain_bins(&self) {
        self.raise(DRAIN);
        let _ = self.cache();
    }
}

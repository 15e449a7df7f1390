//! What the books of a pool add up to.

use super::core::Core;
use super::metrics::MemoryMetrics;
use super::size_class::{CLASSES, block_bytes};
use super::thread_cache::{ThreadCache, Totals};
use super::tracking::{ClassFigures, PoolFigures};

impl Core {
    pub(super) fn totals(&self) -> Totals {
        let threads = self.threads();
        let mut sum = threads.departed;
        self.uncached.add_to(&mut sum);
        for cache in &threads.caches {
            cache.add_to(&mut sum);
        }
        sum
    }

    pub(super) fn metrics(&self) -> MemoryMetrics {
        let totals = self.totals();
        let tops: i64 =
            self.threads().caches.iter().map(|cache| cache.unreported_top().max(0)).sum();
        let live = totals.live.iter().sum::<i64>().max(0);
        self.live.raise_peak(live.max(self.live.get().0 + tops));
        MemoryMetrics {
            total_allocated: live as u64,
            peak_allocated: self.live.get().1.max(0) as u64,
            reserved: (self.small.arena().mapped() + self.large.arena().mapped()) as u64,
            allocations: totals.allocations,
            deallocations: totals.deallocations,
        }
    }

    /// Blocks of each class that users have.
    pub(super) fn live_blocks(&self) -> [usize; CLASSES] {
        let threads = self.threads();
        std::array::from_fn(|class| {
            let cached: usize = threads.caches.iter().map(|c| c.free_blocks(class)).sum();
            let free = cached + self.small.waiting_blocks(class);
            self.small.slab_figures(class).out.saturating_sub(free)
        })
    }

    /// What the books say.
    pub(super) fn figures(&self) -> PoolFigures {
        let (metrics, totals, blocks) = (self.metrics(), self.totals(), self.live_blocks());
        let large = self.large.figures();
        let mut classes = Vec::new();
        let mut small_occupied = 0;
        for (class, &live) in blocks.iter().enumerate() {
            let capacity = self.small.slab_figures(class).capacity;
            let block_bytes = block_bytes(class);
            small_occupied += live * block_bytes;
            if capacity > 0 {
                let (live_blocks, capacity_blocks) = (live as u64, capacity as u64);
                let requested = None;
                classes.push(ClassFigures { block_bytes, live_blocks, capacity_blocks, requested });
            }
        }
        let free_large = large.arena.free + large.kept;
        let occupied = small_occupied + large.arena.mapped.saturating_sub(free_large);
        PoolFigures {
            limit: self.limit() as u64,
            mapped: metrics.reserved,
            occupied: occupied as u64,
            requested: metrics.total_allocated,
            peak_requested: metrics.peak_allocated,
            free_kept: metrics.reserved.saturating_sub(occupied as u64),
            largest_free: large.arena.largest_free.max(large.largest_kept) as u64,
            total_free_large: free_large as u64,
            scattered_free_large: large.arena.scattered as u64,
            allocations: metrics.allocations,
            deallocations: metrics.deallocations,
            by_purpose: totals.live.map(|bytes| bytes.max(0) as u64),
            classes,
        }
    }

    /// The bytes that the books of the pool take.
    pub(super) fn own_bytes(&self) -> usize {
        let caches = self.threads().caches.len() * size_of::<ThreadCache>();
        let (small, large) = (self.small.figures(), self.large.figures());
        size_of::<Self>() + caches + small.own_bytes + large.arena.own_bytes
    }

    /// The limit of all blocks together, in bytes.
    pub(super) fn limit(&self) -> usize {
        self.small.arena().limit().saturating_add(self.large.arena().limit())
    }

    /// The address ranges that the pool has mapped.
    pub(super) fn ranges(&self) -> Vec<(usize, usize)> {
        let mut ranges = self.small.arena().ranges();
        ranges.extend(self.large.arena().ranges());
        ranges.extend(self.large.direct_ranges());
        ranges.sort_unstable();
        ranges
    }
}

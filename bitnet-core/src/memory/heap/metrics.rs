//! The metrics of a pool, and how they are summed.

use super::Purpose;
use super::size_class::{CLASSES, block_bytes};
use super::state::PoolInner;
use super::stats::Totals;
use super::thread_cache::ThreadCache;

/// The totals of a pool, in bytes and calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryMetrics {
    /// Bytes requested by live allocations.
    pub total_allocated: u64,
    /// The largest value that `total_allocated` has had: exact while one thread allocates, and within 128 KiB for each
    /// further one (4 MiB for one that allocates blocks of 1 MiB and more).
    pub peak_allocated: u64,
    /// Bytes of address space that the pool has from the system.
    /// Pages in it count as memory only once they are touched.
    pub reserved: u64,
    /// Allocations made so far.
    pub allocations: u64,
    /// Deallocations so far.
    pub deallocations: u64,
}

/// The blocks of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClassFigures {
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Blocks in use.
    pub live_blocks: u64,
    /// Blocks that there is memory for, in use or free.
    pub capacity_blocks: u64,
}

/// The figures of a pool at one moment, in bytes unless stated otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolFigures {
    /// The most that the pool may map.
    pub limit: u64,
    /// Mapped from the system: occupied or free.
    pub mapped: u64,
    /// Occupied by live blocks, rounding included.
    pub occupied: u64,
    /// Requested by live allocations.
    pub requested: u64,
    /// The largest value that `requested` has had.
    pub peak_requested: u64,
    /// Free, but still mapped.
    pub free_mapped: u64,
    /// The largest free piece among the large blocks.
    pub largest_free: u64,
    /// All free pieces among the large blocks.
    pub total_free_large: u64,
    /// Of these, the bytes outside the largest free piece of their region of 64 MiB. An unused region is one piece.
    pub scattered_free_large: u64,
    /// Allocations made so far, in number.
    pub allocations: u64,
    /// Deallocations so far, in number.
    pub deallocations: u64,
    /// Requested by live allocations, for each of [`Purpose::ALL`].
    pub by_purpose: [u64; Purpose::ALL.len()],
    /// The classes that have ever had a block, smallest first.
    pub classes: Vec<ClassFigures>,
}

impl PoolFigures {
    /// The part of the occupied bytes that was not requested:
    /// (occupied - requested) / occupied. 0 if nothing is occupied.
    pub fn internal_fragmentation(&self) -> f64 {
        part(self.occupied.saturating_sub(self.requested), self.occupied)
    }

    /// The part of the free bytes among large blocks that is scattered: `scattered_free_large` / `total_free_large`. 0
    /// if nothing is free, and for an unused pool. Free small blocks don't
    /// count: they serve any request of their class.
    pub fn external_fragmentation(&self) -> f64 {
        part(self.scattered_free_large, self.total_free_large)
    }

    /// The part of the mapped bytes that is lost to either: (occupied - requested + scattered free) / mapped.
    pub fn fragmentation(&self) -> f64 {
        let inside = self.occupied.saturating_sub(self.requested);
        part(inside.saturating_add(self.scattered_free_large), self.mapped)
    }
}

/// `some` of `all`, between 0 and 1.
fn part(some: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { (some as f64 / all as f64).min(1.0) }
}

impl PoolInner {
    /// The sum over all threads.
    pub(in crate::memory) fn totals(&self) -> Totals {
        let threads = self.threads();
        let mut sum = threads.ended;
        self.uncached.add_to(&mut sum);
        for cache in &threads.caches {
            cache.stats.add_to(&mut sum);
        }
        sum
    }

    /// The metrics; raises the peak by the unreported bytes of threads.
    pub(in crate::memory) fn metrics(&self) -> MemoryMetrics {
        let totals = self.totals();
        let tops: i64 =
            self.threads().caches.iter().map(|cache| cache.stats.unreported_top().max(0)).sum();
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

    pub(super) fn live_blocks(&self) -> [usize; CLASSES] {
        let threads = self.threads();
        std::array::from_fn(|class| {
            let cached: usize = threads.caches.iter().map(|c| c.bins.len(class)).sum();
            let free = cached + self.small.waiting_blocks(class);
            self.small.slab_figures(class).out.saturating_sub(free)
        })
    }

    pub(in crate::memory) fn figures(&self) -> PoolFigures {
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
                classes.push(ClassFigures { block_bytes, live_blocks, capacity_blocks });
            }
        }
        let free_large = large.arena.free + large.cached;
        let occupied = small_occupied + large.arena.mapped.saturating_sub(free_large);
        PoolFigures {
            limit: self.limit() as u64,
            mapped: metrics.reserved,
            occupied: occupied as u64,
            requested: metrics.total_allocated,
            peak_requested: metrics.peak_allocated,
            free_mapped: metrics.reserved.saturating_sub(occupied as u64),
            largest_free: large.arena.largest_free.max(large.largest_cached) as u64,
            total_free_large: free_large as u64,
            scattered_free_large: large.arena.scattered as u64,
            allocations: metrics.allocations,
            deallocations: metrics.deallocations,
            by_purpose: totals.live.map(|bytes| bytes.max(0) as u64),
            classes,
        }
    }

    pub(in crate::memory) fn metadata_bytes(&self) -> usize {
        let caches = self.threads().caches.len() * size_of::<ThreadCache>();
        let (small, large) = (self.small.figures(), self.large.figures());
        size_of::<Self>() + caches + small.metadata_bytes + large.arena.metadata_bytes
    }

    /// The limit of all blocks together, in bytes.
    fn limit(&self) -> usize {
        self.small.arena().limit().saturating_add(self.large.arena().limit())
    }

    /// The address ranges that the pool has mapped.
    pub(in crate::memory) fn ranges(&self) -> Vec<(usize, usize)> {
        let mut ranges = self.small.arena().ranges();
        ranges.extend(self.large.arena().ranges());
        ranges.extend(self.large.direct_ranges());
        ranges.sort_unstable();
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragmentation_is_as_defined() {
        let figures = PoolFigures {
            mapped: 1000,
            occupied: 400,
            requested: 300,
            free_mapped: 600,
            total_free_large: 500,
            largest_free: 150,
            scattered_free_large: 300,
            ..PoolFigures::default()
        };
        assert_eq!(figures.internal_fragmentation(), 0.25);
        assert_eq!(figures.external_fragmentation(), 0.6);
        assert_eq!(figures.fragmentation(), 0.4);
    }

    #[test]
    fn fragmentation_of_inconsistent_figures_stays_between_0_and_1() {
        let empty = PoolFigures::default();
        let inconsistent = PoolFigures {
            requested: 10,
            occupied: 5,
            largest_free: u64::MAX,
            scattered_free_large: u64::MAX,
            total_free_large: u64::MAX,
            mapped: 1,
            ..PoolFigures::default()
        };
        for figures in [empty, inconsistent] {
            for value in [
                figures.internal_fragmentation(),
                figures.external_fragmentation(),
                figures.fragmentation(),
            ] {
                assert!((0.0..=1.0).contains(&value));
            }
        }
    }
}

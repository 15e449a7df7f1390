//! The figures that a pool's own books hold, and what follows from them.

use crate::memory::Purpose;

/// The blocks of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClassFigures {
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Blocks in use.
    pub live_blocks: u64,
    /// Blocks that there is memory for, in use or free.
    pub capacity_blocks: u64,
    /// Bytes asked for by the blocks in use, if the pool counts them by class.
    pub requested: Option<u64>,
}

/// What a pool's own books say at one moment. Every field is in bytes unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolFigures {
    /// The most that the pool may map.
    pub limit: u64,
    /// Mapped from the system: occupied or free.
    pub mapped: u64,
    /// Occupied by live blocks, rounding included.
    pub occupied: u64,
    /// Asked for by live allocations.
    pub requested: u64,
    /// The largest value that `requested` has had.
    pub peak_requested: u64,
    /// Free, but kept for later.
    pub free_kept: u64,
    /// The largest free piece among the large blocks.
    pub largest_free: u64,
    /// All free pieces among the large blocks.
    pub total_free_large: u64,
    /// Of these, what is not in the largest free piece of its region of 64 MiB. A region in which nothing lives is one piece.
    pub scattered_free_large: u64,
    /// Allocations made so far, in number.
    pub allocations: u64,
    /// Allocations given back so far, in number.
    pub deallocations: u64,
    /// Asked for by live allocations, for each of [`Purpose::ALL`].
    pub by_purpose: [u64; Purpose::ALL.len()],
    /// The classes that have ever had a block, smallest first.
    pub classes: Vec<ClassFigures>,
}

impl PoolFigures {
    /// The part of the occupied bytes that nobody asked for: (occupied - requested) / occupied. 0 if nothing is occupied.
    pub fn internal_fragmentation(&self) -> f64 {
        part(self.occupied.saturating_sub(self.requested), self.occupied)
    }

    /// The part of the free bytes among large blocks that is scattered: `scattered_free_large` / `total_free_large`. 0 if nothing
    /// is free, and for a pool that nobody has used. Free small blocks don't count: they serve any request of their class.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragmentation_is_as_defined() {
        let figures = PoolFigures {
            mapped: 1000,
            occupied: 400,
            requested: 300,
            free_kept: 600,
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
    fn an_empty_pool_and_books_that_disagree_stay_between_0_and_1() {
        let empty = PoolFigures::default();
        let torn = PoolFigures {
            requested: 10,
            occupied: 5,
            largest_free: u64::MAX,
            scattered_free_large: u64::MAX,
            total_free_large: u64::MAX,
            mapped: 1,
            ..PoolFigures::default()
        };
        for figures in [empty, torn] {
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

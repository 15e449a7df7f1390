//! A buddy allocator: which granules of a region are free. It owns no memory and touches none.
//!
//! A free block of order k is 2^k granules long and starts at a multiple of its length. A request takes the smallest
//! free block that holds it, split as far as needed, and frees the unneeded tail, down to a single granule. A freed
//! block merges with its buddy (the block whose number differs in the lowest bit) while that is free too. Free blocks
//! are bits, one set for each order: each step reads a few words, however many blocks there are.

use super::bitmap::Bitmap;

/// The largest order: 2^14 granules of 4 KiB are 64 MiB.
pub(super) const MAX_ORDER: usize = 14;

/// Which granules of a region are free.
#[derive(Debug)]
pub(super) struct Buddy {
    /// Free blocks of each order, by start >> order.
    free: [Bitmap; MAX_ORDER + 1],
    /// Bit k: there is a free block of order k.
    orders: u32,
    granules: usize,
    free_granules: usize,
}

impl Buddy {
    /// A region of `granules` (1 to 2^[`MAX_ORDER`]) that are all free.
    pub(super) fn new(granules: usize) -> Self {
        let free = std::array::from_fn(|order| Bitmap::new((granules >> order) + 1));
        let mut buddy = Self { free, orders: 0, granules, free_granules: 0 };
        buddy.free(0, granules);
        buddy
    }

    /// The smallest order whose blocks hold `granules` and are aligned to `align` granules.
    pub(super) fn order_for(granules: usize, align: usize) -> usize {
        granules.max(align).max(1).next_power_of_two().trailing_zeros() as usize
    }

    /// Allocates `granules` at a multiple of `align`. Returns the first of them.
    pub(super) fn allocate(&mut self, granules: usize, align: usize) -> Option<usize> {
        let order = Self::order_for(granules, align);
        let usable = self.orders.checked_shr(order as u32)?;
        if order > MAX_ORDER || usable == 0 {
            return None;
        }
        let found = order + usable.trailing_zeros() as usize;
        let start = self.free[found].first()? << found;
        self.mark_used(start, found);
        self.free(start + granules, (1 << found) - granules);
        Some(start)
    }

    /// Frees `granules` from `start` on.
    pub(super) fn free(&mut self, start: usize, granules: usize) {
        let (mut at, end) = (start, start + granules);
        while at < end {
            let aligned = if at == 0 { MAX_ORDER } else { at.trailing_zeros() as usize };
            let order = aligned.min((end - at).ilog2() as usize).min(MAX_ORDER);
            self.free_block(at, order);
            at += 1 << order;
        }
    }

    fn free_block(&mut self, start: usize, order: usize) {
        self.free_granules += 1 << order;
        let (mut start, mut order) = (start, order);
        while order < MAX_ORDER {
            let buddy = start ^ (1 << order);
            if !self.free[order].contains(buddy >> order) {
                break;
            }
            self.free[order].remove(buddy >> order);
            self.update_orders(order);
            start &= !(1 << order);
            order += 1;
        }
        self.free[order].insert(start >> order);
        self.orders |= 1 << order;
    }

    fn mark_used(&mut self, start: usize, order: usize) {
        self.free[order].remove(start >> order);
        self.update_orders(order);
        self.free_granules -= 1 << order;
    }

    fn update_orders(&mut self, order: usize) {
        if self.free[order].is_empty() {
            self.orders &= !(1 << order);
        }
    }

    /// Bit k: there is a free block of order k.
    pub(super) fn orders(&self) -> u32 {
        self.orders
    }

    pub(super) fn granules(&self) -> usize {
        self.granules
    }

    pub(super) fn free_granules(&self) -> usize {
        self.free_granules
    }

    pub(super) fn is_unused(&self) -> bool {
        self.free_granules == self.granules
    }

    pub(super) fn largest_free(&self) -> usize {
        self.orders.checked_ilog2().map_or(0, |order| 1 << order)
    }

    /// The free blocks of at least `min_order`, as (start, granules).
    pub(super) fn free_blocks(&self, min_order: usize) -> Vec<(usize, usize)> {
        (min_order..=MAX_ORDER)
            .flat_map(|order| self.free[order].iter().map(move |at| (at << order, 1 << order)))
            .collect()
    }

    /// Allocates exactly the free block at `start` of `granules`. Returns false if it is no longer free as such.
    pub(super) fn take_block(&mut self, start: usize, granules: usize) -> bool {
        let order = granules.trailing_zeros() as usize;
        let is_free = self.free[order].contains(start >> order);
        if is_free {
            self.mark_used(start, order);
        }
        is_free
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        size_of::<Self>() + self.free.iter().map(Bitmap::metadata_bytes).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn freed_blocks_coalesce() {
        let mut buddy = Buddy::new(1 << MAX_ORDER);
        let mut taken = Vec::new();
        while let Some(start) = buddy.allocate(257, 1) {
            taken.push(start);
        }
        // Each takes 257 of 512 granules; the tails of 255 can't hold another.
        assert_eq!(taken.len(), 32);
        assert_eq!(buddy.free_granules(), 32 * 255);
        assert_eq!(buddy.largest_free(), 128);
        for start in taken.into_iter().rev() {
            buddy.free(start, 257);
        }
        assert!(buddy.is_unused());
        assert_eq!(buddy.free_blocks(0), [(0, 1 << MAX_ORDER)]);
    }

    #[test]
    fn regions_of_any_length_are_allocated_whole() {
        for granules in [1, 2, 3, 100, 777, 1 << MAX_ORDER] {
            let mut buddy = Buddy::new(granules);
            assert_eq!(buddy.free_granules(), granules);
            let mut starts: Vec<_> = std::iter::from_fn(|| buddy.allocate(1, 1)).collect();
            starts.sort_unstable();
            assert_eq!(starts, (0..granules).collect::<Vec<_>>());
            buddy.free(0, granules);
            assert!(buddy.is_unused());
            assert_eq!(buddy.allocate((1 << MAX_ORDER) + 1, 1), None);
        }
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_nothing_is_lost(
            steps in prop::collection::vec((1usize..700, 0u32..10, any::<bool>(), any::<prop::sample::Index>()), 1..400)
        ) {
            let len = 3000;
            let mut buddy = Buddy::new(len);
            let mut owner = vec![false; len];
            let mut live: Vec<(usize, usize)> = Vec::new();
            for (granules, align, allocate, pick) in steps {
                if allocate || live.is_empty() {
                    let align = 1 << align;
                    if let Some(start) = buddy.allocate(granules, align) {
                        prop_assert_eq!(start % align, 0);
                        for slot in &mut owner[start..start + granules] {
                            prop_assert!(!*slot);
                            *slot = true;
                        }
                        live.push((start, granules));
                    } else {
                        prop_assert!(buddy.largest_free() < granules.max(align).next_power_of_two());
                    }
                } else {
                    let (start, granules) = live.swap_remove(pick.index(live.len()));
                    owner[start..start + granules].fill(false);
                    buddy.free(start, granules);
                }
                prop_assert_eq!(buddy.free_granules(), owner.iter().filter(|used| !**used).count());
            }
            for (start, granules) in live {
                buddy.free(start, granules);
            }
            prop_assert!(buddy.is_unused());
            prop_assert_eq!(buddy.free_blocks(0).len() as u32, (len as u32).count_ones());
        }
    }
}

//! The free blocks of a thread: a stack of addresses for each class.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::magazine::SLOTS;
use super::size_class::{CLASSES, batch};
use super::small_block::SmallBlockPool;
use crate::os::pages::Pages;

/// Slots of a bin: with its two numbers a bin has 512 bytes, so that indexing is a shift.
const SLOT_COUNT: usize = 63;

/// Free blocks of one class. Only the owning thread changes it; others may read its length.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Bin {
    /// At most `capacity`.
    len: AtomicU32,
    /// At most [`SLOT_COUNT`].
    capacity: u32,
    slots: [AtomicUsize; SLOT_COUNT],
}

impl Bin {
    /// An empty bin of capacity 0.
    const fn closed() -> Self {
        Self {
            len: AtomicU32::new(0),
            capacity: 0,
            slots: [const { AtomicUsize::new(0) }; SLOT_COUNT],
        }
    }

    /// Sets the capacity to two batches of blocks of `class`, but at most [`SLOT_COUNT`].
    fn open(&mut self, class: usize) {
        self.capacity = (2 * batch(class)).min(SLOT_COUNT) as u32;
    }

    /// The number of blocks; exact only for the owning thread.
    #[inline(always)]
    fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed) as usize
    }

    /// Pops the block that was pushed last, if `admit` returns true.
    #[inline(always)]
    pub(super) fn pop_if(&self, admit: impl FnOnce() -> bool) -> Option<usize> {
        let len = self.len.load(Ordering::Relaxed).checked_sub(1)?;
        if !admit() {
            return None;
        }
        self.len.store(len, Ordering::Relaxed);
        Some(self.slot(len).load(Ordering::Relaxed))
    }

    /// Pushes a block. Returns false if the bin is full.
    #[inline(always)]
    pub(super) fn push(&self, block: usize) -> bool {
        let len = self.len.load(Ordering::Relaxed);
        if len >= self.capacity {
            return false;
        }
        self.slot(len).store(block, Ordering::Relaxed);
        self.len.store(len + 1, Ordering::Relaxed);
        true
    }

    #[inline(always)]
    fn slot(&self, at: u32) -> &AtomicUsize {
        // SAFETY: both callers pass less than `capacity`, which `open` bounds by `SLOT_COUNT`.
        unsafe { self.slots.get_unchecked(at as usize) }
    }

    /// Moves the oldest blocks to `out`, a batch of `class` at most. Returns their number.
    fn take_oldest(&self, class: usize, out: &mut [usize; SLOTS]) -> usize {
        let len = self.len();
        let count = len.min(batch(class)).min(SLOTS);
        for (block, slot) in out.iter_mut().zip(&self.slots[..count]) {
            *block = slot.load(Ordering::Relaxed);
        }
        for at in count..len {
            self.slots[at - count].store(self.slots[at].load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.len.store((len - count) as u32, Ordering::Relaxed);
        count
    }
}

#[derive(Debug)]
pub(super) struct Bins([Bin; CLASSES]);

impl Bins {
    /// Bins of capacity 0, for a thread that has no cache.
    pub(super) const fn closed() -> Self {
        Self([const { Bin::closed() }; CLASSES])
    }

    pub(super) fn open() -> Self {
        let mut bins = Self::closed();
        for (class, bin) in bins.0.iter_mut().enumerate() {
            bin.open(class);
        }
        bins
    }

    #[inline(always)]
    pub(super) fn of(&self, class: usize) -> &Bin {
        debug_assert!(class < CLASSES);
        // SAFETY: classes come from `class_of` of less than `SMALL_LIMIT`, or from the tag of a block of such a class.
        unsafe { self.0.get_unchecked(class) }
    }

    /// Pops a free block of `class`, uncounted.
    pub(super) fn take(&self, class: usize) -> Option<usize> {
        self.0[class].pop_if(|| true)
    }

    /// Fetches free blocks of `class` and pops one, uncounted; `None` if the limit or the system refuses.
    pub(super) fn refill_and_take(
        &self,
        class: usize,
        small: &SmallBlockPool,
        pages: &Pages,
    ) -> Option<usize> {
        let mut blocks = [0; SLOTS];
        let got = small.refill(class, &mut blocks, pages);
        let (&last, others) = blocks[..got].split_last()?;
        for &block in others {
            if !self.0[class].push(block) {
                small.free(class, &[block]);
            }
        }
        Some(last)
    }

    /// Pushes a freed block, uncounted; a full bin first spills its oldest blocks, a batch of the class.
    pub(super) fn push_or_spill(&self, class: usize, block: usize, small: &SmallBlockPool) {
        let bin = &self.0[class];
        if bin.push(block) {
            return;
        }
        let mut blocks = [0; SLOTS];
        let count = bin.take_oldest(class, &mut blocks);
        if count > 0 {
            small.spill(class, &blocks[..count]);
        }
        bin.push(block);
    }

    /// Returns all free blocks to their slabs.
    pub(super) fn drain(&self, small: &SmallBlockPool) {
        let mut blocks = [0; SLOTS];
        for (class, bin) in self.0.iter().enumerate() {
            loop {
                let count = bin.take_oldest(class, &mut blocks);
                if count == 0 {
                    break;
                }
                small.free(class, &blocks[..count]);
            }
        }
    }

    /// The number of free blocks of `class`; exact only for the owning thread.
    pub(super) fn len(&self, class: usize) -> usize {
        self.0[class].len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pops_take_the_newest_and_batches_the_oldest() {
        for class in [0, 20, CLASSES - 1] {
            let mut bin = Bin::closed();
            assert!(!bin.push(64) && bin.pop_if(|| true).is_none());
            bin.open(class);
            let count = (1..100).take_while(|&block| bin.push(block)).count();
            assert!(bin.len() == count && (3..=SLOT_COUNT).contains(&count), "{count}");
            assert_eq!(bin.pop_if(|| false), None);
            assert_eq!(bin.pop_if(|| true), Some(count));
            let mut out = [0; SLOTS];
            let oldest = bin.take_oldest(class, &mut out);
            assert_eq!(oldest, batch(class));
            assert!(out[..oldest].iter().copied().eq(1..=oldest));
            let rest: Vec<_> = std::iter::from_fn(|| bin.pop_if(|| true)).collect();
            assert!(rest.iter().copied().eq((oldest + 1..count).rev()));
        }
        assert_eq!(size_of::<Bin>(), if cfg!(target_pointer_width = "64") { 512 } else { 320 });
    }
}

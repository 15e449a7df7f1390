//! Free blocks of one class that a thread keeps for itself: a stack of addresses.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::depot::SLOTS;
use super::size_class::batch;

/// Addresses that there is room for: with the two numbers, a bin is half a KiB, so that it is found by a shift.
const ROOM: usize = 63;

/// Free blocks of one class. Only the thread that it belongs to changes it; others may look how many there are.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Bin {
    /// At most `capacity`.
    len: AtomicU32,
    /// At most [`ROOM`].
    capacity: u32,
    slots: [AtomicUsize; ROOM],
}

impl Bin {
    /// One that holds nothing, and has room for nothing.
    pub(super) const fn closed() -> Self {
        Self { len: AtomicU32::new(0), capacity: 0, slots: [const { AtomicUsize::new(0) }; ROOM] }
    }

    /// Makes room for two batches of blocks of `class`, as far as there is any.
    pub(super) fn open(&mut self, class: usize) {
        self.capacity = (2 * batch(class)).min(ROOM) as u32;
    }

    /// How many there are; only the thread itself knows it for certain.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed) as usize
    }

    /// Takes the block that came last, if `admit` lets it go.
    #[inline(always)]
    pub(super) fn take_if(&self, admit: impl FnOnce() -> bool) -> Option<usize> {
        let len = self.len.load(Ordering::Relaxed).checked_sub(1)?;
        if !admit() {
            return None;
        }
        self.len.store(len, Ordering::Relaxed);
        Some(self.slot(len).load(Ordering::Relaxed))
    }

    /// Puts a block on top; false if there are enough.
    #[inline(always)]
    pub(super) fn put(&self, block: usize) -> bool {
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
        // SAFETY: both callers pass less than `capacity`, which `open` keeps to `ROOM`.
        unsafe { self.slots.get_unchecked(at as usize) }
    }

    /// Takes the oldest blocks out, a batch of `class` at most; how many there are.
    pub(super) fn take_oldest(&self, class: usize, out: &mut [usize; SLOTS]) -> usize {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::size_class::CLASSES;

    #[test]
    fn blocks_leave_from_the_top_and_batches_from_the_bottom() {
        for class in [0, 20, CLASSES - 1] {
            let mut bin = Bin::closed();
            assert!(!bin.put(64) && bin.take_if(|| true).is_none());
            bin.open(class);
            let count = (1..100).take_while(|&block| bin.put(block)).count();
            assert!(bin.len() == count && (3..=ROOM).contains(&count), "{count}");
            assert_eq!(bin.take_if(|| false), None);
            assert_eq!(bin.take_if(|| true), Some(count));
            let mut out = [0; SLOTS];
            let oldest = bin.take_oldest(class, &mut out);
            assert_eq!(oldest, batch(class));
            assert!(out[..oldest].iter().copied().eq(1..=oldest));
            let rest: Vec<_> = std::iter::from_fn(|| bin.take_if(|| true)).collect();
            assert!(rest.iter().copied().eq((oldest + 1..count).rev()));
        }
        assert_eq!(size_of::<Bin>(), if cfg!(target_pointer_width = "64") { 512 } else { 320 });
    }
}

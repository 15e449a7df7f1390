//! What a thread keeps of a pool for itself: a few free blocks of each class, and its part of the accounts.
//!
//! Only the thread that a cache belongs to changes it, so its numbers are read and written without locked instructions.
//! They are atomics all the same, because others read them: the accounts of a pool are the sum over its caches.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::Purpose;
use super::depot::SLOTS;
use super::size_class::{CLASSES, SMALL_LIMIT, batch};
use super::small_block::SmallBlockPool;
use super::system::Pages;

/// The pool is closed: its last owner is gone, though blocks are alive.
pub(super) const CLOSED: u8 = 1;
/// The thread is asked to return its free blocks.
pub(super) const FLUSH: u8 = 2;
/// Allocations are to be told to the tracker.
pub(super) const TRACKED: u8 = 4;

/// How far, in bytes, a thread's part of the live bytes may stray from what the pool knows of it.
const UNREPORTED: i64 = 128 << 10;
/// As [`UNREPORTED`], while the thread allocates blocks of 1 MiB and more.
const UNREPORTED_LARGE: i64 = 4 << 20;

/// Free blocks of one class.
#[derive(Debug)]
struct Bin {
    len: AtomicU32,
    /// Twice the batch of the class.
    capacity: u32,
    slots: [AtomicUsize; 2 * SLOTS],
}

/// A part of the accounts of a pool.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) allocations: AtomicU64,
    pub(super) deallocations: AtomicU64,
    /// Bytes asked for less bytes given back, for each purpose; what others allocated may be given back here, so a part
    /// may be below zero.
    pub(super) live: [AtomicI64; Purpose::ALL.len()],
}

impl Counts {
    /// Adds these counts to `sum`.
    pub(super) fn add_to(&self, sum: &mut Totals) {
        sum.allocations += self.allocations.load(Ordering::Acquire);
        // Acquire: whoever sees that the last block came back sees all that was done to it.
        sum.deallocations += self.deallocations.load(Ordering::Acquire);
        for (sum, live) in sum.live.iter_mut().zip(&self.live) {
            *sum += live.load(Ordering::Relaxed);
        }
    }
}

/// The accounts of a pool, summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) allocations: u64,
    pub(super) deallocations: u64,
    pub(super) live: [i64; Purpose::ALL.len()],
}

/// What one thread keeps of one pool.
///
/// Lines are fetched in pairs, so that what one thread writes is kept 128 bytes from what others use.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct ThreadCache {
    /// [`CLOSED`], [`FLUSH`] and [`TRACKED`]; anything but 0 leads to the slow path.
    pub(super) attention: AtomicU8,
    /// Where among the recent blocks this thread looks first.
    pub(super) place: usize,
    pub(super) counts: Counts,
    /// Live bytes of this thread that the pool does not know of yet.
    unreported: AtomicI64,
    /// The largest value of `unreported` since it was last reported.
    top: AtomicI64,
    bins: [Bin; CLASSES],
}

impl ThreadCache {
    pub(super) fn new(attention: u8, place: usize) -> Self {
        Self {
            attention: AtomicU8::new(attention),
            place,
            counts: Counts::default(),
            unreported: AtomicI64::new(0),
            top: AtomicI64::new(0),
            bins: std::array::from_fn(|class| Bin {
                len: AtomicU32::new(0),
                capacity: 2 * batch(class) as u32,
                slots: std::array::from_fn(|_| AtomicUsize::new(0)),
            }),
        }
    }

    /// Takes a free block of `class`.
    #[inline(always)]
    pub(super) fn take(&self, class: usize) -> Option<usize> {
        let bin = &self.bins[class];
        let len = bin.len.load(Ordering::Relaxed).checked_sub(1)?;
        bin.len.store(len, Ordering::Relaxed);
        Some(bin.slots[len as usize % (2 * SLOTS)].load(Ordering::Relaxed))
    }

    /// Takes a block that became free; false if there are enough of them.
    #[inline(always)]
    pub(super) fn put(&self, class: usize, address: usize) -> bool {
        let bin = &self.bins[class];
        let len = bin.len.load(Ordering::Relaxed);
        if len >= bin.capacity {
            return false;
        }
        bin.slots[len as usize % (2 * SLOTS)].store(address, Ordering::Relaxed);
        bin.len.store(len + 1, Ordering::Relaxed);
        true
    }

    /// Takes a free block of `class` after getting some more.
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
            if !self.put(class, block) {
                small.put(class, &[block]);
            }
        }
        Some(last)
    }

    /// Passes the older half of the free blocks of `class` on.
    pub(super) fn spill(&self, class: usize, small: &SmallBlockPool) {
        let bin = &self.bins[class];
        let len = bin.len.load(Ordering::Relaxed) as usize;
        let count = len.min(batch(class));
        let mut blocks = [0; SLOTS];
        for (block, slot) in blocks.iter_mut().zip(&bin.slots[..count]) {
            *block = slot.load(Ordering::Relaxed);
        }
        for at in count..len {
            bin.slots[at - count].store(bin.slots[at].load(Ordering::Relaxed), Ordering::Relaxed);
        }
        bin.len.store((len - count) as u32, Ordering::Relaxed);
        if count > 0 {
            small.give(class, &blocks[..count]);
        }
    }

    /// Returns all free blocks to their slabs.
    pub(super) fn flush(&self, small: &SmallBlockPool) {
        for (class, bin) in self.bins.iter().enumerate() {
            let len = bin.len.swap(0, Ordering::Relaxed) as usize;
            if len > 0 {
                let mut blocks = [0; 2 * SLOTS];
                for (block, slot) in blocks.iter_mut().zip(&bin.slots[..len]) {
                    *block = slot.load(Ordering::Relaxed);
                }
                small.put(class, &blocks[..len]);
            }
        }
    }

    /// How many free blocks of `class` there are; only the thread itself knows it for certain.
    pub(super) fn free_blocks(&self, class: usize) -> usize {
        self.bins[class].len.load(Ordering::Relaxed) as usize
    }

    /// Notes an allocation. True if the pool is to be told: [`ThreadCache::report`].
    #[inline(always)]
    pub(super) fn count_allocation(&self, size: usize, purpose: Purpose) -> bool {
        add(&self.counts.live[purpose.index()], size as i64);
        let unreported = add(&self.unreported, size as i64);
        if unreported > self.top.load(Ordering::Relaxed) {
            self.top.store(unreported, Ordering::Relaxed);
        }
        let allocations = self.counts.allocations.load(Ordering::Relaxed);
        self.counts.allocations.store(allocations + 1, Ordering::Relaxed);
        unreported > bound(size)
    }

    /// Notes the bytes of a block that came back. True if the pool is to be told: [`ThreadCache::report`].
    #[inline(always)]
    pub(super) fn count_bytes_back(&self, size: usize, purpose: Purpose) -> bool {
        add(&self.counts.live[purpose.index()], -(size as i64));
        add(&self.unreported, -(size as i64)) < -bound(size)
    }

    /// Notes that a block came back. It is the last thing that is done for it: from here on the pool may be gone.
    #[inline(always)]
    pub(super) fn count_deallocation(&self) {
        let deallocations = self.counts.deallocations.load(Ordering::Relaxed);
        self.counts.deallocations.store(deallocations + 1, Ordering::Release);
    }

    /// Tells the pool of the live bytes; whether they are above their mark.
    #[inline]
    pub(super) fn report(&self, live: &LiveBytes) -> bool {
        let unreported = self.unreported.load(Ordering::Relaxed);
        let top = self.top.load(Ordering::Relaxed);
        self.unreported.store(0, Ordering::Relaxed);
        self.top.store(0, Ordering::Relaxed);
        live.change(unreported, top)
    }

    /// The largest number of live bytes that the pool has not been told of.
    pub(super) fn unreported_top(&self) -> i64 {
        self.top.load(Ordering::Relaxed)
    }
}

#[inline(always)]
fn bound(size: usize) -> i64 {
    if size < SMALL_LIMIT { UNREPORTED } else { UNREPORTED_LARGE }
}

#[inline(always)]
fn add(number: &AtomicI64, more: i64) -> i64 {
    let sum = number.load(Ordering::Relaxed).wrapping_add(more);
    number.store(sum, Ordering::Relaxed);
    sum
}

/// The live bytes of a pool as its threads report them, and their peak.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct LiveBytes {
    reported: AtomicI64,
    peak: AtomicI64,
    /// Above so many, someone wants to be told.
    mark: AtomicI64,
}

impl Default for LiveBytes {
    fn default() -> Self {
        let mark = AtomicI64::new(i64::MAX);
        Self { reported: AtomicI64::new(0), peak: AtomicI64::new(0), mark }
    }
}

impl LiveBytes {
    /// Adds `bytes`, on the way to which there were up to `top` more than before; whether there are more than the mark.
    pub(super) fn change(&self, bytes: i64, top: i64) -> bool {
        let before = self.reported.fetch_add(bytes, Ordering::Relaxed);
        self.raise_peak(before + top.max(bytes));
        before + bytes > self.mark.load(Ordering::Relaxed)
    }

    /// Sets the mark; `i64::MAX` is none.
    pub(super) fn set_mark(&self, bytes: i64) {
        self.mark.store(bytes, Ordering::Relaxed);
    }

    /// The bytes reported, and the peak of what was reported.
    pub(super) fn get(&self) -> (i64, i64) {
        (self.reported.load(Ordering::Relaxed), self.peak.load(Ordering::Relaxed))
    }

    /// Raises the peak to at least `bytes`.
    pub(super) fn raise_peak(&self, bytes: i64) {
        if bytes > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(bytes, Ordering::Relaxed);
        }
    }
}

//! What a thread keeps of a pool for itself: a few free blocks of each class, and its part of the accounts.
//!
//! Only the thread that a cache belongs to changes it, so its numbers are read and written without locked instructions.
//! They are atomics all the same, because others read them: the accounts of a pool are the sum over its caches.
//!
//! The calls of the fast path are counted in two words, one for what was taken and one for what was given back, each with
//! the number of blocks in its upper half and their bytes in its lower: a word that is only added to does not wait for the
//! other. All that they count is of one purpose. Before another one is counted they are folded into [`Counts`]. A fold holds a
//! lock that readers take too: a reader waits for the fold that is under way, and what it reads always belongs together. The
//! fast path takes no lock, because each of its stores changes one word, from one consistent state to the next.
//!
//! In a child that `fork` makes of a process with several threads, a lock that another thread held at that moment is never
//! released. Such a child must not use pools: a fold, or a sum over all threads, could wait for ever.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Purpose;
use super::bin::Bin;
use super::depot::SLOTS;
use super::size_class::{CLASSES, SMALL_LIMIT};
use super::small_block::SmallBlockPool;
use super::system::Pages;
use super::tag::{Key, Tag};
use super::tracking::Sampler;

/// The pool is closed: its last owner is gone, though blocks are alive.
pub(super) const CLOSED: u32 = 1 << 24;
/// The thread is asked to return its free blocks.
pub(super) const FLUSH: u32 = 1 << 25;
/// Every allocation is to be told to the tracker.
pub(super) const TRACKED: u32 = 1 << 26;

/// How far, in bytes, a thread's part of the live bytes may stray from what the pool knows of it.
const UNREPORTED: i32 = 128 << 10;
/// How much further it may while the thread allocates blocks of 1 MiB and more.
const MORE_UNREPORTED: i32 = (4 << 20) - UNREPORTED;
/// Larger blocks are not counted in the two words.
const COUNTED: usize = 64 << 20;
/// The words are folded before so many bytes are taken.
const FOLD_FROM: u32 = 1 << 30;
/// One block, as the two words count it.
const ONE: u64 = 1 << 32;

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
#[repr(C, align(128))]
pub(super) struct ThreadCache {
    /// The [`Key`] of what the two words count, and [`CLOSED`], [`FLUSH`] and [`TRACKED`]; with one of these it equals no
    /// key, which leads to the slow path.
    state: AtomicU32,
    /// Where among the recent blocks this thread looks first.
    pub(super) place: u32,
    /// Blocks and bytes taken since the last fold.
    taken: AtomicU64,
    /// Blocks and bytes given back since the last fold.
    given: AtomicU64,
    /// The largest difference of bytes taken and given that the pool is not told of, as a difference since the last fold.
    top: AtomicI32,
    /// A difference above this one is reported; it is [`UNREPORTED`] less what the pool does not know since before the last
    /// fold.
    ceiling: AtomicI32,
    /// So many bytes taken lead to the slow path.
    look_at: AtomicU32,
    /// Held while words are folded, and while another thread reads: `counts`, the words and the purpose in `state` then
    /// belong together. Nothing is called under it that could wait.
    folding: Mutex<()>,
    counts: Counts,
    sampler: Sampler,
    bins: [Bin; CLASSES],
}

impl ThreadCache {
    /// That of a thread which has none: its key is that of no pool.
    pub(super) const fn none() -> Self {
        Self {
            state: AtomicU32::new(0),
            place: 0,
            taken: AtomicU64::new(0),
            given: AtomicU64::new(0),
            top: AtomicI32::new(0),
            ceiling: AtomicI32::new(UNREPORTED),
            look_at: AtomicU32::new(0),
            folding: Mutex::new(()),
            counts: Counts {
                allocations: AtomicU64::new(0),
                deallocations: AtomicU64::new(0),
                live: [const { AtomicI64::new(0) }; Purpose::ALL.len()],
            },
            sampler: Sampler::none(),
            bins: [const { Bin::closed() }; CLASSES],
        }
    }

    /// The cache of a thread in the pool of `key`.
    pub(super) fn new(key: Key, attention: u32, place: usize, sampler: Sampler) -> Self {
        let look_at = AtomicU32::new(sampler.look_at().min(FOLD_FROM));
        let mut cache = Self {
            state: AtomicU32::new(key.0 | attention),
            place: place as u32,
            look_at,
            sampler,
            ..Self::none()
        };
        for (class, bin) in cache.bins.iter_mut().enumerate() {
            bin.open(class);
        }
        cache
    }

    /// Equal to a [`Key`] if its blocks may take the fast path here.
    #[inline(always)]
    pub(super) fn state(&self) -> u32 {
        self.state.load(Ordering::Relaxed)
    }

    /// Whether this is a cache of the pool of `key`, which is not closed.
    #[inline]
    pub(super) fn serves(&self, key: Key) -> bool {
        let state = self.state();
        state & CLOSED == 0 && Key(state).same_pool(key)
    }

    /// Asks for the attention of the thread; any thread may.
    pub(super) fn call(&self, attention: u32) {
        self.state.fetch_or(attention, Ordering::SeqCst);
    }

    /// Ends the call for attention; whether there was one.
    pub(super) fn answer(&self, attention: u32) -> bool {
        self.state() & attention != 0
            && self.state.fetch_and(!attention, Ordering::SeqCst) & attention != 0
    }

    /// Takes a free block of `class` for an allocation of `size` bytes (1 to 1 MiB), and counts it. `None` if there is none,
    /// or if the slow path is to count it.
    #[inline(always)]
    pub(super) fn take_counted(&self, class: usize, size: usize) -> Option<usize> {
        self.bin(class).take_if(|| self.count_taken(size, 0))
    }

    /// Takes a block that became free, of which `size` bytes (1 to 1 MiB) were asked for, and counts it. False if there are
    /// enough of its class, or if the slow path is to count it. If it is true, the pool may be gone when this returns.
    #[inline(always)]
    pub(super) fn put_counted(&self, class: usize, block: usize, size: usize) -> bool {
        let Some(given) = self.given_with(size, 0) else { return false };
        let put = self.bin(class).put(block);
        if put {
            self.given.store(given, Ordering::Release);
        }
        put
    }

    /// As [`ThreadCache::put_counted`], for the block of `address` and `tag`, whatever it is and whatever flags are set: false if
    /// it is large, of no bytes, or of another purpose than those counted now.
    pub(super) fn put_back(&self, address: usize, tag: Tag) -> bool {
        let counted = Key(self.state()).purpose() == tag.key().purpose();
        !tag.is_large()
            && tag.size() > 0
            && counted
            && self.put_counted(tag.class(), tag.block_address(address), tag.size())
    }

    #[inline(always)]
    fn bin(&self, class: usize) -> &Bin {
        debug_assert!(class < CLASSES);
        // SAFETY: classes come from `class_of` of less than `SMALL_LIMIT`, or from the tag of a block that had such a one.
        unsafe { self.bins.get_unchecked(class) }
    }

    /// Counts an allocation of 1 to [`COUNTED`] bytes of the purpose in the state; `more` bytes above the ceiling may be
    /// unreported. False, and nothing is counted, if that is for the slow path.
    #[inline(always)]
    fn count_taken(&self, size: usize, more: i32) -> bool {
        let taken = self.taken.load(Ordering::Relaxed).wrapping_add(ONE + size as u64);
        if taken as u32 >= self.look_at.load(Ordering::Relaxed) {
            return false;
        }
        let drift = difference(taken, self.given.load(Ordering::Relaxed));
        if drift > self.top.load(Ordering::Relaxed) {
            if drift > self.ceiling.load(Ordering::Relaxed) + more {
                return false;
            }
            self.top.store(drift, Ordering::Relaxed);
        }
        self.taken.store(taken, Ordering::Relaxed);
        true
    }

    /// What `given` will be with a block of 1 to [`COUNTED`] bytes more; `None` if that is for the slow path.
    #[inline(always)]
    fn given_with(&self, size: usize, more: i32) -> Option<u64> {
        let given = self.given.load(Ordering::Relaxed).wrapping_add(ONE + size as u64);
        let drift = difference(self.taken.load(Ordering::Relaxed), given);
        (drift >= self.floor() - more).then_some(given)
    }

    /// Counts an allocation of 1 MiB or more of the purpose in the state, and tells the pool as
    /// [`ThreadCache::count_allocation`] does.
    #[inline]
    pub(super) fn count_large_taken(&self, size: usize, live: &LiveBytes) -> Option<bool> {
        let purpose = Key(self.state()).purpose();
        let taken = self.taken.load(Ordering::Relaxed).wrapping_add(ONE + size as u64);
        if size > COUNTED || taken as u32 >= self.look_at.load(Ordering::Relaxed) {
            return self.count_allocation(size, purpose, live);
        }
        let drift = difference(taken, self.given.load(Ordering::Relaxed));
        self.taken.store(taken, Ordering::Relaxed);
        if drift <= self.top.load(Ordering::Relaxed) {
            return None;
        }
        self.top.store(drift, Ordering::Relaxed);
        let told = drift > self.ceiling.load(Ordering::Relaxed) + MORE_UNREPORTED;
        told.then(|| self.report_with(drift, 0, live))
    }

    /// Tells the pool, as [`ThreadCache::count_bytes_back`] does, of a block of 1 MiB or more of the purpose in the state that
    /// came back. Its bytes, unless they are counted here, and its end are counted by [`ThreadCache::end_large`] with the
    /// first number; the pool may be used in between.
    #[inline]
    pub(super) fn count_large_given(&self, size: usize, live: &LiveBytes) -> (usize, Option<bool>) {
        if size > COUNTED {
            return (0, self.count_bytes_back(size, Key(self.state()).purpose(), live));
        }
        let given = self.given.load(Ordering::Relaxed).wrapping_add(ONE + size as u64);
        let drift = difference(self.taken.load(Ordering::Relaxed), given);
        let told = drift < self.floor() - MORE_UNREPORTED;
        (size, told.then(|| self.report_with(drift, 0, live)))
    }

    /// Counts `bytes` and the end of a block of `purpose`. The pool may be gone when this returns.
    #[inline]
    pub(super) fn end_large(&self, bytes: usize, purpose: Purpose) {
        self.turn_to(purpose);
        let given = self.given.load(Ordering::Relaxed).wrapping_add(ONE + bytes as u64);
        self.given.store(given, Ordering::Release);
    }

    /// A difference below this one is reported.
    #[inline(always)]
    fn floor(&self) -> i32 {
        self.ceiling.load(Ordering::Relaxed) - 2 * UNREPORTED
    }

    /// From now on blocks of `purpose` are counted.
    pub(super) fn turn_to(&self, purpose: Purpose) {
        let state = self.state();
        let key = Key::new(Key(state).index(), purpose);
        if (state ^ key.0) & Key::PURPOSE_MASK != 0 {
            let _folding = self.fold();
            // Others may set flags meanwhile.
            self.state.fetch_xor((state ^ key.0) & Key::PURPOSE_MASK, Ordering::SeqCst);
        } else if [&self.taken, &self.given]
            .into_iter()
            .any(|word| word.load(Ordering::Relaxed) as u32 >= FOLD_FROM / 2)
        {
            drop(self.fold());
        }
    }

    /// Moves what the two words count into the counts. Readers wait until the guard is dropped.
    fn fold(&self) -> MutexGuard<'_, ()> {
        let folding = self.folding();
        let (taken, given) =
            (self.taken.load(Ordering::Relaxed), self.given.load(Ordering::Relaxed));
        let drift = difference(taken, given);
        self.taken.store(0, Ordering::Relaxed);
        self.given.store(0, Ordering::Relaxed);
        add(&self.counts.live[Key(self.state()).purpose().index()], i64::from(drift));
        add_unsigned(&self.counts.allocations, taken >> 32);
        add_unsigned(&self.counts.deallocations, given >> 32);
        for known in [&self.top, &self.ceiling] {
            known.store(known.load(Ordering::Relaxed) - drift, Ordering::Relaxed);
        }
        self.sampler.pass(taken as u32);
        self.look_again();
        folding
    }

    fn folding(&self) -> MutexGuard<'_, ()> {
        self.folding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets where the fast path has to stop.
    fn look_again(&self) {
        self.look_at.store(self.sampler.look_at().min(FOLD_FROM), Ordering::Relaxed);
    }

    /// Whether an allocation of `bytes` bytes by this thread, which is not counted yet, is to be recorded.
    pub(super) fn sample(&self, bytes: usize) -> bool {
        let chosen = self.sampler.chosen(self.taken.load(Ordering::Relaxed) as u32, bytes);
        self.look_again();
        chosen
    }

    /// Counts an allocation of any size and tells the pool, if it must be told; whether that is so, and its live bytes are
    /// now above their mark.
    pub(super) fn count_allocation(
        &self,
        size: usize,
        purpose: Purpose,
        live: &LiveBytes,
    ) -> Option<bool> {
        self.turn_to(purpose);
        if size > 0 && size <= COUNTED && self.count_taken(size, more(size)) {
            return None;
        }
        let _folding = self.fold();
        add(&self.counts.live[purpose.index()], size as i64);
        add_unsigned(&self.counts.allocations, 1);
        Some(self.report_with(self.drift(), size as i64, live))
    }

    /// Counts the bytes of a block that came back, and tells the pool, if it must be told, as
    /// [`ThreadCache::count_allocation`]. The end itself is counted by [`ThreadCache::count_deallocation`].
    pub(super) fn count_bytes_back(
        &self,
        size: usize,
        purpose: Purpose,
        live: &LiveBytes,
    ) -> Option<bool> {
        self.turn_to(purpose);
        let passes_floor = size > COUNTED || self.given_with(size, more(size)).is_none();
        let _folding = self.fold();
        add(&self.counts.live[purpose.index()], -(size as i64));
        if passes_floor {
            Some(self.report_with(self.drift(), -(size as i64), live))
        } else {
            for known in [&self.top, &self.ceiling] {
                known.store(known.load(Ordering::Relaxed) + size as i32, Ordering::Relaxed);
            }
            None
        }
    }

    /// Notes that a block came back. It is the last thing that is done for it: from here on the pool may be gone.
    pub(super) fn count_deallocation(&self) {
        let deallocations = self.counts.deallocations.load(Ordering::Relaxed);
        self.counts.deallocations.store(deallocations + 1, Ordering::Release);
    }

    /// Tells the pool of the live bytes: `drift` that the words count, or will when this block is counted, and `more` that they
    /// don't. Whether they are above their mark.
    fn report_with(&self, drift: i32, more: i64, live: &LiveBytes) -> bool {
        let top = self.unreported_top();
        let before = i64::from(UNREPORTED - self.ceiling.load(Ordering::Relaxed));
        let unreported = before + i64::from(drift) + more;
        self.ceiling.store(UNREPORTED + drift, Ordering::Relaxed);
        self.top.store(drift, Ordering::Relaxed);
        live.change(unreported, top.max(unreported))
    }

    /// The difference that the words count.
    fn drift(&self) -> i32 {
        difference(self.taken.load(Ordering::Relaxed), self.given.load(Ordering::Relaxed))
    }

    /// Tells the pool of the live bytes; whether they are above their mark.
    pub(super) fn report(&self, live: &LiveBytes) -> bool {
        self.report_with(self.drift(), 0, live)
    }

    /// The largest number of live bytes that the pool has not been told of.
    pub(super) fn unreported_top(&self) -> i64 {
        let ceiling = self.ceiling.load(Ordering::Relaxed);
        i64::from(UNREPORTED - ceiling) + i64::from(self.top.load(Ordering::Relaxed))
    }

    /// Adds what this thread counted to `sum`. Waits for a fold that is under way, and for no other reason.
    pub(super) fn add_to(&self, sum: &mut Totals) {
        let _folding = self.folding();
        self.counts.add_to(sum);
        // Acquire: as in `Counts::add_to`.
        let (taken, given) =
            (self.taken.load(Ordering::Acquire), self.given.load(Ordering::Acquire));
        sum.allocations += taken >> 32;
        sum.deallocations += given >> 32;
        let purpose = Key(self.state()).purpose();
        sum.live[purpose.index()] += i64::from(difference(taken, given));
    }

    /// Takes a free block of `class`, uncounted.
    pub(super) fn take(&self, class: usize) -> Option<usize> {
        self.bins[class].take_if(|| true)
    }

    /// Takes a block that became free, uncounted; false if there are enough of them.
    pub(super) fn put(&self, class: usize, address: usize) -> bool {
        self.bins[class].put(address)
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
        let mut blocks = [0; SLOTS];
        let count = self.bins[class].take_oldest(class, &mut blocks);
        if count > 0 {
            small.give(class, &blocks[..count]);
        }
    }

    /// Returns all free blocks to their slabs.
    pub(super) fn flush(&self, small: &SmallBlockPool) {
        let mut blocks = [0; SLOTS];
        for (class, bin) in self.bins.iter().enumerate() {
            loop {
                let count = bin.take_oldest(class, &mut blocks);
                if count == 0 {
                    break;
                }
                small.put(class, &blocks[..count]);
            }
        }
    }

    /// How many free blocks of `class` there are; only the thread itself knows it for certain.
    pub(super) fn free_blocks(&self, class: usize) -> usize {
        self.bins[class].len()
    }
}

/// Bytes taken less bytes given back, both since the last fold.
#[inline(always)]
fn difference(taken: u64, given: u64) -> i32 {
    (taken as u32).wrapping_sub(given as u32) as i32
}

/// What may be unreported above the ceiling with a block of `size` bytes.
fn more(size: usize) -> i32 {
    if size < SMALL_LIMIT { 0 } else { MORE_UNREPORTED }
}

fn add(number: &AtomicI64, more: i64) {
    number.store(number.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
}

fn add_unsigned(number: &AtomicU64, more: u64) {
    number.store(number.load(Ordering::Relaxed).wrapping_add(more), Ordering::Release);
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_reader_waits_for_a_fold_that_is_put_aside() {
        let cache = ThreadCache::new(Key::new(1, Purpose::General), 0, 0, Sampler::none());
        let live = LiveBytes::default();
        for _ in 0..3 {
            cache.count_allocation(64, Purpose::General, &live);
        }
        std::thread::scope(|scope| {
            // Half a fold: the words are empty, and what they held is nowhere yet.
            let fold = cache.folding();
            let taken = cache.taken.swap(0, Ordering::Relaxed);
            let reader = scope.spawn(|| {
                let mut sum = Totals::default();
                cache.add_to(&mut sum);
                (sum.allocations, sum.live[Purpose::General.index()])
            });
            // As long as the reader likes: it finds the other half done, whenever it comes.
            for _ in 0..1000 {
                std::thread::yield_now();
            }
            assert!(!reader.is_finished());
            cache.taken.store(taken, Ordering::Relaxed);
            drop(fold);
            assert_eq!(reader.join().unwrap(), (3, 192));
        });
    }

    #[test]
    fn large_blocks_given_back_by_another_thread_are_counted_beyond_4_gib() {
        let cache = ThreadCache::new(Key::new(1, Purpose::General), 0, 0, Sampler::none());
        let live = LiveBytes::default();
        for count in 1..=200u64 {
            let (bytes, _) = cache.count_large_given(COUNTED, &live);
            cache.end_large(bytes, Purpose::General);
            let mut sum = Totals::default();
            cache.add_to(&mut sum);
            assert_eq!(sum.deallocations, count);
            assert_eq!(sum.live[Purpose::General.index()], -((count * COUNTED as u64) as i64));
        }
    }

    #[test]
    fn concurrent_totals_are_consistent() {
        const BLOCKS: u64 = 20_000;
        let cache = ThreadCache::new(Key::new(1, Purpose::General), 0, 0, Sampler::none());
        let live = LiveBytes::default();
        let purpose = |at: u64| Purpose::ALL[at as usize / 3 % Purpose::ALL.len()];
        for at in 0..BLOCKS {
            cache.count_allocation(64, purpose(at), &live);
        }
        let (over, looks) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last = 0;
                while !over.load(Ordering::Relaxed) {
                    let mut sum = Totals::default();
                    cache.add_to(&mut sum);
                    // This is what the end of a pool is decided by.
                    assert_eq!(sum.allocations, BLOCKS);
                    assert!(sum.deallocations >= last && sum.deallocations < BLOCKS);
                    last = sum.deallocations;
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
            for at in 0..BLOCKS - 1 {
                // The reader is there all the time, and in the midst of a look.
                let seen = looks.load(Ordering::Relaxed);
                while at % 64 == 0 && looks.load(Ordering::Relaxed) == seen && !reader.is_finished()
                {
                    std::thread::yield_now();
                }
                // Two ends of three are counted by the word, the third after a fold.
                if at % 3 == 0 {
                    cache.count_bytes_back(64, purpose(at), &live);
                    cache.count_deallocation();
                } else {
                    let (bytes, _) = cache.count_large_given(64, &live);
                    cache.end_large(bytes, purpose(at));
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        let mut sum = Totals::default();
        cache.add_to(&mut sum);
        assert_eq!((sum.allocations, sum.deallocations), (BLOCKS, BLOCKS - 1));
        assert_eq!(sum.live.iter().sum::<i64>(), 64);
        assert!(sum.live[purpose(BLOCKS - 1).index()] == 64);
    }
}

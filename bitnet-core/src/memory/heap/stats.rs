//! The counters of a pool: calls, live bytes by purpose, and their peak.
//!
//! Each thread counts for itself ([`LocalStats`]), and a pool's totals are the sum over its threads. Only the owning
//! thread writes its numbers, without locked instructions; they are atomics because others read them.
//!
//! The fast path counts in two 64-bit counters, `allocated` and `freed`, each with a number of blocks in its upper half
//! and their bytes in its lower half. An allocation writes only the first and a free only the second, so neither waits
//! for the other. Both count blocks of one purpose, the one in `state`. Before another purpose is counted, and before a
//! lower half overflows, the counters are flushed into [`Counts`]. Plain counters of blocks and of bytes would need no
//! flush, but a reader between two stores would see a block without its bytes.
//!
//! A flush changes several fields, so it holds a lock that readers also take: the sums of readers are always
//! consistent. The fast path needs no lock, because each of its stores moves one
//! counter from one consistent state to the next.
//!
//! A thread reports its live bytes to the pool ([`LiveBytes`]) when they differ from the last report by more than
//! [`UNREPORTED`]: that bounds the error of the peak.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::Purpose;
use super::block_tag::Key;
use super::sampling::Sampler;
use super::size_class::SMALL_LIMIT;
use crate::sync::lock;

/// The most bytes by which a thread's live bytes may differ from its last report.
const UNREPORTED: i32 = 128 << 10;
/// How many more while the thread allocates blocks of 1 MiB and more.
const MORE_UNREPORTED: i32 = (4 << 20) - UNREPORTED;
/// Larger blocks are not counted in the two counters.
const COUNTED: usize = 64 << 20;
/// The counters are flushed before they count this many bytes.
const FLUSH_FROM: u32 = 1 << 30;
/// One block, as the two counters count it.
const ONE: u64 = 1 << 32;

/// A part of the totals of a pool.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) allocations: AtomicU64,
    pub(super) deallocations: AtomicU64,
    /// Bytes requested less bytes freed, for each purpose; negative if blocks of other threads are freed here.
    pub(super) live: [AtomicI64; Purpose::ALL.len()],
}

impl Counts {
    const fn new() -> Self {
        Self {
            allocations: AtomicU64::new(0),
            deallocations: AtomicU64::new(0),
            live: [const { AtomicI64::new(0) }; Purpose::ALL.len()],
        }
    }

    pub(super) fn add_to(&self, sum: &mut Totals) {
        sum.allocations += self.allocations.load(Ordering::Acquire);
        // Acquire: a reader that sees the last block returned sees all that was done to it.
        sum.deallocations += self.deallocations.load(Ordering::Acquire);
        for (sum, live) in sum.live.iter_mut().zip(&self.live) {
            *sum += live.load(Ordering::Relaxed);
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::memory) struct Totals {
    pub(in crate::memory) allocations: u64,
    pub(in crate::memory) deallocations: u64,
    pub(in crate::memory) live: [i64; Purpose::ALL.len()],
}

/// The counters of one thread in one pool.
#[derive(Debug)]
#[repr(C)]
pub(super) struct LocalStats {
    /// The [`Key`] of the counted blocks, and flags; with a flag it equals no key, which leads to the slow path.
    state: AtomicU32,
    /// From this many allocated bytes on the slow path is taken: for a sample, or for a flush.
    slow_path_at: AtomicU32,
    /// Blocks and bytes allocated since the last flush.
    allocated: AtomicU64,
    /// Blocks and bytes freed since the last flush.
    freed: AtomicU64,
    /// The largest unreported difference of bytes allocated and freed since the last flush.
    top: AtomicI32,
    /// A difference above this one is reported. It is [`UNREPORTED`] less the unreported bytes at the last flush.
    ceiling: AtomicI32,
    /// Held during a flush, and while another thread reads: `counts`, the counters and the purpose in `state` are then
    /// consistent. No call that could block is made under it.
    flushing: Mutex<()>,
    counts: Counts,
    sampler: Sampler,
}

impl LocalStats {
    /// Those of a thread without a cache: their key is that of no pool.
    pub(super) const fn none() -> Self {
        Self {
            state: AtomicU32::new(0),
            slow_path_at: AtomicU32::new(0),
            allocated: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            top: AtomicI32::new(0),
            ceiling: AtomicI32::new(UNREPORTED),
            flushing: Mutex::new(()),
            counts: Counts::new(),
            sampler: Sampler::none(),
        }
    }

    /// Those of a thread in the pool of `key`.
    pub(super) fn new(key: Key, flags: u32, sampler: Sampler) -> Self {
        let stats = Self { state: AtomicU32::new(key.0 | flags), sampler, ..Self::none() };
        stats.set_slow_path();
        stats
    }

    /// Equals a [`Key`] if its blocks may take the fast path.
    #[inline(always)]
    pub(super) fn state(&self) -> u32 {
        self.state.load(Ordering::Relaxed)
    }

    /// Sets `flag`; any thread may.
    pub(super) fn raise(&self, flag: u32) {
        self.state.fetch_or(flag, Ordering::SeqCst);
    }

    /// Clears `flag`. Returns whether it was set.
    pub(super) fn clear(&self, flag: u32) -> bool {
        self.state() & flag != 0 && self.state.fetch_and(!flag, Ordering::SeqCst) & flag != 0
    }

    fn purpose(&self) -> Purpose {
        Key(self.state()).purpose()
    }

    /// Counts an allocation of 1 to [`COUNTED`] bytes of the purpose in the state; `more` bytes above the ceiling may
    /// be unreported. Returns false, and counts nothing, if the slow path has to.
    #[inline(always)]
    pub(super) fn count_allocated(&self, size: usize, more: i32) -> bool {
        let allocated = self.allocated.load(Ordering::Relaxed).wrapping_add(ONE + size as u64);
        if allocated as u32 >= self.slow_path_at.load(Ordering::Relaxed) {
            return false;
        }
        let drift = difference(allocated, self.freed.load(Ordering::Relaxed));
        if drift > self.top.load(Ordering::Relaxed) {
            if drift > self.ceiling.load(Ordering::Relaxed) + more {
                return false;
            }
            self.top.store(drift, Ordering::Relaxed);
        }
        self.allocated.store(allocated, Ordering::Relaxed);
        true
    }

    /// Returns `freed` with one more block of 1 to [`COUNTED`] bytes; `None` if the slow path has to count it.
    #[inline(always)]
    pub(super) fn freed_with(&self, size: usize, more: i32) -> Option<u64> {
        let freed = self.freed.load(Ordering::Relaxed).wrapping_add(ONE + size as u64);
        let drift = difference(self.allocated.load(Ordering::Relaxed), freed);
        (drift >= self.floor() - more).then_some(freed)
    }

    /// Stores what [`LocalStats::freed_with`] returned. The pool may have been freed when this returns.
    #[inline(always)]
    pub(super) fn set_freed(&self, freed: u64) {
        self.freed.store(freed, Ordering::Release);
    }

    /// Counts an allocation of 1 MiB or more of the purpose in the state; reports as [`LocalStats::count_allocation`].
    #[inline]
    pub(super) fn count_large_allocated(&self, size: usize, live: &LiveBytes) -> Option<bool> {
        let allocated = self.allocated.load(Ordering::Relaxed).wrapping_add(ONE + size as u64);
        if size > COUNTED || allocated as u32 >= self.slow_path_at.load(Ordering::Relaxed) {
            return self.count_allocation(size, self.purpose(), live);
        }
        let drift = difference(allocated, self.freed.load(Ordering::Relaxed));
        self.allocated.store(allocated, Ordering::Relaxed);
        if drift <= self.top.load(Ordering::Relaxed) {
            return None;
        }
        self.top.store(drift, Ordering::Relaxed);
        let is_due = drift > self.ceiling.load(Ordering::Relaxed) + MORE_UNREPORTED;
        is_due.then(|| self.report_with(drift, 0, live))
    }

    /// Reports a freed block of 1 MiB or more of the purpose in the state, as [`LocalStats::count_bytes_freed`] does.
    /// Returns the bytes that [`LocalStats::end_large`] has to count; the pool may be used until then.
    #[inline]
    pub(super) fn count_large_freed(&self, size: usize, live: &LiveBytes) -> (usize, Option<bool>) {
        if size > COUNTED {
            return (0, self.count_bytes_freed(size, self.purpose(), live));
        }
        let freed = self.freed.load(Ordering::Relaxed).wrapping_add(ONE + size as u64);
        let drift = difference(self.allocated.load(Ordering::Relaxed), freed);
        let is_due = drift < self.floor() - MORE_UNREPORTED;
        (size, is_due.then(|| self.report_with(drift, 0, live)))
    }

    /// Counts `bytes` and the end of a block of `purpose`. The pool may have been freed when this returns.
    #[inline]
    pub(super) fn end_large(&self, bytes: usize, purpose: Purpose) {
        self.switch_purpose(purpose);
        self.set_freed(self.freed.load(Ordering::Relaxed).wrapping_add(ONE + bytes as u64));
    }

    /// A difference below this one is reported.
    #[inline(always)]
    fn floor(&self) -> i32 {
        self.ceiling.load(Ordering::Relaxed) - 2 * UNREPORTED
    }

    /// Switches the two counters to blocks of `purpose`.
    fn switch_purpose(&self, purpose: Purpose) {
        let state = self.state();
        let key = Key::new(Key(state).index(), purpose);
        if (state ^ key.0) & Key::PURPOSE_MASK != 0 {
            let _flushing = self.flush();
            // Others may set flags meanwhile.
            self.state.fetch_xor((state ^ key.0) & Key::PURPOSE_MASK, Ordering::SeqCst);
        } else if [&self.allocated, &self.freed]
            .into_iter()
            .any(|counter| counter.load(Ordering::Relaxed) as u32 >= FLUSH_FROM / 2)
        {
            drop(self.flush());
        }
    }

    /// Adds the two counters to `counts` and clears them. Readers wait until the guard is dropped.
    fn flush(&self) -> MutexGuard<'_, ()> {
        let flushing = lock(&self.flushing);
        let [allocated, freed] =
            [&self.allocated, &self.freed].map(|counter| counter.load(Ordering::Relaxed));
        let drift = difference(allocated, freed);
        self.allocated.store(0, Ordering::Relaxed);
        self.freed.store(0, Ordering::Relaxed);
        add(&self.counts.live[self.purpose().index()], i64::from(drift));
        add_unsigned(&self.counts.allocations, allocated >> 32);
        add_unsigned(&self.counts.deallocations, freed >> 32);
        for bound in [&self.top, &self.ceiling] {
            bound.store(bound.load(Ordering::Relaxed) - drift, Ordering::Relaxed);
        }
        self.sampler.pass(allocated as u32);
        self.set_slow_path();
        flushing
    }

    fn set_slow_path(&self) {
        self.slow_path_at.store(self.sampler.slow_path_at().min(FLUSH_FROM), Ordering::Relaxed);
    }

    /// Whether an allocation of `bytes` bytes by this thread, which is not counted yet, is sampled.
    pub(super) fn sample(&self, bytes: usize) -> bool {
        let sampled = self.sampler.picks(self.allocated.load(Ordering::Relaxed) as u32, bytes);
        self.set_slow_path();
        sampled
    }

    /// Counts an allocation of any size. Returns `None` if no report was due, else whether the threshold was crossed.
    pub(super) fn count_allocation(
        &self,
        size: usize,
        purpose: Purpose,
        live: &LiveBytes,
    ) -> Option<bool> {
        self.switch_purpose(purpose);
        if size > 0 && size <= COUNTED && self.count_allocated(size, more(size)) {
            return None;
        }
        let _flushing = self.flush();
        add(&self.counts.live[purpose.index()], size as i64);
        add_unsigned(&self.counts.allocations, 1);
        Some(self.report_with(self.drift(), size as i64, live))
    }

    /// Counts the bytes of a freed block, and reports as [`LocalStats::count_allocation`] does. The call itself is
    /// counted by [`LocalStats::count_deallocation`].
    pub(super) fn count_bytes_freed(
        &self,
        size: usize,
        purpose: Purpose,
        live: &LiveBytes,
    ) -> Option<bool> {
        self.switch_purpose(purpose);
        let passes_floor = size > COUNTED || self.freed_with(size, more(size)).is_none();
        let _flushing = self.flush();
        add(&self.counts.live[purpose.index()], -(size as i64));
        if passes_floor {
            Some(self.report_with(self.drift(), -(size as i64), live))
        } else {
            for bound in [&self.top, &self.ceiling] {
                bound.store(bound.load(Ordering::Relaxed) + size as i32, Ordering::Relaxed);
            }
            None
        }
    }

    /// Counts the end of a block. The pool may have been freed when this returns.
    pub(super) fn count_deallocation(&self) {
        add_unsigned(&self.counts.deallocations, 1);
    }

    /// Reports live bytes to the pool: `drift`, which the counters include or will count with this block, and `more`,
    /// which they do not. Returns whether live bytes crossed the threshold.
    fn report_with(&self, drift: i32, more: i64, live: &LiveBytes) -> bool {
        let top = self.unreported_top();
        let before = i64::from(UNREPORTED - self.ceiling.load(Ordering::Relaxed));
        let unreported = before + i64::from(drift) + more;
        self.ceiling.store(UNREPORTED + drift, Ordering::Relaxed);
        self.top.store(drift, Ordering::Relaxed);
        live.change(unreported, top.max(unreported))
    }

    /// The difference that the counters hold.
    fn drift(&self) -> i32 {
        difference(self.allocated.load(Ordering::Relaxed), self.freed.load(Ordering::Relaxed))
    }

    /// Reports live bytes to the pool. Returns whether they crossed the threshold.
    pub(super) fn report(&self, live: &LiveBytes) -> bool {
        self.report_with(self.drift(), 0, live)
    }

    /// The largest number of unreported live bytes since the last report.
    pub(super) fn unreported_top(&self) -> i64 {
        let ceiling = self.ceiling.load(Ordering::Relaxed);
        i64::from(UNREPORTED - ceiling) + i64::from(self.top.load(Ordering::Relaxed))
    }

    /// Adds what this thread counted to `sum`. Waits for a flush that is under way.
    pub(super) fn add_to(&self, sum: &mut Totals) {
        let _flushing = lock(&self.flushing);
        self.counts.add_to(sum);
        // Acquire: as in `Counts::add_to`.
        let [allocated, freed] =
            [&self.allocated, &self.freed].map(|counter| counter.load(Ordering::Acquire));
        sum.allocations += allocated >> 32;
        sum.deallocations += freed >> 32;
        sum.live[self.purpose().index()] += i64::from(difference(allocated, freed));
    }
}

/// Bytes allocated less bytes freed, both since the last flush.
#[inline(always)]
fn difference(allocated: u64, freed: u64) -> i32 {
    (allocated as u32).wrapping_sub(freed as u32) as i32
}

/// The bytes above the ceiling that may be unreported with a block of `size` bytes.
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
    /// The observer is notified of more live bytes than this.
    threshold: AtomicI64,
}

impl Default for LiveBytes {
    fn default() -> Self {
        let threshold = AtomicI64::new(i64::MAX);
        Self { reported: AtomicI64::new(0), peak: AtomicI64::new(0), threshold }
    }
}

impl LiveBytes {
    /// Adds `bytes`, after a peak of up to `top` more than before. Returns whether live bytes are above the threshold.
    pub(super) fn change(&self, bytes: i64, top: i64) -> bool {
        let before = self.reported.fetch_add(bytes, Ordering::Relaxed);
        self.raise_peak(before + top.max(bytes));
        before + bytes > self.threshold.load(Ordering::Relaxed)
    }

    /// Sets the threshold; `i64::MAX` is none.
    pub(super) fn set_threshold(&self, bytes: i64) {
        self.threshold.store(bytes, Ordering::Relaxed);
    }

    /// Returns the reported bytes and their peak.
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
mod tests;

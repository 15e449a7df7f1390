//! Blocks below 1 MiB: slabs of equal blocks, one set of slabs for each size class.
//!
//! A slab is a span of pages cut into blocks of one class, with one bit for each that is set if it is free. Threads
//! take and return blocks in batches, so the lock of a class is taken once for many. Free blocks at low addresses are
//! taken first, so that other slabs become unused and return to the arena.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::arena::{Arena, ArenaFigures};
use super::discard::past;
use super::magazine::{Magazines, SLOTS, Stack};
use super::size_class::{CLASSES, batch, block_bytes, slab_bytes};
use crate::os::pages::{GRANULE, Pages};
use crate::sync::lock;

/// The most bytes of free blocks of one class in magazines; more return to the slabs.
const WAITING_BYTES: usize = 8 << 20;

#[derive(Debug)]
struct Slab {
    granules: usize,
    blocks: usize,
    free: usize,
    /// Bit b: block b is free.
    bits: Box<[u64]>,
    /// No word below this one has a free block.
    first_word: usize,
    /// Whether it is being drained, so that no block may be taken.
    draining: bool,
}

impl Slab {
    fn new(blocks: usize, granules: usize) -> Self {
        let mut bits = vec![u64::MAX; blocks.div_ceil(64)];
        if !blocks.is_multiple_of(64)
            && let Some(last) = bits.last_mut()
        {
            *last = (1 << (blocks % 64)) - 1;
        }
        let bits = bits.into();
        Self { granules, blocks, free: blocks, bits, first_word: 0, draining: false }
    }

    fn take(&mut self) -> Option<usize> {
        let word = (self.first_word..self.bits.len()).find(|&word| self.bits[word] != 0)?;
        let bit = self.bits[word].trailing_zeros() as usize;
        self.bits[word] &= self.bits[word] - 1;
        self.first_word = word;
        self.free -= 1;
        Some(word * 64 + bit)
    }

    /// Returns false if the block was free already.
    fn free(&mut self, block: usize) -> bool {
        let (word, bit) = (block / 64, 1 << (block % 64));
        if self.bits[word] & bit != 0 {
            return false;
        }
        self.bits[word] |= bit;
        self.first_word = self.first_word.min(word);
        self.free += 1;
        true
    }
}

#[derive(Debug, Default)]
struct Slabs {
    /// By address.
    all: BTreeMap<usize, Slab>,
    /// Those with free blocks that may be taken.
    open: BTreeSet<usize>,
    /// Those of `open` without a taken block.
    unused: BTreeSet<usize>,
    /// Blocks taken from the slabs: live, in bins, or in magazines.
    out: usize,
    capacity: usize,
}

/// The figures of the slabs of one class, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SlabFigures {
    pub(super) capacity: usize,
    /// Blocks taken from the slabs: live, in bins, or in magazines.
    pub(super) out: usize,
}

#[derive(Debug)]
pub(super) struct SmallBlockPool {
    arena: Arena,
    classes: [Mutex<Slabs>; CLASSES],
    waiting: [Stack; CLASSES],
    magazines: Magazines,
    /// Bytes of the blocks taken from the slabs: see [`share_of_slab`].
    out_bytes: AtomicUsize,
}

/// The bytes of a slab per block of `class`: its own, and its part of the remainder at the end.
pub(super) fn share_of_slab(class: usize) -> usize {
    slab_bytes(class) / (slab_bytes(class) / block_bytes(class))
}

impl SmallBlockPool {
    /// `None` if the system refuses the `initial` bytes.
    pub(super) fn new(limit: usize, initial: usize, pages: &Pages) -> Option<Self> {
        Some(Self {
            arena: Arena::new(limit, initial, pages)?,
            classes: std::array::from_fn(|_| Mutex::default()),
            waiting: std::array::from_fn(|_| Stack::new()),
            magazines: Magazines::new(),
            out_bytes: AtomicUsize::new(0),
        })
    }

    /// Fills `out` with free blocks of `class`: a magazine of another thread, else a batch from the slabs. Returns
    /// their number; 0 if the limit or the system refuses.
    pub(super) fn refill(&self, class: usize, out: &mut [usize; SLOTS], pages: &Pages) -> usize {
        match self.magazines.pop(&self.waiting[class], out) {
            0 => self.take(class, &mut out[..batch(class)], pages),
            got => got,
        }
    }

    /// Takes blocks from the slabs. Returns their number.
    pub(super) fn take(&self, class: usize, out: &mut [usize], pages: &Pages) -> usize {
        let mut slabs = lock(&self.classes[class]);
        let mut got = 0;
        while got < out.len() {
            let Some(&base) = slabs.open.first() else {
                if got > 0 || !self.add_slab(&mut slabs, class, pages) {
                    break;
                }
                continue;
            };
            got += slabs.take_from(base, class, &mut out[got..]);
        }
        self.out_bytes.fetch_add(got * share_of_slab(class), Ordering::Relaxed);
        got
    }

    /// Bytes of the blocks taken from the slabs: live, in bins, or in magazines.
    pub(super) fn out_bytes(&self) -> usize {
        self.out_bytes.load(Ordering::Relaxed)
    }

    fn add_slab(&self, slabs: &mut Slabs, class: usize, pages: &Pages) -> bool {
        let block = block_bytes(class);
        // A smaller slab where the limit allows no full one.
        let span = [slab_bytes(class), block]
            .into_iter()
            .find_map(|bytes| self.arena.allocate(bytes.div_ceil(GRANULE), 1, pages));
        let Some(span) = span else { return false };
        let blocks = span.granules * GRANULE / block;
        slabs.all.insert(span.address, Slab::new(blocks, span.granules));
        slabs.open.insert(span.address);
        slabs.unused.insert(span.address);
        slabs.capacity += blocks;
        true
    }

    /// Passes the surplus blocks of a thread to the others as one magazine, or to the slabs if enough magazines wait.
    pub(super) fn spill(&self, class: usize, blocks: &[usize]) {
        let waiting = &self.waiting[class];
        let limit = WAITING_BYTES / (block_bytes(class) * batch(class)) + 1;
        if waiting.depth() >= limit || !self.magazines.push(waiting, blocks) {
            self.free(class, blocks);
        }
    }

    /// Returns blocks to their slabs. They are blocks of `class` of this pool that are no longer used.
    pub(super) fn free(&self, class: usize, blocks: &[usize]) {
        let mut slabs = lock(&self.classes[class]);
        let out = slabs.out;
        for &address in blocks {
            slabs.free(address, class);
        }
        let returned = out - slabs.out;
        self.out_bytes.fetch_sub(returned * share_of_slab(class), Ordering::Relaxed);
        slabs.release_unused(&self.arena, 1, None);
    }

    /// Returns the blocks of all magazines to their slabs, and unused slabs to the arena.
    pub(super) fn flush(&self, deadline: Option<Instant>) {
        let mut blocks = [0; SLOTS];
        for class in 0..CLASSES {
            loop {
                let got = self.magazines.pop(&self.waiting[class], &mut blocks);
                if got == 0 {
                    break;
                }
                self.free(class, &blocks[..got]);
                if past(deadline) {
                    return;
                }
            }
            lock(&self.classes[class]).release_unused(&self.arena, 0, deadline);
            if past(deadline) {
                return;
            }
        }
    }

    /// Blocks of `class` in magazines.
    pub(super) fn waiting_blocks(&self, class: usize) -> usize {
        self.waiting[class].depth() * batch(class)
    }

    pub(super) fn arena(&self) -> &Arena {
        &self.arena
    }

    pub(super) fn slab_figures(&self, class: usize) -> SlabFigures {
        let slabs = lock(&self.classes[class]);
        SlabFigures { capacity: slabs.capacity, out: slabs.out }
    }

    /// The figures of the arena, and the bytes of all bookkeeping.
    pub(super) fn figures(&self) -> ArenaFigures {
        let mut figures = self.arena.figures(&[]);
        for class in 0..CLASSES {
            let slabs = lock(&self.classes[class]);
            let bits: usize = slabs.all.values().map(|slab| slab.bits.len() * 8).sum();
            figures.metadata_bytes +=
                bits + slabs.all.len() * (size_of::<Slab>() + 2 * size_of::<usize>());
        }
        figures.metadata_bytes += self.magazines.metadata_bytes();
        figures
    }

    /// Drains the slabs of which at most `share` of the blocks are taken, but for the fullest of each class: no block
    /// is taken from them. Returns the bytes of their blocks that are taken.
    pub(super) fn start_draining(&self, share: f64) -> usize {
        (0..CLASSES)
            .map(|class| lock(&self.classes[class]).start_draining(share) * block_bytes(class))
            .sum()
    }

    /// Ends what [`SmallBlockPool::start_draining`] began.
    pub(super) fn stop_draining(&self) {
        for class in 0..CLASSES {
            let mut slabs = lock(&self.classes[class]);
            let Slabs { all, open, unused, .. } = &mut *slabs;
            for (&base, slab) in all.iter_mut().filter(|(_, slab)| slab.draining) {
                slab.draining = false;
                if slab.free > 0 {
                    open.insert(base);
                    if slab.free == slab.blocks {
                        unused.insert(base);
                    }
                }
            }
            slabs.release_unused(&self.arena, 0, None);
        }
    }

    pub(super) fn is_draining(&self, class: usize, address: usize) -> bool {
        lock(&self.classes[class])
            .all
            .range(..=address)
            .next_back()
            .is_some_and(|(_, slab)| slab.draining)
    }
}

impl Slabs {
    fn take_from(&mut self, base: usize, class: usize, out: &mut [usize]) -> usize {
        let Some(slab) = self.all.get_mut(&base) else { return 0 };
        if slab.free == slab.blocks {
            self.unused.remove(&base);
        }
        let mut got = 0;
        while got < out.len()
            && let Some(block) = slab.take()
        {
            out[got] = base + block * block_bytes(class);
            got += 1;
        }
        if slab.free == 0 {
            self.open.remove(&base);
        }
        self.out += got;
        got
    }

    fn free(&mut self, address: usize, class: usize) {
        let Some((&base, slab)) = self.all.range_mut(..=address).next_back() else { return };
        let freed = slab.free((address - base) / block_bytes(class));
        debug_assert!(freed, "block {address:#x} of class {class} was free already");
        if !freed {
            return;
        }
        self.out -= 1;
        if !slab.draining {
            if slab.free == 1 {
                self.open.insert(base);
            }
            if slab.free == slab.blocks {
                self.unused.insert(base);
            }
        }
    }

    /// Returns unused slabs to the arena but for `keep` of them, those at high addresses first, until the deadline.
    fn release_unused(&mut self, arena: &Arena, keep: usize, deadline: Option<Instant>) {
        while self.unused.len() > keep && !past(deadline) {
            let Some(base) = self.unused.pop_last() else { break };
            self.open.remove(&base);
            if let Some(slab) = self.all.remove(&base) {
                self.capacity -= slab.blocks;
                arena.free(base, slab.granules);
            }
        }
    }

    fn start_draining(&mut self, share: f64) -> usize {
        let keep =
            self.all.iter().max_by_key(|(_, slab)| slab.blocks - slab.free).map(|(&base, _)| base);
        let mut out = 0;
        for (&base, slab) in &mut self.all {
            let used = slab.blocks - slab.free;
            if Some(base) != keep && used > 0 && used as f64 <= share * slab.blocks as f64 {
                slab.draining = true;
                self.open.remove(&base);
                out += used;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_return_to_their_slabs() {
        let pages = Pages::default();
        let pool = SmallBlockPool::new(64 << 20, 0, &pages).unwrap();
        for class in [0, 3, 17, 33, 51] {
            let mut blocks = vec![0; 40];
            let mut got = 0;
            while got < blocks.len() {
                let more = pool.take(class, &mut blocks[got..], &pages);
                assert!(more > 0);
                got += more;
            }
            let mut sorted = blocks.clone();
            sorted.sort_unstable();
            assert!(sorted.windows(2).all(|w| w[1] - w[0] >= block_bytes(class)));
            assert!(sorted.iter().all(|at| at % 64 == 0));
            assert_eq!(pool.slab_figures(class).out, 40);
            pool.free(class, &blocks);
            assert_eq!(pool.slab_figures(class).out, 0);
        }
        pool.flush(None);
        assert_eq!((0..CLASSES).map(|class| pool.slab_figures(class).capacity).sum::<usize>(), 0);
        assert_eq!(pool.figures().free, pool.arena().mapped());
    }

    #[test]
    fn magazines_are_reused_first_and_bounded() {
        let pages = Pages::default();
        let pool = SmallBlockPool::new(256 << 20, 0, &pages).unwrap();
        let class = super::super::size_class::class_of(256 << 10);
        let mut all = Vec::new();
        let mut out = [0; SLOTS];
        for _ in 0..100 {
            let got = pool.take(class, &mut out[..2], &pages);
            all.extend_from_slice(&out[..got]);
        }
        for pair in all.chunks(2) {
            pool.spill(class, pair);
        }
        assert!(pool.waiting_blocks(class) * (256 << 10) <= WAITING_BYTES + (512 << 10));
        let got = pool.refill(class, &mut out, &pages);
        assert!(got == 2 && all.contains(&out[0]) && all.contains(&out[1]));
    }

    #[test]
    fn draining_slabs_serve_no_block() {
        let pages = Pages::default();
        let pool = SmallBlockPool::new(64 << 20, 0, &pages).unwrap();
        let class = 0;
        let mut blocks = vec![0; 4096];
        assert_eq!(pool.take(class, &mut blocks, &pages), 1024, "a slab at a time");
        let mut got = 1024;
        while got < blocks.len() {
            got += pool.take(class, &mut blocks[got..], &pages);
        }
        // One block of the second slab remains; all of the first.
        let last = blocks[1500];
        let freed: Vec<_> = blocks[1024..2048].iter().copied().filter(|&b| b != last).collect();
        pool.free(class, &freed);
        assert_eq!(pool.start_draining(0.25), block_bytes(class));
        assert!(pool.is_draining(class, last) && !pool.is_draining(class, blocks[0]));
        let mut one = [0];
        assert_eq!(pool.take(class, &mut one, &pages), 1);
        assert!(!pool.is_draining(class, one[0]));
        let before = pool.slab_figures(class).capacity;
        pool.free(class, &[last]);
        pool.stop_draining();
        assert!(pool.slab_figures(class).capacity < before);
    }
}

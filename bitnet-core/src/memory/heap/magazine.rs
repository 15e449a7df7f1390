//! Freed blocks on their way between threads: lock-free stacks of magazines.
//!
//! A magazine is a batch of addresses of free blocks of one class. A thread whose bin is full pushes a magazine to the
//! stack of the class; a thread whose bin is empty pops one. So a block freed by another thread than the one that
//! allocated it costs a part of one exchange, and no thread waits.
//!
//! These are Treiber stacks, over indices into a table of magazines. Magazines live as long as the table, so a thread
//! may read one that another has just popped; the counter in the top then makes its exchange fail (no ABA).

#[cfg(loom)]
use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// The most addresses in a magazine; few for the model checker, which follows each of them.
pub(super) const SLOTS: usize = if cfg!(loom) { 2 } else { 32 };
/// Magazines in the first chunk of the table; each further chunk has twice as many.
const FIRST_CHUNK: usize = if cfg!(loom) { 2 } else { 16 };
const CHUNKS: usize = if cfg!(loom) { 2 } else { 24 };

/// Addresses of free blocks on their way between threads.
#[derive(Debug)]
struct Magazine {
    /// Index + 1 of the magazine below, 0 at the bottom.
    below: AtomicU32,
    len: AtomicU32,
    slots: [AtomicUsize; SLOTS],
}

/// A stack of magazines. The top is index + 1 in the lower half (0: empty) and the number of changes in the upper half.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Stack {
    top: AtomicU64,
    depth: AtomicU32,
}

impl Stack {
    pub(super) fn new() -> Self {
        Self { top: AtomicU64::new(0), depth: AtomicU32::new(0) }
    }

    /// The approximate number of magazines.
    pub(super) fn depth(&self) -> usize {
        self.depth.load(Ordering::Relaxed) as usize
    }
}

/// The table of magazines, and the stack of empty ones.
#[derive(Debug)]
pub(super) struct Magazines {
    chunks: [AtomicPtr<Magazine>; CHUNKS],
    count: AtomicU32,
    empty: Stack,
}

impl Magazines {
    pub(super) fn new() -> Self {
        let chunks = std::array::from_fn(|_| AtomicPtr::new(std::ptr::null_mut()));
        Self { chunks, count: AtomicU32::new(0), empty: Stack::new() }
    }

    /// Pushes `blocks` (1 to [`SLOTS`] addresses) as one magazine. Returns false, without an effect, if there is no
    /// memory for another magazine.
    pub(super) fn push(&self, stack: &Stack, blocks: &[usize]) -> bool {
        let Some(index) = self.pop_index(&self.empty).or_else(|| self.new_magazine()) else {
            return false;
        };
        let magazine = self.at(index);
        for (slot, &block) in magazine.slots.iter().zip(blocks) {
            slot.store(block, Ordering::Relaxed);
        }
        magazine.len.store(blocks.len().min(SLOTS) as u32, Ordering::Relaxed);
        self.push_index(stack, index);
        true
    }

    /// Pops the addresses of the top magazine into `out`. Returns their number, 0 if the stack is empty.
    pub(super) fn pop(&self, stack: &Stack, out: &mut [usize; SLOTS]) -> usize {
        let Some(index) = self.pop_index(stack) else { return 0 };
        let magazine = self.at(index);
        let len = magazine.len.load(Ordering::Relaxed) as usize;
        for (slot, block) in magazine.slots[..len].iter().zip(out.iter_mut()) {
            *block = slot.load(Ordering::Relaxed);
        }
        self.push_index(&self.empty, index);
        len
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        let chunks = self.chunks.iter().enumerate();
        chunks
            .filter(|(_, chunk)| !chunk.load(Ordering::Relaxed).is_null())
            .map(|(at, _)| (FIRST_CHUNK << at) * size_of::<Magazine>())
            .sum()
    }

    fn push_index(&self, stack: &Stack, index: u32) {
        let mut top = stack.top.load(Ordering::Relaxed);
        loop {
            self.at(index).below.store(top as u32, Ordering::Relaxed);
            let next = changed(top) | u64::from(index + 1);
            // Release: a thread that pops this magazine sees its content.
            match stack.top.compare_exchange_weak(top, next, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => top = now,
            }
        }
        stack.depth.fetch_add(1, Ordering::Relaxed);
    }

    fn pop_index(&self, stack: &Stack) -> Option<u32> {
        let mut top = stack.top.load(Ordering::Acquire);
        loop {
            let index = (top as u32).checked_sub(1)?;
            // If another thread pops this magazine meanwhile, this value is stale and the exchange fails.
            let below = self.at(index).below.load(Ordering::Relaxed);
            let next = changed(top) | u64::from(below);
            // Acquire: its content was stored before it was pushed. Release: a later push of it follows.
            match stack.top.compare_exchange_weak(top, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    stack.depth.fetch_sub(1, Ordering::Relaxed);
                    return Some(index);
                }
                Err(now) => top = now,
            }
        }
    }

    /// Returns a new magazine; `None` if there is no memory for it.
    fn new_magazine(&self) -> Option<u32> {
        let index = self.count.fetch_add(1, Ordering::Relaxed);
        let (chunk, _) = position(index);
        let slot = self.chunks.get(chunk);
        let made = slot.is_some_and(|slot| {
            !slot.load(Ordering::Acquire).is_null() || make_chunk(slot, FIRST_CHUNK << chunk)
        });
        if made {
            return Some(index);
        }
        // The number is lost, which wastes only an entry of the table.
        None
    }

    fn at(&self, index: u32) -> &Magazine {
        let (chunk, offset) = position(index);
        let first = self.chunks[chunk].load(Ordering::Acquire);
        // SAFETY: `new_magazine` returns an index only when its chunk exists, with more than `offset` entries.
        let magazine = unsafe { first.add(offset) };
        // SAFETY: as above; chunks live as long as the table, and magazines are only ever borrowed shared.
        unsafe { &*magazine }
    }
}

impl Drop for Magazines {
    fn drop(&mut self) {
        for (at, chunk) in self.chunks.iter().enumerate() {
            let first = chunk.load(Ordering::Relaxed);
            if !first.is_null() {
                let chunk = std::ptr::slice_from_raw_parts_mut(first, FIRST_CHUNK << at);
                // SAFETY: `make_chunk` leaked a box of exactly this slice, and nothing else frees it.
                drop(unsafe { Box::from_raw(chunk) });
            }
        }
    }
}

/// The upper half of the top, incremented by one change.
fn changed(top: u64) -> u64 {
    ((top >> 32).wrapping_add(1)) << 32
}

/// The chunk of a magazine and its place in it.
fn position(index: u32) -> (usize, usize) {
    let number = index as usize / FIRST_CHUNK + 1;
    let chunk = number.ilog2() as usize;
    (chunk, index as usize - FIRST_CHUNK * ((1 << chunk) - 1))
}

/// Makes a chunk and installs it, unless another thread was faster. Returns false if there is no memory for it.
fn make_chunk(slot: &AtomicPtr<Magazine>, len: usize) -> bool {
    let mut chunk = Vec::new();
    if chunk.try_reserve_exact(len).is_err() {
        return false;
    }
    chunk.extend((0..len).map(|_| Magazine {
        below: AtomicU32::new(0),
        len: AtomicU32::new(0),
        slots: std::array::from_fn(|_| AtomicUsize::new(0)),
    }));
    let chunk: Box<[Magazine]> = chunk.into_boxed_slice();
    let first = Box::into_raw(chunk);
    let null = std::ptr::null_mut();
    if slot
        .compare_exchange(null, first.cast::<Magazine>(), Ordering::AcqRel, Ordering::Acquire)
        .is_err()
    {
        // SAFETY: `first` comes from `Box::into_raw` above and was not installed, so no other thread has it.
        drop(unsafe { Box::from_raw(first) });
    }
    true
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn indices_are_dense_in_chunks() {
        let mut expected = Vec::new();
        for chunk in 0..6 {
            expected.extend((0..FIRST_CHUNK << chunk).map(|offset| (chunk, offset)));
        }
        let got: Vec<_> = (0..expected.len() as u32).map(position).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn concurrent_pushes_and_pops_lose_and_duplicate_nothing() {
        let (magazines, stack) = (Magazines::new(), Stack::new());
        let seen = Mutex::new(BTreeSet::new());
        std::thread::scope(|scope| {
            for thread in 0..4usize {
                let (magazines, stack, seen) = (&magazines, &stack, &seen);
                scope.spawn(move || {
                    let mut out = [0; SLOTS];
                    let mut mine = Vec::new();
                    for round in 0..2000 {
                        let first = (thread * 2000 + round) * SLOTS;
                        let len = 1 + round % SLOTS;
                        let blocks: Vec<_> = (first..first + len).collect();
                        assert!(magazines.push(stack, &blocks));
                        if round % 3 != 0 {
                            let got = magazines.pop(stack, &mut out);
                            mine.extend_from_slice(&out[..got]);
                        }
                    }
                    seen.lock().unwrap().extend(mine.iter().copied());
                    assert_eq!(
                        mine.iter().collect::<BTreeSet<_>>().len(),
                        mine.len(),
                        "a block came twice"
                    );
                });
            }
        });
        let mut seen = seen.into_inner().unwrap();
        let mut out = [0; SLOTS];
        loop {
            let got = magazines.pop(&stack, &mut out);
            if got == 0 {
                break;
            }
            assert!(out[..got].iter().all(|&block| seen.insert(block)));
        }
        let pushed: usize = 4 * (0..2000).map(|round| 1 + round % SLOTS).sum::<usize>();
        assert_eq!((seen.len(), stack.depth()), (pushed, 0));
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p bitnet-core --lib magazine::model --release` tries every order of the steps of
/// these threads, with at most three switches between them at points where a thread need not have been left.
#[cfg(all(test, loom))]
mod model {
    use loom::sync::Arc;

    use super::*;

    fn check(body: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(body);
    }

    fn all_of(shared: &(Magazines, Stack)) -> Vec<usize> {
        let (mut out, mut blocks) = ([0; SLOTS], Vec::new());
        loop {
            let got = shared.0.pop(&shared.1, &mut out);
            if got == 0 {
                return blocks;
            }
            blocks.extend_from_slice(&out[..got]);
        }
    }

    #[test]
    fn each_magazine_is_popped_once_and_whole() {
        check(|| {
            let shared = Arc::new((Magazines::new(), Stack::new()));
            let other = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || {
                    assert!(shared.0.push(&shared.1, &[1, 2]));
                    let mut out = [0; SLOTS];
                    let got = shared.0.pop(&shared.1, &mut out);
                    out[..got].to_vec()
                })
            };
            assert!(shared.0.push(&shared.1, &[3]));
            let mut out = [0; SLOTS];
            let got = shared.0.pop(&shared.1, &mut out);
            let mut blocks = out[..got].to_vec();
            blocks.extend(other.join().unwrap());
            blocks.extend(all_of(&shared));
            blocks.sort_unstable();
            assert_eq!(blocks, [1, 2, 3]);
        });
    }

    #[test]
    fn a_reused_top_fails_the_exchange() {
        check(|| {
            let shared = Arc::new((Magazines::new(), Stack::new()));
            assert!(shared.0.push(&shared.1, &[1]));
            assert!(shared.0.push(&shared.1, &[2]));
            let other = {
                let shared = Arc::clone(&shared);
                // Pops both and pushes one: the top has the index that it had before, with another one below.
                loom::thread::spawn(move || {
                    let mut out = [0; SLOTS];
                    let mut popped = Vec::new();
                    for _ in 0..2 {
                        let got = shared.0.pop(&shared.1, &mut out);
                        popped.extend_from_slice(&out[..got]);
                    }
                    if let Some(last) = popped.pop() {
                        assert!(shared.0.push(&shared.1, &[last]));
                    }
                    popped
                })
            };
            let mut out = [0; SLOTS];
            let got = shared.0.pop(&shared.1, &mut out);
            let mut blocks = out[..got].to_vec();
            blocks.extend(other.join().unwrap());
            blocks.extend(all_of(&shared));
            blocks.sort_unstable();
            assert_eq!(blocks, [1, 2]);
        });
    }
}

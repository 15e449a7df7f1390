//! The pool against a model: in random steps on several threads blocks never overlap, are never allocated twice, and
//! keep their content.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bitnet_core::device::Device;
use bitnet_core::memory::{HybridMemoryPool, MemoryHandle, MemoryPoolConfig};
use proptest::prelude::*;

/// The live blocks, by address: bytes used.
#[derive(Default)]
struct Model(Mutex<BTreeMap<usize, usize>>);

impl Model {
    fn add(&self, handle: &MemoryHandle) {
        let (start, size) = (handle.bytes().as_ptr() as usize, handle.size().max(1));
        let mut live = self.0.lock().unwrap();
        if let Some((&before, &bytes)) = live.range(..=start).next_back() {
            assert!(before + bytes <= start, "{start:#x} is in the block at {before:#x}");
        }
        if let Some((&after, _)) = live.range(start..).next() {
            assert!(start + size <= after, "{start:#x} reaches into the block at {after:#x}");
        }
        live.insert(start, size);
    }

    fn remove(&self, handle: &MemoryHandle) {
        let start = handle.bytes().as_ptr() as usize;
        assert!(self.0.lock().unwrap().remove(&start).is_some());
    }
}

/// A handle with the value written to it.
struct Held(MemoryHandle, u64);

impl Held {
    fn new(mut handle: MemoryHandle, value: u64) -> Self {
        for at in Self::samples(handle.size()) {
            handle.bytes_mut()[at] = (value >> (at % 8 * 8)) as u8;
        }
        Self(handle, value)
    }

    fn check(&self) {
        for at in Self::samples(self.0.size()) {
            assert_eq!(self.0.bytes()[at], (self.1 >> (at % 8 * 8)) as u8, "byte {at} was changed");
        }
    }

    /// The first line, the last line, and a byte of each eighth.
    fn samples(size: usize) -> impl Iterator<Item = usize> {
        let step = (size / 8).max(1);
        (0..size.min(64)).chain((0..size).step_by(step)).chain(size.saturating_sub(64)..size)
    }
}

/// Pseudorandom numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize
    }

    fn size(&mut self) -> usize {
        match self.next() % 1000 {
            0 => self.next() % (48 << 20),
            1..=9 => self.next() % (3 << 20),
            10..=49 => self.next() % (1 << 20),
            50..=299 => self.next() % (64 << 10),
            _ => self.next() % 2000,
        }
    }

    fn align(&mut self) -> usize {
        match self.next() % 50 {
            0 => 1 << (self.next() % 22),
            1..=9 => 1 << (self.next() % 13),
            _ => 64,
        }
    }
}

/// `steps` random steps; blocks pass to other threads through `between`.
fn work(
    seed: u64,
    steps: usize,
    pool: &HybridMemoryPool,
    model: &Model,
    between: &Mutex<Vec<Held>>,
    live: &AtomicU64,
) {
    let mut random = Random(seed);
    let mut held: Vec<Held> = Vec::new();
    for step in 0..steps {
        match random.next() % 16 {
            0..=6 => {
                let (size, align) = (random.size(), random.align());
                let handle = if random.next().is_multiple_of(8) {
                    let handle = pool.allocate_zeroed(size, align, &Device::Cpu).unwrap();
                    assert!(Held::samples(size).all(|at| handle.bytes()[at] == 0));
                    handle
                } else {
                    pool.allocate(size, align, &Device::Cpu).unwrap()
                };
                assert_eq!(handle.bytes().as_ptr() as usize % align, 0);
                model.add(&handle);
                live.fetch_add(size as u64, Ordering::Relaxed);
                held.push(Held::new(handle, seed ^ (step as u64).wrapping_mul(0x9e37_79b9)));
            }
            7..=12 if !held.is_empty() => {
                let at = random.next() % held.len();
                free(held.swap_remove(at), pool, model, live);
            }
            13 if !held.is_empty() => {
                let at = random.next() % held.len();
                between.lock().unwrap().push(held.swap_remove(at));
            }
            14 => {
                let taken = between.lock().unwrap().pop();
                held.extend(taken);
            }
            15 if step.is_multiple_of(64) => {
                if held.len() > 100 {
                    held.drain(..50).for_each(|one| free(one, pool, model, live));
                }
                if random.next().is_multiple_of(8) {
                    pool.trim();
                }
            }
            _ => {}
        }
    }
    held.into_iter().for_each(|one| free(one, pool, model, live));
}

fn free(held: Held, pool: &HybridMemoryPool, model: &Model, live: &AtomicU64) {
    held.check();
    model.remove(&held.0);
    live.fetch_sub(held.0.size() as u64, Ordering::Relaxed);
    pool.deallocate(held.0).unwrap();
}

#[test]
fn a_million_random_steps_agree_with_the_model() {
    for threads in [1, 2, 4, 8] {
        let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).unwrap();
        let shared = Arc::new((Model::default(), Mutex::default(), AtomicU64::new(0)));
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (pool, shared) = (pool.clone(), Arc::clone(&shared));
                std::thread::spawn(move || {
                    let (model, between, live) = &*shared;
                    let seed = 1000 * threads + thread;
                    work(seed, 250_000 / threads as usize, &pool, model, between, live);
                })
            })
            .collect();
        // Joined threads, unlike scoped ones, have drained their bins.
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        let (model, between, live) = &*shared;
        let left = std::mem::take(&mut *between.lock().unwrap());
        let bytes: usize = left.iter().map(|one| one.0.size()).sum();
        assert_eq!(pool.get_metrics().total_allocated, bytes as u64);
        assert_eq!(live.load(Ordering::Relaxed), bytes as u64);
        left.into_iter().for_each(|one| free(one, &pool, model, live));
        let metrics = pool.get_metrics();
        assert_eq!((metrics.total_allocated, live.load(Ordering::Relaxed)), (0, 0));
        assert_eq!(metrics.allocations, metrics.deallocations);
        pool.trim();
        assert_eq!(pool.get_metrics().reserved, 0);
    }
}

/// A step of a sequence that can be made smaller when it fails.
#[derive(Debug, Clone)]
enum Step {
    Allocate { size: usize, align_log: u32, zeroed: bool },
    Free(prop::sample::Index),
    Trim,
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![0usize..300, 300usize..70_000, 900_000usize..1_200_000, Just(9 << 20)];
    prop_oneof![
        6 => (size, 0u32..22, any::<bool>())
            .prop_map(|(size, align_log, zeroed)| Step::Allocate { size, align_log, zeroed }),
        5 => any::<prop::sample::Index>().prop_map(Step::Free),
        1 => Just(Step::Trim),
        1 => Just(Step::Compact),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_sequence_of_steps_agrees_with_the_model(steps in prop::collection::vec(step(), 1..200)) {
        let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).unwrap();
        let model = Model::default();
        let mut held: Vec<Held> = Vec::new();
        for (at, step) in steps.into_iter().enumerate() {
            match step {
                Step::Allocate { size, align_log, zeroed } => {
                    let align = 1 << align_log;
                    let handle = if zeroed {
                        pool.allocate_zeroed(size, align, &Device::Cpu)
                    } else {
                        pool.allocate(size, align, &Device::Cpu)
                    };
                    let handle = handle.unwrap();
                    prop_assert!(!zeroed || handle.bytes().iter().all(|&byte| byte == 0));
                    prop_assert_eq!(handle.bytes().as_ptr() as usize % align, 0);
                    model.add(&handle);
                    held.push(Held::new(handle, at as u64 * 0x0101_0101_0101));
                }
                Step::Free(index) if !held.is_empty() => {
                    let one = held.swap_remove(index.index(held.len()));
                    one.check();
                    model.remove(&one.0);
                }
                Step::Free(_) => {}
                Step::Trim => {
                    pool.trim();
                }
                Step::Compact => {
                    let compaction = pool.start_compaction(0.5).unwrap();
                    held = held
                        .into_iter()
                        .map(|Held(handle, value)| {
                            model.remove(&handle);
                            let moved = compaction.relocate(handle).unwrap();
                            model.add(&moved);
                            Held(moved, value)
                        })
                        .collect();
                }
            }
            let live: usize = held.iter().map(|one| one.0.size()).sum();
            prop_assert_eq!(pool.get_metrics().total_allocated, live as u64);
        }
        held.iter().for_each(Held::check);
    }
}

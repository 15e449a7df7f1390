//! Tensors keep their content while cleanups move, compress and release memory concurrently.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bitnet_core::device::Device;
use bitnet_core::memory::cleanup::Strategy;
use bitnet_core::memory::tensor::{BitNetTensor, TensorHandle, TensorRegistry};
use bitnet_core::memory::{CleanupConfig, HybridMemoryPool, MemoryHandle, MemoryPoolConfig};

/// Elements of the tensors, from a few lines to blocks of more than a MiB.
const SIZES: [usize; 6] = [40, 700, 5000, 30_000, 150_000, 400_000];
const TENSORS: usize = 120;

/// Seeded random numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Fills a tensor with values determined by `seed`, its first element.
fn write(values: &mut [f32], seed: u32) {
    for (at, value) in values.iter_mut().enumerate() {
        *value = (seed.wrapping_add(at as u32 * 7) % 65_521) as f32;
    }
}

fn is_whole(values: &[f32]) -> bool {
    let seed = values[0] as u32;
    values
        .iter()
        .enumerate()
        .all(|(at, &value)| value == (seed.wrapping_add(at as u32 * 7) % 65_521) as f32)
}

fn tensor(pool: &HybridMemoryPool, registry: &TensorRegistry, dice: &mut Dice) -> TensorHandle {
    let len = SIZES[dice.below(SIZES.len())];
    let mut tensor = BitNetTensor::zeros(&[len], pool).unwrap();
    write(tensor.f32_mut().unwrap(), dice.below(60_000) as u32);
    TensorHandle::new(tensor, registry)
}

struct Soak {
    pool: HybridMemoryPool,
    registry: TensorRegistry,
    tensors: Vec<Mutex<TensorHandle>>,
    over: AtomicBool,
    checks: AtomicU64,
}

impl Soak {
    fn is_running(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn any(&self, dice: &mut Dice) -> TensorHandle {
        self.tensors[dice.below(TENSORS)].lock().unwrap().clone()
    }

    fn read(&self, mut dice: Dice) {
        while self.is_running() {
            let handle = self.any(&mut dice);
            assert!(is_whole(handle.read().unwrap().f32().unwrap()), "a tensor was damaged");
            self.checks.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write(&self, mut dice: Dice) {
        while self.is_running() {
            let handle = self.any(&mut dice);
            let mut tensor = handle.write().unwrap();
            let values = tensor.f32_mut().unwrap();
            assert!(is_whole(values), "a tensor was damaged");
            write(values, dice.below(60_000) as u32);
            drop(tensor);
            // Its last handle may be dropped while it is being moved or packed.
            let fresh = self::tensor(&self.pool, &self.registry, &mut dice);
            *self.tensors[dice.below(TENSORS)].lock().unwrap() = fresh;
        }
    }

    /// Allocates and frees blocks around the tensors, on short-lived threads.
    fn churn(&self, mut dice: Dice) {
        let mut live: Vec<(u8, MemoryHandle)> = Vec::new();
        while self.is_running() {
            std::thread::scope(|scope| {
                let (live, dice) = (&mut live, &mut dice);
                scope.spawn(move || {
                    for _ in 0..200 {
                        if dice.below(2) == 0 || live.is_empty() {
                            let size = 1 << dice.below(22);
                            let mut block = self.pool.allocate(size, 64, &Device::Cpu).unwrap();
                            block.bytes_mut().fill(size.trailing_zeros() as u8);
                            live.push((size.trailing_zeros() as u8, block));
                        } else {
                            let (value, block) = live.swap_remove(dice.below(live.len()));
                            assert!(block.bytes().iter().all(|&byte| byte == value), "damaged");
                        }
                    }
                });
            });
            live.truncate(60);
        }
    }

    fn clean(&self, mut dice: Dice) {
        let all = Strategy::ALL;
        self.pool.cleanup(all[dice.below(all.len())]);
        if dice.below(3) == 0 {
            self.registry.compress_idle(Duration::ZERO).unwrap();
        }
        self.registry.for_each_idle(Duration::ZERO, |tensor| {
            if dice.below(20) == 0 {
                tensor.relocate(|old| self.pool.allocate(old.size(), 64, &Device::Cpu)).unwrap();
            }
            ControlFlow::Continue(())
        });
    }
}

/// Runs readers, writers and churners against cleanups as long as `more` returns true. Returns the number of cleanups.
fn soak(mut more: impl FnMut(u64) -> bool) -> u64 {
    let cleanup = CleanupConfig {
        idle_cleanup_interval: Duration::ZERO,
        max_cleanup_time: Duration::from_millis(20),
        ..Default::default()
    };
    let config = MemoryPoolConfig {
        enable_automatic_cleanup: true,
        cleanup_config: Some(cleanup),
        ..MemoryPoolConfig::unbounded()
    };
    let pool = HybridMemoryPool::with_config(config).unwrap();
    let registry = TensorRegistry::new(&pool);
    let mut dice = Dice(7);
    let tensors = (0..TENSORS).map(|_| Mutex::new(tensor(&pool, &registry, &mut dice))).collect();
    let (over, checks) = (AtomicBool::new(false), AtomicU64::new(0));
    let soak = Soak { pool, registry, tensors, over, checks };
    let mut rounds = 0;
    std::thread::scope(|scope| {
        let soak = &soak;
        scope.spawn(|| soak.read(Dice(1)));
        scope.spawn(|| soak.read(Dice(2)));
        scope.spawn(|| soak.write(Dice(3)));
        scope.spawn(|| soak.churn(Dice(4)));
        while more(rounds) {
            soak.clean(Dice(rounds));
            rounds += 1;
        }
        soak.over.store(true, Ordering::Relaxed);
    });
    let metrics = soak.pool.cleanup_metrics();
    println!("{} checks, {rounds} rounds, {metrics:?}", soak.checks.load(Ordering::Relaxed));
    assert!(metrics.moved.0 > 0 && metrics.compressed.0 > 0, "{metrics:?}");
    let Soak { pool, registry, tensors, .. } = soak;
    assert!(tensors.iter().all(|t| is_whole(t.lock().unwrap().read().unwrap().f32().unwrap())));
    drop((registry, tensors));
    assert_eq!(pool.get_metrics().total_allocated, 0);
    rounds
}

#[test]
fn contents_survive_forty_cleanups() {
    assert_eq!(soak(|rounds| rounds < 40), 40);
}

#[test]
#[ignore = "takes a minute"]
fn nothing_is_damaged_in_a_minute_of_cleanups() {
    let start = Instant::now();
    assert!(soak(|_| start.elapsed() < Duration::from_secs(60)) > 40);
}

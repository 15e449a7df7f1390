//! The threads that clean pools: they start and end with their pool.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bitnet_core::device::Device;
use bitnet_core::memory::cleanup::Strategy;
use bitnet_core::memory::tensor::{BitNetTensor, TensorHandle, TensorRegistry};
use bitnet_core::memory::{CleanupConfig, HybridMemoryPool, MemoryPoolConfig};

const MIB: usize = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);

/// One test at a time: each counts threads of the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn config(idle: Duration) -> MemoryPoolConfig {
    let cleanup = CleanupConfig { idle_cleanup_interval: idle, ..Default::default() };
    MemoryPoolConfig {
        max_small_pool_size: 36 * MIB,
        max_large_pool_size: 64 * MIB,
        enable_automatic_cleanup: true,
        cleanup_config: Some(cleanup),
        ..MemoryPoolConfig::unbounded()
    }
}

fn pool(idle: Duration) -> HybridMemoryPool {
    HybridMemoryPool::with_config(config(idle)).unwrap()
}

/// Threads of this process that clean a pool; `None` where the system does not list them.
fn cleaning_threads() -> Option<usize> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    Some(tasks.flatten().filter_map(name).filter(|name| name.trim() == "bitnet-cleanup").count())
}

/// Waits until `done`.
#[track_caller]
fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(300), "{what} does not come");
        std::thread::yield_now();
    }
}

fn wait_until_ended() {
    wait_until("the end of the threads", || cleaning_threads().unwrap_or(0) == 0);
}

#[test]
fn a_pool_has_a_thread_only_if_configured() {
    let _alone = alone();
    let quiet = HybridMemoryPool::new().unwrap();
    assert!(matches!(cleaning_threads(), None | Some(0)));
    let cleaned = pool(HOUR);
    let again = cleaned.clone();
    wait_until("the thread", || matches!(cleaning_threads(), None | Some(1)));
    drop(cleaned);
    assert!(matches!(cleaning_threads(), None | Some(1)), "a clone is left");
    drop(again);
    // It has been joined, but the system may list it for a moment more.
    wait_until_ended();
    drop(quiet);
}

#[test]
fn an_idle_pool_is_cleaned_automatically() {
    let _alone = alone();
    let pool = pool(Duration::from_millis(1));
    let registry = TensorRegistry::new(&pool);
    let handle = TensorHandle::new(BitNetTensor::zeros(&[1000], &pool).unwrap(), &registry);
    let mut block = pool.allocate(40 * MIB, 64, &Device::Cpu).unwrap();
    block.bytes_mut().fill(1);
    let address = block.bytes().as_ptr();
    wait_until("a cleanup", || {
        Strategy::ALL.iter().any(|&strategy| pool.cleanup_metrics().runs(strategy) > 0)
    });
    assert_eq!((address, block.bytes()[40 * MIB - 1]), (block.bytes().as_ptr(), 1));
    drop(block);
    if pool.resident_bytes().is_some() {
        wait_until("the return", || pool.resident_bytes().unwrap() < MIB);
        wait_until("the account of it", || pool.cleanup_metrics().returned >= 40 << 20);
    }
    drop(pool);
    assert_eq!(handle.read().unwrap().f32().unwrap().len(), 1000);
    drop(registry);
    assert!(matches!(cleaning_threads(), None | Some(1)), "the handle keeps the pool");
    drop(handle);
    wait_until_ended();
}

#[test]
fn pressure_wakes_the_thread() {
    let _alone = alone();
    let pool = pool(HOUR);
    let blocks: Vec<_> =
        (0..15).map(|_| pool.allocate(4 * MIB, 64, &Device::Cpu).unwrap()).collect();
    let small: Vec<_> =
        (0..34).map(|_| pool.allocate(MIB - 64, 64, &Device::Cpu).unwrap()).collect();
    wait_until("the cleanup", || pool.cleanup_metrics().runs(Strategy::Pressure) > 0);
    drop((blocks, small, pool));
    wait_until_ended();
}

#[test]
fn a_thousand_pools_leave_no_thread() {
    let _alone = alone();
    for at in 0..1000 {
        let pool = pool(if at % 2 == 0 { HOUR } else { Duration::ZERO });
        if at % 3 == 0 {
            drop(pool.allocate(100, 64, &Device::Cpu).unwrap());
        }
    }
    wait_until_ended();
}

#[test]
fn a_pool_may_end_in_a_callback_and_before_its_blocks() {
    let _alone = alone();
    for _ in 0..50 {
        let config = MemoryPoolConfig { enable_advanced_tracking: true, ..config(Duration::ZERO) };
        let pool = HybridMemoryPool::with_config(config).unwrap();
        let last: Arc<Mutex<Option<HybridMemoryPool>>> = Arc::default();
        let ended = Arc::new(AtomicBool::new(false));
        let (taken, had_ended) = (Arc::clone(&last), Arc::clone(&ended));
        pool.register_pressure_callback(Box::new(move |_| {
            let pool = taken.lock().unwrap().take();
            let had = pool.is_some();
            drop(pool);
            had_ended.fetch_or(had, Ordering::SeqCst);
        }));
        let blocks: Vec<_> =
            (0..15).map(|_| pool.allocate(4 * MIB, 64, &Device::Cpu).unwrap()).collect();
        let small: Vec<_> =
            (0..35).map(|_| pool.allocate(MIB - 64, 64, &Device::Cpu).unwrap()).collect();
        *last.lock().unwrap() = Some(pool);
        // The level falls, and the callback drops the last pool, here or on the cleaning thread.
        drop(blocks);
        drop(small);
        wait_until("the callback", || ended.load(Ordering::SeqCst));
    }
    wait_until_ended();
}

#[test]
fn the_last_owner_may_be_any_thread() {
    let _alone = alone();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let pool = pool(Duration::ZERO);
                    let registry = TensorRegistry::new(&pool);
                    let tensor = BitNetTensor::zeros(&[500], &pool).unwrap();
                    drop(pool);
                    let handle = TensorHandle::new(tensor, &registry);
                    drop(registry);
                    let other = std::thread::spawn(move || drop(handle));
                    other.join().unwrap();
                }
            });
        }
    });
    wait_until_ended();
}

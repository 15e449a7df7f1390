//! Cleanups release the bytes that they report, compared with the resident set of the process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use bitnet_core::device::Device;
use bitnet_core::memory::cleanup::{CleanupSchedule, Strategy};
use bitnet_core::memory::tensor::{BitNetTensor, TensorHandle, TensorRegistry};
use bitnet_core::memory::tracking::{LatencyKind, SystemFiles};
use bitnet_core::memory::{
    CleanupConfig, CleanupReport, HybridMemoryPool, ManualClock, MemoryHandle, MemoryPoolConfig,
    TrackingConfig, TrackingLevel,
};

const MIB: usize = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// One test at a time: each measures the memory of the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Enough time that no cleanup is cut short.
fn patient() -> CleanupConfig {
    CleanupConfig { max_cleanup_time: 600 * SECOND, ..Default::default() }
}

fn pool_of(max_small: usize, max_large: usize, config: CleanupConfig) -> HybridMemoryPool {
    let config = MemoryPoolConfig {
        max_small_pool_size: max_small,
        max_large_pool_size: max_large,
        cleanup_config: Some(config),
        ..MemoryPoolConfig::unbounded()
    };
    HybridMemoryPool::with_config(config).unwrap()
}

fn pool() -> HybridMemoryPool {
    pool_of(1 << 40, 1 << 40, patient())
}

/// Bytes of this process in memory.
fn process_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<usize>().unwrap() * 1024
}

fn touched(pool: &HybridMemoryPool, size: usize) -> MemoryHandle {
    let mut handle = pool.allocate(size, 64, &Device::Cpu).unwrap();
    handle.bytes_mut().fill(0x5a);
    handle
}

/// Blocks of all kinds, all written, 110 MiB of them.
fn mix(pool: &HybridMemoryPool) -> Vec<MemoryHandle> {
    let kinds =
        [(200, 20_000), (5_000, 2000), (70_000, 200), (700_000, 20), (3 * MIB, 8), (36 * MIB, 1)];
    kinds.iter().flat_map(|&(size, count)| (0..count).map(move |_| touched(pool, size))).collect()
}

/// The report of `clean`, and the bytes by which the process shrank meanwhile.
fn watched(clean: impl FnOnce() -> CleanupReport) -> (CleanupReport, usize) {
    let before = process_bytes();
    let report = clean();
    (report, before.saturating_sub(process_bytes()))
}

/// Within a thirtieth, and half a MiB for what the test itself does.
#[track_caller]
fn assert_near(reported: usize, seen: usize) {
    assert!(reported.abs_diff(seen) <= seen / 30 + MIB / 2, "{reported} reported, {seen} seen");
}

#[test]
fn each_strategy_reports_the_bytes_released() {
    let _alone = alone();
    for strategy in Strategy::ALL {
        let pool = pool();
        drop(mix(&pool));
        let (report, seen) = watched(|| pool.cleanup(strategy));
        assert_near(report.returned(), seen);
        assert!(report.returned() >= 90 * MIB, "{report}");
        assert!(!report.was_cut && report.strategy == strategy);
        let [before, after] = [report.resident_before, report.resident_after].map(Option::unwrap);
        assert_eq!(before - after, report.returned(), "{report}");
        let again = pool.cleanup(strategy);
        assert_eq!((again.returned(), again.resident_before), (0, report.resident_after));
        let metrics = pool.cleanup_metrics();
        assert_eq!(Strategy::ALL.map(|s| metrics.runs(s)).iter().sum::<u64>(), 2);
        assert_eq!(metrics.runs(strategy), 2);
        assert_eq!(metrics.returned, report.returned() as u64);
    }
}

#[test]
fn free_spans_between_live_blocks_are_released() {
    let _alone = alone();
    let pool = pool();
    let mut blocks = mix(&pool);
    let mut at = 0;
    blocks.retain(|_| {
        at += 1;
        at % 3 == 0
    });
    let (report, seen) = watched(|| pool.cleanup_now());
    assert_near(report.returned(), seen);
    assert!(seen > 20 * MIB, "{report}");
    assert!(blocks.iter().all(|block| block.bytes().iter().all(|&byte| byte == 0x5a)));
}

#[test]
fn a_schedule_runs_each_strategy_when_it_is_due() {
    let _alone = alone();
    let pool = pool_of(4 * MIB, 96 * MIB, patient());
    let config = CleanupConfig { max_cleanup_time: SECOND, ..patient() };
    let manual = ManualClock::new();
    let silent = Box::new(SystemFiles::under("absent"));
    let mut schedule = CleanupSchedule::with_system(config, manual.clock(), silent);
    let mut blocks: Vec<_> = (0..20).map(|_| touched(&pool, 4 * MIB)).collect();
    assert_eq!(schedule.run_due(&pool), None);
    blocks.truncate(12);
    manual.advance(schedule.next_check());
    assert_eq!(schedule.run_due(&pool), None, "the activity is observed");
    manual.advance(30 * SECOND);
    let (report, seen) = watched(|| schedule.run_due(&pool).unwrap());
    assert_eq!(report.strategy, Strategy::Idle);
    assert_near(report.returned(), seen);
    assert!(report.returned() >= 32 * MIB, "{report}");
    manual.advance(300 * SECOND);
    assert_eq!(schedule.run_due(&pool), None, "no activity");

    blocks.extend((12..24).map(|_| touched(&pool, 4 * MIB)));
    drop(blocks.pop());
    let (report, seen) = watched(|| schedule.run_due(&pool).unwrap());
    assert_eq!(report.strategy, Strategy::Pressure, "92 of 100 MiB are in use");
    assert_near(report.returned(), seen);
    assert!(report.returned() >= 4 * MIB, "{report}");

    blocks.truncate(16);
    let mut periodic = None;
    for _ in 0..29 {
        manual.advance(10 * SECOND);
        drop(touched(&pool, 100));
        assert_eq!(schedule.run_due(&pool), None);
    }
    manual.advance(10 * SECOND);
    drop(touched(&pool, 100));
    let (_, seen) = watched(|| *periodic.insert(schedule.run_due(&pool).unwrap()));
    let report = periodic.unwrap();
    assert_eq!(report.strategy, Strategy::Periodic);
    assert_near(report.returned(), seen);
    assert!(report.returned() >= 28 * MIB, "{report}");
}

#[test]
fn compression_is_reported_and_nothing_is_due_after_it() {
    let _alone = alone();
    let pool = pool_of(4 * MIB, 72 * MIB, patient());
    let manual = ManualClock::new();
    let registry = TensorRegistry::with_clock(&pool, manual.clock());
    let mut tensor = BitNetTensor::scratch(&[70 * MIB / 4], &pool).unwrap();
    tensor.bytes_mut().unwrap().fill(3);
    let handle = TensorHandle::new(tensor, &registry);
    manual.advance(60 * SECOND);
    let silent = Box::new(SystemFiles::under("absent"));
    let config = CleanupConfig { max_cleanup_time: SECOND, ..patient() };
    let mut schedule = CleanupSchedule::with_system(config, manual.clock(), silent);
    let (report, seen) = watched(|| schedule.run_due(&pool).unwrap());
    assert_eq!((report.strategy, report.compressed.tensors), (Strategy::Pressure, 1));
    assert_near(report.returned(), seen);
    assert!(report.returned() >= 60 * MIB, "{report}");
    for _ in 0..100 {
        manual.advance(10 * SECOND);
        assert_eq!(schedule.run_due(&pool), None, "no activity");
    }
    assert!(handle.read().unwrap().bytes().unwrap().iter().all(|&byte| byte == 3));
}

#[test]
fn the_time_of_a_purge_is_recorded() {
    let _alone = alone();
    let tracking = TrackingConfig { level: TrackingLevel::Detailed, ..Default::default() };
    let config = MemoryPoolConfig {
        enable_advanced_tracking: true,
        tracking_config: Some(tracking),
        cleanup_config: Some(patient()),
        ..MemoryPoolConfig::unbounded()
    };
    let pool = HybridMemoryPool::with_config(config).unwrap();
    drop(mix(&pool));
    let of_trims = || pool.tracker().unwrap().latencies(LatencyKind::Trim).unwrap();
    assert_eq!(of_trims().count, 0);
    let report = pool.cleanup_now();
    assert_eq!(of_trims().count, 1);
    assert!(u128::from(of_trims().max) <= report.took.as_nanos() && of_trims().max > 0);
}

#[test]
fn a_cleanup_without_time_reports_that_it_was_cut() {
    let _alone = alone();
    let pool =
        pool_of(1 << 40, 1 << 40, CleanupConfig { max_cleanup_time: Duration::ZERO, ..patient() });
    drop(mix(&pool));
    let (report, seen) = watched(|| pool.cleanup_now());
    assert!(report.was_cut && report.returned() == 0, "{report}");
    assert!(seen < 4 * MIB, "{seen}");
    assert_eq!((pool.cleanup_metrics().cut, pool.cleanup_metrics().overruns), (1, 1));
    assert!(pool.trim() >= 90 * MIB, "what was not done is still there to be done");
}

/// A tensor whose elements encode its number and their positions.
fn numbered(
    pool: &HybridMemoryPool,
    registry: &TensorRegistry,
    elements: usize,
    number: usize,
) -> TensorHandle {
    let mut tensor = BitNetTensor::zeros(&[elements], pool).unwrap();
    for (at, value) in tensor.f32_mut().unwrap().iter_mut().enumerate() {
        *value = (number * 31 + at % 1021) as f32;
    }
    TensorHandle::new(tensor, registry)
}

fn is_numbered(handle: &TensorHandle, number: usize) -> bool {
    let tensor = handle.read().unwrap();
    tensor.f32().unwrap().iter().enumerate().all(|(at, &v)| v == (number * 31 + at % 1021) as f32)
}

/// Every tenth of many tensors, with its number: their memory is sparse.
fn scattered(pool: &HybridMemoryPool, registry: &TensorRegistry) -> Vec<(usize, TensorHandle)> {
    let kinds = [(100, 20_000), (1300, 3000), (20_000, 300), (800_000, 60)];
    let mut sparse = Vec::new();
    for (elements, count) in kinds {
        let all: Vec<_> = (0..count).map(|n| (n, numbered(pool, registry, elements, n))).collect();
        sparse.extend(all.into_iter().filter(|(n, _)| n % 10 == 0));
    }
    sparse
}

#[test]
fn tensors_are_moved_out_of_sparse_memory_and_keep_their_content() {
    let _alone = alone();
    let pool = pool();
    let registry = TensorRegistry::new(&pool);
    let sparse = scattered(&pool, &registry);
    let held = sparse[3].1.read().unwrap();
    let address = held.bytes().unwrap().as_ptr();
    let still = CleanupConfig { enable_compaction: false, ..patient() };
    assert_eq!(Strategy::OnDemand.work(&still).move_idle_for, None);
    let (report, seen) = watched(|| pool.cleanup_now());
    assert_near(report.returned(), seen);
    assert!(report.compacted.tensors > 100 && report.compacted.refused == 0, "{report:?}");
    assert!(report.released_after_moving.total() > MIB, "{report}");
    // Most resident bytes are in use now: a tenth was before.
    let in_use = pool.get_metrics().total_allocated as usize;
    let [before, after] = [report.resident_before, report.resident_after].map(Option::unwrap);
    assert!(in_use * 5 < before && in_use * 10 > after * 6, "{in_use} of {before}, then {after}");
    assert_eq!(held.bytes().unwrap().as_ptr(), address, "it is being read");
    drop(held);
    assert!(sparse.iter().all(|(number, handle)| is_numbered(handle, *number)));
    drop(sparse);
    assert_eq!(pool.get_metrics().total_allocated, 0);
}

#[test]
fn under_pressure_idle_tensors_are_compressed_and_others_are_not() {
    let _alone = alone();
    let pool = pool();
    let manual = ManualClock::new();
    let registry = TensorRegistry::with_clock(&pool, manual.clock());
    let handles: Vec<_> = (0..6).map(|n| numbered(&pool, &registry, 1 << 20, n)).collect();
    assert_eq!(pool.cleanup(Strategy::Pressure).compressed.tensors, 0, "no tensor was idle");
    manual.advance(30 * SECOND);
    assert!(is_numbered(&handles[1], 1));
    assert_eq!(pool.cleanup(Strategy::Idle).compressed.tensors, 0, "memory is not short");
    let (report, seen) = watched(|| pool.cleanup(Strategy::Pressure));
    assert_eq!(report.compressed.tensors, 5, "{report}");
    assert_near(report.returned(), seen);
    assert!(seen > 15 * MIB, "{report}");
    assert_eq!(pool.cleanup_metrics().compressed.0, 5);
    assert!(handles.iter().enumerate().all(|(n, handle)| is_numbered(handle, n)));
}

#[test]
fn an_attached_registry_is_not_kept_alive() {
    let _alone = alone();
    let (pool, other) = (pool(), pool());
    let registry = TensorRegistry::new(&other);
    let sparse = scattered(&pool, &registry);
    assert_eq!(pool.cleanup_now().compacted.tensors, 0, "the registry is not attached");
    pool.attach_registry(&registry);
    pool.attach_registry(&registry);
    assert!(pool.cleanup_now().compacted.tensors > 100);
    assert!(sparse.iter().all(|(number, handle)| is_numbered(handle, *number)));
    drop(registry);
    drop(sparse);
    let report = pool.cleanup_now();
    assert_eq!((report.compacted.sparse_bytes, pool.get_metrics().total_allocated), (0, 0));
}

#[test]
fn memory_of_the_last_handle_is_reclaimed() {
    let _alone = alone();
    let pool = pool();
    let registry = TensorRegistry::new(&pool);
    let compressed = numbered(&pool, &registry, 1 << 20, 1);
    assert_eq!(registry.compress_idle(Duration::ZERO).unwrap().tensors, 1);
    assert!(compressed.is_compressed());
    drop(compressed);
    assert_eq!(pool.get_metrics().total_allocated, 0, "packed");

    // The last handle is dropped while the tensor is being moved.
    let sparse = scattered(&pool, &registry);
    let (visiting, visited) = mpsc::channel();
    let (dropped, continued) = mpsc::channel();
    std::thread::scope(|scope| {
        let (pool, registry) = (&pool, &registry);
        let mover = scope.spawn(move || {
            let compaction = pool.start_compaction(0.25).unwrap();
            let mut moved = 0;
            registry.for_each_idle(Duration::ZERO, |tensor| {
                if tensor.block().is_some_and(|block| compaction.concerns(block)) {
                    if moved == 0 {
                        visiting.send(()).unwrap();
                        continued.recv().unwrap();
                    }
                    moved += usize::from(tensor.leave_sparse(&compaction, None).unwrap());
                }
                ControlFlow::Continue(())
            });
            assert_eq!(moved, 1, "the others were dropped meanwhile");
        });
        visited.recv().unwrap();
        drop(sparse);
        dropped.send(()).unwrap();
        // Joined, so that its bins are drained.
        mover.join().unwrap();
    });
    assert_eq!((pool.get_metrics().total_allocated, registry.len()), (0, 0));
    pool.cleanup_now();
    assert_eq!(pool.resident_bytes(), Some(0));
}

#[test]
fn bins_of_ended_threads_are_reclaimed() {
    let _alone = alone();
    let pool = pool();
    let handles: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut blocks: Vec<_> =
                        (0..400).map(|at| touched(&pool, 64 << (at % 12))).collect();
                    blocks.split_off(399)
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(handles.len(), 8);
    drop(handles);
    let (report, seen) = watched(|| pool.cleanup_now());
    assert_near(report.returned(), seen);
    assert_eq!(report.resident_after, Some(0), "{report}");
    assert_eq!(pool.get_metrics().total_allocated, 0);
}

#[test]
fn a_full_pool_does_not_fail_because_it_is_being_cleaned() {
    let _alone = alone();
    let pool = pool_of(8 * MIB, 64 * MIB, patient());
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                pool.cleanup_now();
            }
        });
        for round in 0..200 {
            // Each allocates the whole limit.
            let sizes: &[usize] =
                if round % 2 == 0 { &[64 * MIB] } else { &[32 * MIB, 16 * MIB, 16 * MIB] };
            for &size in sizes {
                let mut block = pool.allocate(size, 64, &Device::Cpu).unwrap();
                block.bytes_mut()[size / 2] = 1;
                if sizes.len() == 1 {
                    drop(block);
                } else {
                    pool.deallocate(block).unwrap();
                }
            }
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

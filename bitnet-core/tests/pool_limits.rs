//! The limits of a pool: refused allocations, pressure before them, and fragmentation.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitnet_core::device::Device;
use bitnet_core::memory::MemoryPressureLevel::{self, Critical, High, Low, Medium};
use bitnet_core::memory::{
    HybridMemoryPool, MemoryHandle, MemoryPoolConfig, TrackingConfig, TrackingLevel,
};
use bitnet_core::{Error, MemoryLimit};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

fn pool(small: usize, large: usize, level: Option<TrackingLevel>) -> HybridMemoryPool {
    HybridMemoryPool::with_config(MemoryPoolConfig {
        initial_small_pool_size: 0,
        max_small_pool_size: small,
        initial_large_pool_size: 0,
        max_large_pool_size: large,
        enable_advanced_tracking: level.is_some(),
        tracking_config: level.map(|level| TrackingConfig { level, ..TrackingConfig::default() }),
        enable_automatic_cleanup: false,
        cleanup_config: None,
    })
    .unwrap()
}

/// Blocks of `size` bytes until one is refused, and why it was.
fn fill(pool: &HybridMemoryPool, size: usize) -> (Vec<MemoryHandle>, Error) {
    let mut held = Vec::new();
    loop {
        match pool.allocate(size, 64, &Device::Cpu) {
            Ok(handle) => held.push(handle),
            Err(error) => return (held, error),
        }
    }
}

fn bytes_of(held: &[MemoryHandle]) -> usize {
    held.iter().map(MemoryHandle::size).sum()
}

#[test]
fn small_blocks_are_within_max_small_pool_size() {
    for size in [1, 64, 1000, 64 * KIB, 300 * KIB, MIB - 1] {
        let pool = pool(8 * MIB, 64 * MIB, None);
        let (held, error) = fill(&pool, size);
        assert!(held.iter().map(MemoryHandle::occupied).sum::<usize>() <= 8 * MIB, "{size}");
        assert!(pool.get_metrics().reserved as usize <= 8 * MIB, "no page is taken elsewhere");
        let met = MemoryLimit::SmallPool;
        assert!(
            matches!(error, Error::OutOfMemory { bytes, limit, met: found, .. }
                if bytes == size && limit == 8 * MIB && found == met),
            "{error}"
        );
        assert!(error.to_string().contains("`max_small_pool_size`, is 8388608"), "{error}");
        let large = pool.allocate(40 * MIB, 64, &Device::Cpu);
        assert!(large.is_ok(), "large blocks have their own limit");
    }
}

#[test]
fn large_blocks_are_within_max_large_pool_size() {
    for size in [MIB, 3 * MIB, 40 * MIB] {
        let pool = pool(8 * MIB, 64 * MIB, None);
        let (held, error) = fill(&pool, size);
        assert!(bytes_of(&held) <= 64 * MIB);
        assert!(
            matches!(error, Error::OutOfMemory { live, limit, met: MemoryLimit::LargePool, .. }
            if live == bytes_of(&held) && limit == 64 * MIB)
        );
        assert!(error.to_string().contains("`max_large_pool_size`, is 67108864"), "{error}");
        assert!(pool.allocate(MIB - 1, 64, &Device::Cpu).is_ok(), "small ones have their own");
    }
}

#[test]
fn an_error_names_the_system_and_the_largest_block() {
    let pool = pool(8 * MIB, 64 * MIB, None);
    pool.refuse_mappings_after(Some(0));
    for size in [64, 2 * MIB] {
        let error = pool.allocate(size, 64, &Device::Cpu).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { met: MemoryLimit::System, .. }), "{error}");
        assert!(error.to_string().contains("the operating system refused"), "{error}");
    }
    let error = pool.allocate(1 << 46, 64, &Device::Cpu).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { met: MemoryLimit::Block, .. }), "{error}");
}

#[test]
fn errors_name_the_limit_that_excludes_the_block() {
    // The limit allows 300 KiB, but not the block of 320 KiB that they need.
    let small = pool(310 * KIB, 3 * MIB, None);
    let error = small.allocate(300 * KIB, 64, &Device::Cpu).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { met: MemoryLimit::SmallPool, .. }), "{error}");
    // The limit allows an aligned block that the system refuses.
    small.refuse_mappings_after(Some(0));
    let error = small.allocate(2 * MIB, 2 * MIB, &Device::Cpu).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { met: MemoryLimit::System, .. }), "{error}");
}

#[test]
fn callbacks_receive_every_failure() {
    let pool = pool(8 * MIB, 64 * MIB, Some(TrackingLevel::Basic));
    let calls = Arc::new(Mutex::new(0));
    let received = Arc::clone(&calls);
    let _held = pool.allocate(44 * MIB, 64, &Device::Cpu).unwrap();
    pool.register_pressure_callback(Box::new(move |level| {
        if level == Critical {
            *received.lock().unwrap() += 1;
        }
    }));
    for count in 1..=3 {
        assert!(pool.allocate(40 * MIB, 64, &Device::Cpu).is_err());
        assert_eq!(
            *calls.lock().unwrap(),
            count,
            "Critical is the level already from the second on"
        );
    }
}

#[test]
fn callbacks_see_the_block_among_the_leaks() {
    let pool = Arc::new(pool(8 * MIB, 64 * MIB, Some(TrackingLevel::Detailed)));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (observed, received) = (Arc::downgrade(&pool), Arc::clone(&seen));
    pool.register_pressure_callback(Box::new(move |_| {
        let pool = observed.upgrade().unwrap();
        let report = pool.tracker().unwrap().leaks(Duration::ZERO);
        received.lock().unwrap().push(report.leaks.iter().map(|leak| leak.size).sum::<usize>());
    }));
    let _held = pool.allocate(60 * MIB, 64, &Device::Cpu).unwrap();
    assert_eq!(seen.lock().unwrap().first().copied(), Some(60 * MIB));
}

/// The levels that callbacks received while `pool` was filled with blocks of `size` bytes, before and at the refusal.
fn levels_while_filling(
    pool: &HybridMemoryPool,
    size: usize,
) -> (Vec<MemoryPressureLevel>, Vec<MemoryPressureLevel>) {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let received = Arc::clone(&calls);
    pool.register_pressure_callback(Box::new(move |level| received.lock().unwrap().push(level)));
    let (mut held, mut before) = (Vec::new(), Vec::new());
    while let Ok(handle) = pool.allocate(size, 64, &Device::Cpu) {
        held.push(handle);
        before.clone_from(&calls.lock().unwrap());
    }
    let all = calls.lock().unwrap().clone();
    (before, all)
}

#[test]
fn high_and_critical_come_before_memory_runs_out() {
    for level in [TrackingLevel::Basic, TrackingLevel::Standard, TrackingLevel::Detailed] {
        for size in [64, 1000, 4096, 64 * KIB, 256 * KIB, MIB, 2 * MIB] {
            // The system may be under pressure too, of which these levels are then a part.
            let (before, _) = levels_while_filling(&pool(32 * MIB, 64 * MIB, Some(level)), size);
            assert!(before.contains(&High), "{level:?}, {size}: {before:?}");
            assert!(before.contains(&Critical), "{level:?}, {size}: {before:?}");
        }
    }
}

#[test]
fn a_rise_of_pressure_skips_no_level() {
    for size in [64, 5000, 700 * KIB, MIB, 5 * MIB, 14 * MIB, 60 * MIB] {
        let pool = pool(8 * MIB, 64 * MIB, Some(TrackingLevel::Basic));
        let (_, all) = levels_while_filling(&pool, size);
        let order = [Low, Medium, High, Critical];
        for (at, level) in all.iter().enumerate().filter(|(_, level)| **level > Low) {
            let below = order[*level as usize - 2];
            let before = at.checked_sub(1).map(|at| all[at]);
            assert!(before.is_some_and(|before| before >= below), "{size}: {all:?}");
        }
        assert!(all.contains(&Critical), "{size}: the failure itself is reported: {all:?}");
    }
}

#[test]
fn memory_freed_by_a_callback_serves_the_failing_allocation() {
    let pool = pool(8 * MIB, 64 * MIB, Some(TrackingLevel::Basic));
    let spare = Arc::new(Mutex::new(Vec::new()));
    // 52 MiB of 64 in two pieces: another 16 MiB are refused at first, at level Low.
    let cache = pool.allocate(20 * MIB, 64, &Device::Cpu).unwrap();
    spare.lock().unwrap().push(cache);
    let _held = pool.allocate(32 * MIB, 64, &Device::Cpu).unwrap();
    let shared = Arc::clone(&spare);
    pool.register_pressure_callback(Box::new(move |level| {
        if level == Critical {
            shared.lock().unwrap().clear();
        }
    }));
    assert!(pool.allocate(16 * MIB, 64, &Device::Cpu).is_ok());
    assert!(spare.lock().unwrap().is_empty());
}

#[test]
fn an_untouched_pool_has_no_fragmentation() {
    for (small, large) in [(0, 0), (64 * MIB, 128 * MIB), (MIB, 100 * MIB), (12288, 4096)] {
        let pool = HybridMemoryPool::with_config(MemoryPoolConfig {
            initial_small_pool_size: small,
            initial_large_pool_size: large,
            enable_advanced_tracking: true,
            ..MemoryPoolConfig::default()
        })
        .unwrap();
        let none = |when: &str| {
            let metrics = pool.get_detailed_metrics().unwrap();
            let ratios = [
                metrics.fragmentation_ratio,
                metrics.internal_fragmentation,
                metrics.external_fragmentation,
            ];
            assert_eq!(ratios, [0.0; 3], "{when}, {small} and {large}: {:?}", metrics.figures);
        };
        none("untouched");
        drop(pool.allocate(3 * MIB, 64, &Device::Cpu).unwrap());
        none("with a large block that came back");
        drop(pool.allocate(1000, 64, &Device::Cpu).unwrap());
        none("with a small block that came back");
    }
}

#[test]
fn free_pieces_between_live_blocks_are_fragmentation() {
    let pool = pool(8 * MIB, 64 * MIB, Some(TrackingLevel::Basic));
    let blocks: Vec<_> = (0..64).map(|_| pool.allocate(MIB, 64, &Device::Cpu).unwrap()).collect();
    let odd: Vec<_> =
        blocks.into_iter().enumerate().filter_map(|(at, b)| (at % 2 == 1).then_some(b)).collect();
    let metrics = pool.get_detailed_metrics().unwrap();
    // 32 pieces of 1 MiB, and the largest is one of them.
    assert_eq!(metrics.external_fragmentation, 31.0 / 32.0);
    drop(odd);
}

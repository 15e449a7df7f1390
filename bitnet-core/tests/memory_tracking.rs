//! The reports of a tracked pool, through its public interface.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bitnet_core::device::Device;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::memory::{
    HybridMemoryPool, MemoryHandle, MemoryPoolConfig, MemoryPressureLevel, PoolBuffer, Purpose,
    TrackingConfig, TrackingLevel,
};
use serde_json::Value;

fn tracked(level: TrackingLevel) -> HybridMemoryPool {
    let config = MemoryPoolConfig {
        initial_small_pool_size: 0,
        max_small_pool_size: 16 << 20,
        initial_large_pool_size: 0,
        max_large_pool_size: 48 << 20,
        enable_advanced_tracking: true,
        tracking_config: Some(TrackingConfig { level, ..Default::default() }),
        enable_automatic_cleanup: false,
        cleanup_config: None,
    };
    HybridMemoryPool::with_config(config).expect("nothing is reserved")
}

/// Allocates all that the pool has, first large blocks and then small ones.
fn fill(pool: &HybridMemoryPool) -> Vec<MemoryHandle> {
    let mut held = Vec::new();
    for size in [1 << 20, 256 << 10] {
        while let Ok(handle) = pool.allocate(size, 64, &Device::Cpu) {
            held.push(handle);
        }
    }
    held
}

#[test]
fn an_untracked_pool_has_no_detailed_metrics() {
    let pool = HybridMemoryPool::new().unwrap();
    pool.register_pressure_callback(Box::new(|_| ()));
    assert!(pool.get_detailed_metrics().is_none());
    assert!(tracked(TrackingLevel::None).get_detailed_metrics().is_none());
}

#[test]
fn every_level_from_basic_on_reports_fragmentation_classes_and_purposes() {
    for level in [TrackingLevel::Basic, TrackingLevel::Standard, TrackingLevel::Detailed] {
        let pool = tracked(level);
        let weights = pool.for_purpose(Purpose::Weights);
        let held = weights.allocate(100_000, 64, &Device::Cpu).unwrap();
        drop(pool.allocate(3 << 20, 64, &Device::Cpu).unwrap());
        let metrics = pool.get_detailed_metrics().unwrap();
        assert_eq!(metrics.level, level);
        let figures = &metrics.figures;
        assert_eq!((figures.requested, figures.allocations), (100_000, 2));
        assert_eq!(figures.by_purpose[Purpose::Weights.index()], 100_000);
        assert!(figures.occupied >= 100_000 && figures.mapped >= figures.occupied);
        assert!(figures.peak_requested >= 3 << 20);
        assert_eq!(figures.classes.iter().map(|class| class.live_blocks).sum::<u64>(), 1);
        let ratios = [
            metrics.fragmentation_ratio,
            metrics.internal_fragmentation,
            metrics.external_fragmentation,
        ];
        assert!(ratios.iter().all(|ratio| (0.0..=1.0).contains(ratio)), "{ratios:?}");
        assert!(metrics.tracking_overhead_bytes > 0);
        drop(held);
        assert_eq!(pool.get_detailed_metrics().unwrap().figures.requested, 0);
    }
}

#[test]
fn the_site_of_a_leak_is_the_line_of_the_user() {
    let pool = tracked(TrackingLevel::Detailed);
    drop(pool.allocate(5000, 64, &Device::Cpu).unwrap());
    let lines = line!() + 1..line!() + 6;
    let _handle = pool.allocate(5000, 64, &Device::Cpu).unwrap();
    let _zeroed = pool.allocate_zeroed(5000, 64, &Device::Cpu).unwrap();
    let _buffer = PoolBuffer::<f32>::from_slice(&[1.0; 100], &pool).unwrap();
    let _tensor = BitNetTensor::zeros(&[4, 4], &pool).unwrap();
    let _values = BitNetTensor::from_f32(&[2], &[1.0, 2.0], &pool).unwrap();
    let report = pool.tracker().unwrap().leaks(Duration::ZERO);
    let mut found: Vec<u32> = report.sites.iter().map(|site| site.site.line()).collect();
    found.sort_unstable();
    assert_eq!(found, lines.collect::<Vec<_>>(), "{report}");
    assert!(report.sites.iter().all(|site| site.site.file() == file!()), "{report}");
    let suspected = pool.get_detailed_metrics().unwrap().suspected_leaks.unwrap();
    assert_eq!(suspected.count, 0, "none of them is older than a minute");
}

#[test]
fn leaks_are_found_at_level_standard() {
    let pool = tracked(TrackingLevel::Standard);
    // Every block of a page and more, whatever was allocated before it.
    for round in 0..50usize {
        for size in [64, 700, 3000] {
            drop(pool.allocate(size + round, 64, &Device::Cpu).unwrap());
        }
        let line = line!() + 1;
        let forgotten = pool.allocate(4096 + 37 * round, 64, &Device::Cpu).unwrap();
        let report = pool.tracker().unwrap().leaks(Duration::ZERO);
        assert_eq!((report.leaks.len(), report.bytes()), (1, forgotten.size() as u64), "{report}");
        assert_eq!((report.sites[0].site.file(), report.sites[0].site.line()), (file!(), line));
        drop(forgotten);
        assert!(pool.tracker().unwrap().leaks(Duration::ZERO).leaks.is_empty());
    }
    // Small blocks by the statistics of a page: 2000 of 64 bytes are missed
    // with probability exp(-31), and are estimated.
    let forgotten: Vec<_> =
        (0..2000).map(|_| pool.allocate(64, 64, &Device::Cpu).unwrap()).collect();
    let report = pool.tracker().unwrap().leaks(Duration::ZERO);
    assert_eq!(report.sites.len(), 1, "{report}");
    // About 31 are recorded: the standard deviation is 18 %, and six of them are the bound.
    let (estimate, truth) = (report.bytes() as f64, 2000.0 * 64.0);
    assert!((estimate / truth - 1.0).abs() < 1.08, "{report}");
    drop(forgotten);
    assert!(pool.tracker().unwrap().leaks(Duration::ZERO).leaks.is_empty());
}

#[test]
fn moved_blocks_keep_their_site() {
    let pool = tracked(TrackingLevel::Detailed);
    let mut held = Vec::new();
    let line = line!() + 2;
    for _ in 0..2000 {
        held.push(pool.allocate(4096, 64, &Device::Cpu).unwrap());
    }
    let live: Vec<_> = held.into_iter().step_by(50).collect();
    let compaction = pool.start_compaction(0.9).unwrap();
    let addresses: Vec<_> = live.iter().map(|handle| handle.bytes().as_ptr()).collect();
    let live: Vec<_> =
        live.into_iter().map(|handle| compaction.relocate(handle).unwrap()).collect();
    drop(compaction);
    let moved = live.iter().zip(addresses).filter(|(now, then)| now.bytes().as_ptr() != *then);
    assert!(moved.count() > 0, "something is moved");
    let report = pool.tracker().unwrap().leaks(Duration::ZERO);
    assert_eq!((report.leaks.len(), report.sites.len()), (live.len(), 1), "{report}");
    assert_eq!((report.sites[0].site.file(), report.sites[0].site.line()), (file!(), line));
}

#[test]
fn crossing_into_the_last_of_the_limit_is_reported_once() {
    let pool = tracked(TrackingLevel::Basic);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (received, inner) = (Arc::clone(&calls), pool.clone());
    pool.register_pressure_callback(Box::new(move |level| {
        // A callback may use the pool.
        drop(inner.allocate(100, 64, &Device::Cpu).unwrap());
        received.lock().unwrap().push(level);
    }));
    // All of the limit, without a refusal: that would be Critical once more.
    let held: Vec<_> = (0..48).map(|_| pool.allocate(1 << 20, 64, &Device::Cpu).unwrap()).collect();
    let critical = |calls: &[MemoryPressureLevel]| {
        calls.iter().filter(|&&level| level == MemoryPressureLevel::Critical).count()
    };
    assert_eq!(critical(&calls.lock().unwrap()), 1);
    assert_eq!(pool.get_detailed_metrics().unwrap().pressure_level, MemoryPressureLevel::Critical);
    drop(held);
    let calls = calls.lock().unwrap();
    assert!(calls.windows(2).all(|pair| pair[0] != pair[1]), "{calls:?}");
}

#[test]
fn a_panicking_callback_leaves_the_pool_usable() {
    let pool = tracked(TrackingLevel::Standard);
    pool.register_pressure_callback(Box::new(|_| panic!("the expected panic")));
    let held = fill(&pool);
    assert!(pool.tracker().unwrap().pressure().unwrap().panics() > 0);
    drop(held);
    assert!(pool.allocate(1 << 20, 64, &Device::Cpu).is_ok());
    assert_eq!(pool.get_metrics().total_allocated, 0);
}

#[test]
fn the_timeline_agrees_with_the_metrics() {
    let pool = tracked(TrackingLevel::Detailed);
    let mut held = Vec::new();
    for at in 0..500usize {
        held.push(pool.allocate(at * 37 % 4000, 64, &Device::Cpu).unwrap());
        if at % 3 == 0 {
            held.swap_remove(at % held.len());
        }
    }
    let replay = pool.tracker().unwrap().timeline().replay();
    let metrics = pool.get_metrics();
    assert_eq!(replay.total as u64, metrics.total_allocated);
    assert_eq!(replay.peak as u64, metrics.peak_allocated);
    assert_eq!(
        (replay.allocations, replay.deallocations),
        (metrics.allocations, metrics.deallocations)
    );
}

#[test]
fn timelines_are_valid_json() {
    let pool = tracked(TrackingLevel::Detailed);
    let line = line!() + 1;
    let _kept = pool.allocate(1000, 64, &Device::Cpu).unwrap();
    drop(pool.allocate(500, 64, &Device::Cpu).unwrap());
    let timeline = pool.tracker().unwrap().timeline();

    let mut out = Vec::new();
    timeline.write_chrome_trace(&mut out).unwrap();
    let trace: Value = serde_json::from_slice(&out).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |phase: &'static str| events.iter().filter(move |event| event["ph"] == phase);
    let levels: Vec<_> = of("C").map(|event| event["args"]["bytes"].as_i64().unwrap()).collect();
    assert_eq!(levels, [1000, 1500, 1000]);
    assert!(of("C").all(|event| event["ts"].as_f64().is_some_and(|time| time >= 0.0)));
    let names: Vec<_> = of("i").map(|event| event["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["allocated", "allocated", "freed"]);

    let mut out = Vec::new();
    timeline.write_json_lines(&mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!((&lines[0]["bytes"], &lines[0]["line"]), (&1000.into(), &line.into()));
    assert_eq!(lines[0]["file"], file!());

    let mut empty = Vec::new();
    tracked(TrackingLevel::Basic)
        .tracker()
        .unwrap()
        .timeline()
        .write_chrome_trace(&mut empty)
        .unwrap();
    assert!(serde_json::from_slice::<Value>(&empty).is_ok());
}

#[test]
fn callbacks_may_use_their_pool() {
    let config = MemoryPoolConfig {
        max_small_pool_size: 8 << 20,
        max_large_pool_size: 64 << 20,
        enable_advanced_tracking: true,
        tracking_config: Some(TrackingConfig {
            level: TrackingLevel::Basic,
            ..TrackingConfig::default()
        }),
        ..MemoryPoolConfig::unbounded()
    };
    let pool = HybridMemoryPool::with_config(config).unwrap();
    let shared = Arc::new(Mutex::new(Some(pool.clone())));
    let (in_callback, calls) = (Arc::clone(&shared), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&calls);
    pool.register_pressure_callback(Box::new(move |_| {
        let Some(pool) = in_callback.lock().unwrap().clone() else { return };
        for (purpose, size) in
            [(Purpose::Data, 1 << 20), (Purpose::Weights, 100), (Purpose::Data, 3000)]
        {
            let block = pool.for_purpose(purpose).allocate(size, 64, &Device::Cpu);
            drop(block);
        }
        count.fetch_add(1, Ordering::Relaxed);
    }));
    for _ in 0..20 {
        let mut held: Vec<_> =
            (0..16).map(|_| pool.allocate(4 << 20, 64, &Device::Cpu).unwrap()).collect();
        while let Some(block) = held.pop() {
            drop(block);
        }
    }
    *shared.lock().unwrap() = None;
    assert!(calls.load(Ordering::Relaxed) > 1, "{calls:?}");
    let metrics = pool.get_metrics();
    assert_eq!((metrics.total_allocated, metrics.allocations), (0, metrics.deallocations));
    assert_eq!(pool.allocated_by_purpose().iter().sum::<u64>(), 0);
}

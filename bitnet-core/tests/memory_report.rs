//! The memory report of this process, against the bytes that were allocated and touched.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use bitnet_core::memory::report::{KnownFiles, MemoryReport};
use bitnet_core::memory::{
    HybridMemoryPool, MemoryPoolConfig, PoolBuffer, Purpose, TrackingConfig, TrackingLevel,
};

const MIB: usize = 1 << 20;

fn recorded_pool() -> HybridMemoryPool {
    let tracking = TrackingConfig { level: TrackingLevel::Detailed, ..TrackingConfig::default() };
    HybridMemoryPool::with_config(MemoryPoolConfig {
        enable_advanced_tracking: true,
        tracking_config: Some(tracking),
        ..MemoryPoolConfig::unbounded()
    })
    .unwrap()
}

#[test]
fn touched_bytes_are_resident_and_freed_bytes_remain_mapped() {
    let pool = recorded_pool();
    let buffer = |mib: usize, purpose| -> PoolBuffer<u8> {
        PoolBuffer::zeroed(mib * MIB, &pool.for_purpose(purpose)).unwrap()
    };
    let mut weights = buffer(8, Purpose::Weights);
    weights.fill(1);
    let mut cache = buffer(40, Purpose::KvCache);
    cache[..16 * MIB].fill(1);
    let mut freed = buffer(4, Purpose::Activations);
    freed.fill(1);
    drop(freed);
    let report = MemoryReport::take(&pool, &KnownFiles::default());
    if !std::path::Path::new("/proc/self/pagemap").exists() {
        assert!(report.is_err(), "no figures without the system's");
        return;
    }
    let report = report.unwrap();
    let of = |purpose: Purpose| report.purposes[purpose.index()];
    assert_eq!(of(Purpose::Weights).resident, Some(8 * MIB as u64));
    assert_eq!(of(Purpose::Weights).live, 8 * MIB as u64);
    let cache_resident = of(Purpose::KvCache).resident.unwrap() as usize;
    assert_eq!(of(Purpose::KvCache).live, 40 * MIB as u64);
    // The last byte may have faulted in a huge page.
    assert!((16 * MIB..=18 * MIB).contains(&cache_resident), "{cache_resident}");
    let activations = of(Purpose::Activations);
    assert_eq!((activations.live, activations.peak), (0, Some(4 * MIB as u64)));
    assert!(report.pool.kept_resident >= 4 * MIB as u64);
    for (found, by_system) in
        [(report.pool.resident, report.pool.resident_by_system), (report.sum, report.resident_set)]
    {
        let off = found.abs_diff(by_system) as f64 / by_system as f64;
        assert!(off < 0.03, "{found} bytes, and {by_system} by the system: {report:?}");
    }
    assert!(pool.get_metrics().total_allocated == report.pool.live);
}

#[test]
fn purposes_have_no_resident_bytes_without_records() {
    let pool = HybridMemoryPool::new().unwrap();
    let held = PoolBuffer::<f32>::zeroed(1000, &pool.for_purpose(Purpose::Data)).unwrap();
    if let Ok(report) = MemoryReport::take(&pool, &KnownFiles::default()) {
        let data = report.purposes[Purpose::Data.index()];
        assert_eq!((data.live, data.peak, data.resident), (4000, None, None));
    }
    drop(held);
}

//! The figures of a model's memory, on runs of the embedded model.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bitnet_core::device::{Device, DeviceCapabilities};
use bitnet_core::memory::{
    HybridMemoryPool, MemoryPoolConfig, Purpose, TrackingConfig, TrackingLevel,
};
use bitnet_cpu::CpuOptions;
use bitnet_inference::{LoadOptions, MemoryStats, Model, ModelSource, backend_in_pool};

/// The embedded model with everything in one pool, or on the back end of that name with the pool beside it.
fn model(backend: &str, level: Option<TrackingLevel>) -> (Model, HybridMemoryPool) {
    let tracking = level.map(|level| TrackingConfig { level, ..TrackingConfig::default() });
    let config = MemoryPoolConfig {
        enable_advanced_tracking: tracking.is_some(),
        tracking_config: tracking,
        ..MemoryPoolConfig::unbounded()
    };
    let pool = HybridMemoryPool::with_config(config).unwrap();
    let cpu = CpuOptions { threads: Some(1), isa: None };
    let backend = backend_in_pool(backend, cpu, &pool).unwrap();
    let options = LoadOptions { pool: Some(pool.clone()), ..LoadOptions::default() };
    let model = Model::load_with(ModelSource::Embedded, &options, backend, &mut |_, _| {}).unwrap();
    (model, pool)
}

fn live(stats: &MemoryStats, purpose: Purpose) -> u64 {
    stats.purposes.iter().find(|held| held.purpose == purpose).unwrap().live
}

#[test]
fn bytes_are_those_of_the_pool_by_purpose() {
    let (model, pool) = model("cpu", Some(TrackingLevel::Detailed));
    let mut session = model.session(Some(200)).unwrap();
    assert_eq!(live(&model.memory_stats(), Purpose::KvCache), 0, "nothing has been read");
    session.extend(&[1; 65]).unwrap();
    let with_cache = model.memory_stats();
    assert_eq!(with_cache.live, pool.get_metrics().total_allocated);
    assert_eq!(with_cache.purposes.iter().map(|held| held.live).sum::<u64>(), with_cache.live);
    assert!(live(&with_cache, Purpose::Weights) > 100_000);
    assert_eq!(live(&with_cache, Purpose::KvCache), 2 * session.cache().page_bytes() as u64);
    assert!(with_cache.peak >= with_cache.live && with_cache.reserved >= with_cache.live);
    drop(session);
    let without = model.memory_stats();
    assert_eq!(live(&without, Purpose::KvCache), 0);
    let peak = |held: &&bitnet_core::memory::report::PurposeUse| held.purpose == Purpose::KvCache;
    let peak = without.purposes.iter().find(peak).unwrap().peak;
    assert_eq!(peak, Some(live(&with_cache, Purpose::KvCache)), "the most there was");
    let lost = without.fragmentation.unwrap();
    for part in [lost.ratio, lost.internal, lost.external] {
        assert!((0.0..=1.0).contains(&part));
    }
}

#[test]
fn operations_of_a_tracked_run_have_bytes_and_a_bandwidth() {
    for level in [TrackingLevel::Standard, TrackingLevel::Detailed] {
        let (model, _) = model("cpu", Some(level));
        let before = model.memory_stats();
        assert_eq!(before.bandwidth(), None, "nothing ran");
        let mut written = String::new();
        for _ in 0..4 {
            written += &model.complete("Once upon a time", 60).unwrap().text;
        }
        assert!(!written.is_empty());
        let stats = model.memory_stats();
        for name in ["bit_linear", "attention"] {
            let operation = stats.operations.iter().find(|o| o.name == name).unwrap();
            assert!(operation.calls >= 100 && operation.bytes > 0, "{operation:?}");
            assert!(operation.gigabytes_per_second().unwrap() > 0.0);
        }
        assert!(stats.operations.iter().any(|o| o.name == "rms_norm"));
        let noted: u64 = stats.operations.iter().map(|operation| operation.bytes).sum();
        // At level Standard about 150 products of weights are timed, of which the four kinds differ by a factor of two.
        let ratio = noted as f64 / stats.bytes_read.unwrap() as f64;
        assert!((0.5..2.0).contains(&ratio), "{level:?}: the estimate is {ratio} of what was read");
        assert!(stats.bandwidth_since(&before).unwrap() > 0.0);
        assert_eq!(before.bandwidth_since(&stats), None);
        let unmeasured = DeviceCapabilities::without_bandwidth(&Device::Cpu);
        assert_eq!(stats.bandwidth_utilisation(&unmeasured), None);
        let machine = DeviceCapabilities::for_device(&Device::Cpu);
        if let Some(bandwidth) = machine.memory_bandwidth {
            let share = stats.bandwidth_utilisation(&machine).unwrap();
            assert_eq!(share, stats.bandwidth().unwrap() / bandwidth.read);
        }
        let text = stats.to_string();
        assert!(text.contains("bandwidth") && text.contains("fragmentation"), "{text}");
    }
}

#[test]
fn what_is_not_recorded_is_absent() {
    let (untracked, _) = model("cpu", None);
    untracked.complete("Once", 2).unwrap();
    let stats = untracked.memory_stats();
    assert!(stats.fragmentation.is_none() && stats.operations.is_empty());
    assert!(stats.purposes.iter().all(|held| held.peak.is_none()));
    assert!(stats.bytes_read.unwrap() > 0, "the back end counts in any case");
    assert!(stats.bandwidth().is_none());
    let (basic, _) = model("cpu", Some(TrackingLevel::Basic));
    basic.complete("Once", 2).unwrap();
    assert!(basic.memory_stats().operations.is_empty());
    let (reference, _) = model("reference", Some(TrackingLevel::Detailed));
    reference.complete("Once", 1).unwrap();
    let stats = reference.memory_stats();
    assert!(stats.bytes_read.is_none() && stats.operations.is_empty() && stats.live > 0);
}

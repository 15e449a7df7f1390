//! The code blocks of the project's founding documents, word for word, with `use bitnet_core::prelude::*` and nothing
//! else added; and one run through all that they name.
//!
//! Blocks about MLX and Metal (`bitnet_core::mlx`, `bitnet_core::metal`,
//! `bitnet_metal`) are not here: those parts don't exist.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]
#![allow(unused_imports, unused_variables, reason = "the documents name more than they use")]
#![allow(clippy::field_reassign_with_default, clippy::redundant_clone, reason = "word for word")]

use bitnet_core::Result;

#[test]
#[rustfmt::skip]
fn a_pool_is_used_and_measured() -> Result<()> {
    use bitnet_core::prelude::*;
    use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
    use bitnet_core::device::auto_select_device;

    // Create memory pool with default configuration
    let pool = HybridMemoryPool::new()?;
    let device = auto_select_device();

    // Allocate 1MB of memory with 64-byte alignment
    let handle = pool.allocate(1024 * 1024, 64, &device)?;

    // Get memory metrics
    let metrics = pool.get_metrics();
    println!("Total allocated: {} bytes", metrics.total_allocated);
    println!("Peak usage: {} bytes", metrics.peak_allocated);

    // Deallocate memory
    pool.deallocate(handle)?;
    Ok(())
}

#[test]
#[rustfmt::skip]
fn a_pool_is_created_by_the_project_readme() -> Result<()> {
    use bitnet_core::prelude::*;
    use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
    use bitnet_core::device::auto_select_device;

    // Create a memory pool with default configuration
    let pool = HybridMemoryPool::new()?;
    let device = auto_select_device();

    // Allocate memory
    let handle = pool.allocate(1024 * 1024, 64, &device)?;

    // Get memory metrics
    let metrics = pool.get_metrics();
    println!("Total allocated: {} bytes", metrics.total_allocated);
    println!("Peak usage: {} bytes", metrics.peak_allocated);

    // Deallocate memory
    pool.deallocate(handle)?;
    Ok(())
}

#[test]
#[rustfmt::skip]
fn a_pool_is_tracked() -> Result<()> {
    use bitnet_core::prelude::*;
    use bitnet_core::memory::{
        MemoryPoolConfig, TrackingConfig, TrackingLevel,
        MemoryPressureLevel
    };

    // Configure advanced tracking
    let mut config = MemoryPoolConfig::default();
    config.enable_advanced_tracking = true;
    config.tracking_config = Some(TrackingConfig {
        level: TrackingLevel::Detailed,
        enable_pressure_detection: true,
        enable_leak_detection: true,
        ..Default::default()
    });

    let pool = HybridMemoryPool::with_config(config)?;

    // Register pressure callback
    pool.register_pressure_callback(Box::new(|level| {
        match level {
            MemoryPressureLevel::Critical => {
                eprintln!("CRITICAL: Memory pressure detected!");
            },
            MemoryPressureLevel::High => {
                println!("HIGH: Memory pressure detected");
            },
            _ => {}
        }
    }));

    // Get detailed metrics
    if let Some(detailed) = pool.get_detailed_metrics() {
        println!("Pressure level: {:?}", detailed.pressure_level);
        println!("Fragmentation: {:.2}%", detailed.fragmentation_ratio * 100.0);
    }
    Ok(())
}

#[test]
#[rustfmt::skip]
fn a_pool_is_tracked_by_the_project_readme() -> Result<()> {
    use bitnet_core::prelude::*;
    use bitnet_core::memory::{MemoryPoolConfig, TrackingConfig, TrackingLevel};

    // Enable advanced tracking
    let mut config = MemoryPoolConfig::default();
    config.enable_advanced_tracking = true;
    config.tracking_config = Some(TrackingConfig {
        level: TrackingLevel::Detailed,
        enable_pressure_detection: true,
        enable_leak_detection: true,
        ..Default::default()
    });

    let pool = HybridMemoryPool::with_config(config)?;

    // Register pressure callback
    pool.register_pressure_callback(Box::new(|level| {
        match level {
            MemoryPressureLevel::Critical => {
                eprintln!("CRITICAL: Memory pressure detected!");
            },
            MemoryPressureLevel::High => {
                println!("HIGH: Memory pressure detected");
            },
            _ => {}
        }
    }));

    // Get detailed metrics
    if let Some(detailed) = pool.get_detailed_metrics() {
        println!("Pressure level: {:?}", detailed.pressure_level);
        println!("Fragmentation: {:.2}%", detailed.fragmentation_ratio * 100.0);
    }
    Ok(())
}

#[test]
#[rustfmt::skip]
fn a_device_is_selected() -> Result<()> {
    use bitnet_core::prelude::*;
    use bitnet_core::device::{auto_select_device, DeviceCapabilities};

    // Automatic device selection
    let device = auto_select_device();
    println!("Selected device: {:?}", device);

    // Check device capabilities
    let caps = DeviceCapabilities::for_device(&device);
    println!("Supports Metal: {}", caps.supports_metal);
    println!("Memory bandwidth: {} GB/s", caps.memory_bandwidth_gbps);
    Ok(())
}

#[test]
#[rustfmt::skip]
fn a_device_is_selected_by_the_project_readme() -> Result<()> {
    use bitnet_core::prelude::*;
    use bitnet_core::device::{auto_select_device, get_cpu_device, DeviceCapabilities};

    // Automatic device selection
    let device = auto_select_device();
    println!("Selected device: {:?}", device);

    // Check device capabilities
    let caps = DeviceCapabilities::for_device(&device);
    println!("Supports Metal: {}", caps.supports_metal);
    println!("Memory bandwidth: {} GB/s", caps.memory_bandwidth_gbps);
    Ok(())
}

#[test]
#[rustfmt::skip]
fn a_tensor_is_created() -> Result<()> {
    use bitnet_core::prelude::*;
    use bitnet_core::memory::tensor::{BitNetTensor, BitNetDType, TensorMetadata};
    use bitnet_core::device::auto_select_device;

    let device = auto_select_device();
    let pool = HybridMemoryPool::new()?;

    // Create tensor metadata
    let metadata = TensorMetadata::new(
        vec![128, 256],  // shape
        BitNetDType::F32,
        device.clone()
    );

    // Create tensor
    let tensor = BitNetTensor::new(metadata, &pool)?;
    println!("Tensor shape: {:?}", tensor.shape());
    println!("Tensor device: {:?}", tensor.device());
    Ok(())
}

#[test]
#[rustfmt::skip]
fn a_pool_is_configured() -> Result<()> {
    use bitnet_core::prelude::*;
    use bitnet_core::memory::{MemoryPoolConfig, TrackingConfig, CleanupConfig};

    let config = MemoryPoolConfig {
        // Pool sizing
        initial_small_pool_size: 64 * 1024 * 1024,  // 64MB
        max_small_pool_size: 512 * 1024 * 1024,     // 512MB
        initial_large_pool_size: 128 * 1024 * 1024, // 128MB
        max_large_pool_size: 2 * 1024 * 1024 * 1024, // 2GB

        // Tracking configuration
        enable_advanced_tracking: true,
        tracking_config: Some(TrackingConfig {
            level: TrackingLevel::Standard,
            enable_pressure_detection: true,
            enable_leak_detection: true,
            pressure_threshold_ratio: 0.8,
            leak_detection_interval: Duration::from_secs(60),
        }),

        // Cleanup configuration
        enable_automatic_cleanup: true,
        cleanup_config: Some(CleanupConfig {
            idle_cleanup_interval: Duration::from_secs(30),
            pressure_cleanup_threshold: 0.9,
            enable_compaction: true,
            max_cleanup_time: Duration::from_millis(100),
        }),
    };

    let pool = HybridMemoryPool::with_config(config)?;
    Ok(())
}

#[test]
fn pool_tracking_tensors_and_cleanup_work_together() -> Result<()> {
    use bitnet_core::prelude::*;
    let config = MemoryPoolConfig {
        initial_small_pool_size: 1 << 20,
        max_small_pool_size: 16 << 20,
        initial_large_pool_size: 0,
        max_large_pool_size: 32 << 20,
        enable_advanced_tracking: true,
        tracking_config: Some(TrackingConfig {
            level: TrackingLevel::Detailed,
            leak_detection_interval: Duration::ZERO,
            ..Default::default()
        }),
        enable_automatic_cleanup: false,
        cleanup_config: Some(CleanupConfig::default()),
    };
    let pool = HybridMemoryPool::with_config(config)?;
    let levels = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let received = std::sync::Arc::clone(&levels);
    pool.register_pressure_callback(Box::new(move |level| received.lock().unwrap().push(level)));

    let device = auto_select_device();
    let metadata = TensorMetadata::new(vec![128, 256], BitNetDType::F32, device.clone());
    let tensor = BitNetTensor::new(metadata, &pool)?;
    assert_eq!((tensor.shape(), tensor.device()), (&[128, 256][..], &device));
    let line = line!() + 1;
    let forgotten = pool.allocate(5000, 64, &device)?;
    let detailed = pool.get_detailed_metrics().unwrap();
    assert_eq!(detailed.figures.requested, 128 * 256 * 4 + 5000);
    assert_eq!(detailed.suspected_leaks.unwrap().count, 2);
    let report = pool.tracker().unwrap().leaks(Duration::ZERO);
    assert!(report.sites.iter().any(|site| site.site.line() == line), "{report}");

    let mut held = Vec::new();
    while let Ok(handle) = pool.allocate(1 << 20, 64, &device) {
        held.push(handle);
    }
    assert_eq!(held.len(), 32);
    assert!(levels.lock().unwrap().contains(&MemoryPressureLevel::High));
    assert!(levels.lock().unwrap().contains(&MemoryPressureLevel::Critical));
    drop(held);
    drop((tensor, forgotten));
    let report = pool.cleanup_now();
    assert!(report.resident_before >= report.resident_after);
    let metrics = pool.get_metrics();
    assert_eq!((metrics.total_allocated, metrics.allocations), (0, metrics.deallocations));
    Ok(())
}

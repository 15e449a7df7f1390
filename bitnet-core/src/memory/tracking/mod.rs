//! What a pool records about itself while it is used.
//!
//! ```
//! # fn main() -> bitnet_core::Result<()> {
//! # use bitnet_core::memory::{HybridMemoryPool, MemoryPressureLevel};
//! use bitnet_core::memory::{MemoryPoolConfig, TrackingConfig, TrackingLevel};
//!
//! // Enable advanced tracking
//! let mut config = MemoryPoolConfig::default();
//! config.enable_advanced_tracking = true;
//! config.tracking_config = Some(TrackingConfig {
//!     level: TrackingLevel::Detailed,
//!     enable_pressure_detection: true,
//!     enable_leak_detection: true,
//!     ..Default::default()
//! });
//!
//! let pool = HybridMemoryPool::with_config(config)?;
//!
//! // Register pressure callback
//! pool.register_pressure_callback(Box::new(|level| {
//!     match level {
//!         MemoryPressureLevel::Critical => {
//!             eprintln!("CRITICAL: Memory pressure detected!");
//!         },
//!         MemoryPressureLevel::High => {
//!             println!("HIGH: Memory pressure detected");
//!         },
//!         _ => {}
//!     }
//! }));
//!
//! // Get detailed metrics
//! if let Some(detailed) = pool.get_detailed_metrics() {
//!     println!("Pressure level: {:?}", detailed.pressure_level);
//!     println!("Fragmentation: {:.2}%", detailed.fragmentation_ratio * 100.0);
//! }
//! # assert!(pool.get_detailed_metrics().is_some());
//! # Ok(())
//! # }
//! ```
//!
//! The same, with every field of the configuration named:
//!
//! ```
//! # fn main() -> bitnet_core::Result<()> {
//! # use bitnet_core::memory::HybridMemoryPool;
//! # use bitnet_core::memory::TrackingLevel;
//! # use std::time::Duration;
//! use bitnet_core::memory::{MemoryPoolConfig, TrackingConfig, CleanupConfig};
//!
//! let config = MemoryPoolConfig {
//!     // Pool sizing
//!     initial_small_pool_size: 64 * 1024 * 1024,  // 64MB
//!     max_small_pool_size: 512 * 1024 * 1024,     // 512MB
//!     initial_large_pool_size: 128 * 1024 * 1024, // 128MB
//!     max_large_pool_size: 2 * 1024 * 1024 * 1024, // 2GB
//!
//!     // Tracking configuration
//!     enable_advanced_tracking: true,
//!     tracking_config: Some(TrackingConfig {
//!         level: TrackingLevel::Standard,
//!         enable_pressure_detection: true,
//!         enable_leak_detection: true,
//!         pressure_threshold_ratio: 0.8,
//!         leak_detection_interval: Duration::from_secs(60),
//!     }),
//!
//!     // Cleanup configuration
//!     enable_automatic_cleanup: true,
//!     cleanup_config: Some(CleanupConfig {
//!         idle_cleanup_interval: Duration::from_secs(30),
//!         pressure_cleanup_threshold: 0.9,
//!         enable_compaction: true,
//!         max_cleanup_time: Duration::from_millis(100),
//!     }),
//! };
//!
//! let pool = HybridMemoryPool::with_config(config)?;
//! # Ok(())
//! # }
//! ```

mod config;
mod histogram;
mod leaks;
mod live;
mod metrics;
mod patterns;
mod pressure;
mod pressure_level;
mod profiler;
mod threads;
mod timeline;
mod trace;
mod tracker;

pub use config::{TrackingConfig, TrackingLevel};
pub use histogram::{Histogram, LatencySummary};
pub use leaks::{Leak, LeakReport, LeakSite};
pub use metrics::{DetailedMetrics, SuspectedLeaks};
pub use patterns::{AllocationPattern, PatternFeatures, PatternReport, Step};
pub use pressure::{PressureCallback, PressureMonitor};
pub use pressure_level::MemoryPressureLevel;
pub use profiler::{LatencyKind, OperationFigures, Rates};
pub use timeline::{EventKind, Replay, Timeline, TimelineEvent};
pub use tracker::{OperationWatch, Tracker};

pub use super::heap::{AllocationEvent, ClassFigures, DeallocationEvent, PoolFigures};
pub use crate::os::pressure::{
    Bounded, GroupEvents, Stall, SystemFiles, SystemMemory, SystemReading,
};

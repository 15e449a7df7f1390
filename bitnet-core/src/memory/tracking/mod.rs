//! Records of a pool, at the level of its [`TrackingConfig`].
//!
//! ```
//! use bitnet_core::memory::{
//!     HybridMemoryPool, MemoryPoolConfig, MemoryPressureLevel, TrackingConfig, TrackingLevel,
//! };
//!
//! let pool = HybridMemoryPool::with_config(MemoryPoolConfig {
//!     enable_advanced_tracking: true,
//!     tracking_config: Some(TrackingConfig { level: TrackingLevel::Detailed, ..Default::default() }),
//!     ..Default::default()
//! })?;
//! pool.register_pressure_callback(Box::new(|level| {
//!     if level >= MemoryPressureLevel::High {
//!         eprintln!("memory is short: {level:?}");
//!     }
//! }));
//! let metrics = pool.get_detailed_metrics().expect("the pool is tracked");
//! println!("{metrics}");
//! assert_eq!(metrics.fragmentation_ratio, 0.0);
//! # Ok::<(), bitnet_core::Error>(())
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
pub use profiler::{OperationFigures, Rates};
pub use timeline::{EventKind, Replay, Timeline, TimelineEvent};
pub use tracker::{OperationWatch, Tracker};

pub use super::heap::{AllocationEvent, ClassFigures, DeallocationEvent, LatencyKind, PoolFigures};
pub use crate::os::pressure::{
    Bounded, GroupEvents, Stall, SystemFiles, SystemMemory, SystemReading,
};

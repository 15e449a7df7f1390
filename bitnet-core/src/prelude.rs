//! The most used types: pools, tensors, devices, and their settings.
//!
//! ```
//! use bitnet_core::prelude::*;
//!
//! # fn main() -> bitnet_core::Result<()> {
//! let pool = HybridMemoryPool::with_config(MemoryPoolConfig {
//!     enable_advanced_tracking: true,
//!     tracking_config: Some(TrackingConfig {
//!         leak_detection_interval: Duration::from_secs(60),
//!         ..Default::default()
//!     }),
//!     ..Default::default()
//! })?;
//! let metadata = TensorMetadata::new(vec![128, 256], BitNetDType::F32, auto_select_device());
//! let tensor = BitNetTensor::new(metadata, &pool)?;
//! assert_eq!(pool.get_metrics().total_allocated, 128 * 256 * 4);
//! # drop(tensor);
//! # Ok(())
//! # }
//! ```

pub use std::time::Duration;

pub use crate::device::{Device, DeviceCapabilities, auto_select_device, get_cpu_device};
pub use crate::memory::tensor::{BitNetDType, BitNetTensor, TensorMetadata};
pub use crate::memory::{
    CleanupConfig, HybridMemoryPool, MemoryHandle, MemoryMetrics, MemoryPoolConfig,
    MemoryPressureLevel, Purpose, TrackingConfig, TrackingLevel,
};

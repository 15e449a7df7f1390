//! Aligned memory that is accounted for: the pool, its handles, and the tensors that live in it.

mod buffer;
pub mod cleanup;
mod clock;
mod config;
mod device_pool;
mod heap;
pub mod mapped;
mod observer;
mod pool;
pub mod report;
mod shared;
pub mod shared_memory;
pub mod tensor;
mod token;
pub mod tracking;
pub mod units;

pub use buffer::PoolBuffer;
pub use cleanup::{CleanupConfig, CleanupMetrics, CleanupReport, Compaction};
pub use clock::{Clock, HandClock};
pub use config::MemoryPoolConfig;
pub use device_pool::{DeviceSpecificPools, Transfers};
pub use heap::{MemoryHandle, MemoryMetrics, Purpose};
pub use pool::HybridMemoryPool;
use pool::WeakPool;
pub use shared::Shared;
pub use tensor::snapshot;
pub use token::BlockToken;
pub use tracking::{DetailedMetrics, MemoryPressureLevel, Tracker, TrackingConfig, TrackingLevel};

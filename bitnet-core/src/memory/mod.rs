//! Aligned memory that is accounted for: the pool, its handles, and the tensors that live in it.

mod accounts;
mod arena;
mod bitmap;
mod buddy;
mod buffer;
pub mod cleanup;
mod clock;
mod compaction;
mod compression;
mod config;
mod core;
mod depot;
mod device_pool;
#[cfg(all(test, unix))]
mod endings;
mod handle;
mod large_block;
pub mod mapped;
mod metrics;
mod pool;
mod purpose;
mod shared;
pub mod shared_memory;
mod size_class;
mod small_block;
pub mod snapshot;
mod sync;
mod system;
pub mod tensor;
mod thread_cache;
mod token;
pub mod tracking;

pub use buffer::PoolBuffer;
pub use cleanup::CleanupConfig;
pub use clock::{Clock, HandClock};
pub use compaction::Compaction;
pub use config::MemoryPoolConfig;
pub use device_pool::{DeviceSpecificPools, Transfers};
pub use handle::MemoryHandle;
pub use metrics::MemoryMetrics;
pub use pool::HybridMemoryPool;
pub use purpose::Purpose;
pub use shared::Shared;
pub use token::BlockToken;
pub use tracking::{DetailedMetrics, MemoryPressureLevel, Tracker, TrackingConfig, TrackingLevel};

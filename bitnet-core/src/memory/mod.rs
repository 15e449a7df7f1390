//! Aligned memory that is accounted for: the pool, its handles, and the tensors that live in it.

mod block;
mod buffer;
pub mod cleanup;
mod clock;
mod compression;
mod config;
pub mod mapped;
mod pool;
mod purpose;
mod shared;
pub mod snapshot;
pub mod tensor;
pub mod tracking;

pub use buffer::PoolBuffer;
pub use cleanup::CleanupConfig;
pub use clock::{Clock, HandClock};
pub use config::MemoryPoolConfig;
pub use pool::{HybridMemoryPool, MemoryHandle, MemoryMetrics};
pub use purpose::Purpose;
pub use shared::Shared;
pub use tracking::{DetailedMetrics, MemoryPressureLevel, Tracker, TrackingConfig, TrackingLevel};

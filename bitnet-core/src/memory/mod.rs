//! Memory with exact accounting: the pool, its handles, and the tensors that live in it.
//!
//! A [`HybridMemoryPool`] allocates aligned blocks. Each belongs to one
//! [`MemoryHandle`], and is freed when that is dropped:
//!
//! ```
//! use bitnet_core::device::Device;
//! use bitnet_core::memory::tensor::{BitNetTensor, TensorHandle, TensorRegistry};
//! use bitnet_core::memory::{HybridMemoryPool, Purpose};
//!
//! let pool = HybridMemoryPool::new()?;
//! let block = pool.allocate(1000, 64, &Device::Cpu)?;
//! assert_eq!((block.size(), pool.get_metrics().total_allocated), (1000, 1000));
//! drop(block);
//!
//! // Tensors live in a pool too. Memory is counted by purpose.
//! let weights = pool.for_purpose(Purpose::Weights);
//! let x = BitNetTensor::zeros(&[4, 256], &weights)?; // f32
//! assert_eq!(pool.allocated_by_purpose()[Purpose::Weights.index()], 4 * 256 * 4);
//!
//! // A tensor behind a handle can be moved or compressed while it is not in use.
//! let registry = TensorRegistry::new(&pool);
//! let handle = TensorHandle::new(x, &registry);
//! handle.write()?.f32_mut()?[0] = 1.5;
//! let report = pool.cleanup_now(); // Returns free memory to the system.
//! println!("{report}");
//! assert_eq!(handle.read()?.f32()?[0], 1.5);
//! # Ok::<(), bitnet_core::Error>(())
//! ```
//!
//! | Module | Content |
//! |---|---|
//! | `heap` | the allocator; its documentation describes `allocate` and `free` step by step |
//! | [`tensor`] | tensors over blocks, their handles, compression and snapshots |
//! | [`cleanup`] | returning free memory to the system, by call or by a thread |
//! | [`tracking`] | leaks, timelines, latencies, memory pressure |
//! | [`mapped`], [`shared_memory`] | memory from files, and memory of several processes |
//! | [`report`] | the resident bytes of the process by purpose and place |
//!
//! The heap depends on none of the others: `observer` passes its events to the tracker and the cleaner. Cleanups access
//! tensors only as targets, a trait that registries implement. One circle remains:
//! a pool owns its cleaner, which cleans that pool.

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
pub use clock::{Clock, ManualClock};
pub use config::MemoryPoolConfig;
pub use device_pool::{DeviceSpecificPools, Transfers};
pub use heap::{MemoryHandle, MemoryMetrics, Purpose};
pub use pool::HybridMemoryPool;
pub use shared::Shared;
pub use tensor::snapshot;
pub use token::BlockToken;
pub use tracking::{DetailedMetrics, MemoryPressureLevel, Tracker, TrackingConfig, TrackingLevel};

//! Aligned memory that is accounted for: the pool, its handles, and the tensors that live in it.

mod block;
mod pool;
mod shared;
pub mod tensor;

pub use pool::{HybridMemoryPool, MemoryHandle, MemoryMetrics};
pub use shared::Shared;

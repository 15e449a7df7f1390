//! Giving memory that nobody uses back to the system.
//!
//! A pool keeps what is freed for the next request. A cleanup gives it back: blocks kept whole, unused slabs and regions,
//! and the pages of free spans between blocks in use. If tensors are held by handles of an attached registry, it also moves
//! them out of slabs and regions of which little is in use, and compresses those that nobody uses when memory is short. What
//! it reports as returned has left memory by the system's word. Nothing that someone reads or writes is touched, and no
//! content changes.
//!
//! When that happens is decided by [`Strategy`]: on demand ([`crate::memory::HybridMemoryPool::cleanup_now`]), or by a thread
//! that a pool with `enable_automatic_cleanup` has for itself. Blocks that an idle thread keeps for itself, a few of each
//! size, follow when that thread next uses the pool or ends.

mod cleaner;
mod compaction;
mod config;
mod device_cleanup;
mod metrics;
mod scheduler;
mod strategies;

pub use super::heap::Released;
pub use compaction::Compaction;
pub use config::CleanupConfig;
pub use metrics::{CleanupMetrics, CleanupReport, Compacted};
pub use scheduler::CleanupSchedule;
pub use strategies::{Observed, PERIOD, Past, Strategy, Work, due, next_look};

pub(super) use cleaner::Cleaner;

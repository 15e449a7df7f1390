//! Returning free memory to the system.
//!
//! A pool reuses freed memory for the next request. A cleanup releases it: cached blocks, unused slabs and regions, and
//! the pages of free spans between blocks in use. Tensors that are held by handles of an attached registry are also
//! moved out of slabs and regions of which little is in use, and idle ones are compressed when memory is short. Bytes
//! reported as returned have left the resident set, as reported by the OS.
//! Tensors in use are not moved, and no content changes.
//!
//! [`Strategy`] decides when: on demand ([`crate::memory::HybridMemoryPool::cleanup_now`]), or by the thread of a pool
//! with `enable_automatic_cleanup`. An idle thread returns its bins to the slabs when it next uses the pool or ends;
//! the cleanup after that releases those pages.

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
pub use metrics::{CleanupMetrics, CleanupReport, Compacted, Compressed};
pub use scheduler::CleanupSchedule;
pub use strategies::{Observed, PERIOD, Past, Strategy, Work, due, next_check};

pub(super) use cleaner::{Cleaner, CleanupTarget};
pub(super) use metrics::CompressionStep;

//! The allocator: blocks of a pool, from the size class of a request to the pages of the system.
//!
//! # `allocate`, step by step
//!
//! The fast path is [`MemoryHandle::take`] and what it inlines ([`fast_path`]). A request below 1 MiB stops at three
//! places, all of them in the cache of this thread ([`thread_cache`]):
//!
//! 1. *Compare.* One comparison of the cache's state with the [key](block_tag::Key) of the pool. It fails for another
//!    pool or purpose than the last one, and under any flag.
//! 2. *Count.* One addition to `allocated`, a counter of [`stats`]. It fails when a report of live bytes, a sample
//!    or a flush is due.
//! 3. *Pop.* The last address of the [bin](bins) of the request's [size class](size_class).
//!
//! The handle is that address and a [tag](block_tag): no store to the block, no locked instruction. A request of 1 MiB
//! to 64 MiB does the same, but takes its block from the pool's cache
//! of large blocks by one exchange ([`large_block`]).
//!
//! Otherwise the slow path, [`PoolInner::allocate`] ([`slow_path`]), works down this list until it has a block:
//!
//! | below 1 MiB | from 1 MiB on |
//! |---|---|
//! | a bin of this thread ([`bins`]) | the cache of large blocks ([`large_block`]) |
//! | a magazine that another thread filled ([`magazine`]) | a free span of a region ([`arena`], [`buddy`]) |
//! | free blocks of a slab ([`small_block`]) | a new region |
//! | a new slab, in a free span of a region ([`arena`]) | a mapping of its own, above 32 MiB |
//! | a new region, from the system ([`crate::os::pages`]) | |
//!
//! If the limit or the system refuses all of them, it purges all free memory ([`purge`]) and retries; then it announces
//! the failure to the observer, whose callbacks may free some,
//! and retries before it returns [`crate::Error::OutOfMemory`].
//!
//! # `free`, step by step
//!
//! [`HybridMemoryPool::deallocate`](super::HybridMemoryPool::deallocate) only drops the handle. The drop compares the
//! key in its tag with the state of this thread's cache, counts the block in `freed`, the second counter of [`stats`],
//! and pushes the address to the bin ([`fast_path::free`]). The key is the pool's number and the purpose. The bin is that of the thread
//! that frees, whichever thread allocated the block: slabs have no owning thread, unlike the pages of mimalloc. A
//! large block enters the cache of large blocks. A thread's first free in a pool takes the slow path once: it creates
//! the thread's cache ([`PoolInner::cache`]), then pushes the block.
//!
//! If the keys differ, the bin is full, the block is recorded or counts must be reported, [`PoolInner::free`] takes the
//! slow path. A block of a closed pool, or of a thread that is ending, returns past the caches under the global lock. A full bin passes
//! its oldest blocks on as a magazine: a [batch](size_class::batch), about half of them. When enough magazines wait,
//! blocks return to their slab, and a slab whose blocks have all returned goes back to its region, except one of each
//! class. A large block that finds no slot in the cache returns to its region or, if it is a mapping of its own, to the
//! system; all else returns to the system by [`PoolInner::purge`], or when the pool ends.
//!
//! # Dependencies
//!
//! ```text
//! handle ── fast_path ── slow_path ── purge · usage · metrics
//!                 │
//!               state ────────────── observer (a trait)
//!       ┌─────────┼───────────┐
//!  thread_cache   │       pool_table
//!   bins stats    │
//!       └── small_block  large_block
//!          magazine │ ┌───┘
//!                 arena ── buddy ── bitmap
//! ```
//!
//! The heap is independent of trackers, cleaners and tensors:
//! they own handles, call pools, or implement [`HeapObserver`].
//!
//! # Invariants
//!
//! - A block belongs to one handle, and a handle is not copied.
//! - Only the owning thread changes a cache, but for flags. Totals are read under the lock of [`stats`].
//! - A pool lives as long as one of its blocks ([`state`]). A thread
//!   that has counted a block as freed does not access it.
//! - In a child that `fork` makes of a process with several threads, a lock that another thread held remains locked.
//!   Such a child must not use pools.

mod arena;
mod bins;
mod bitmap;
mod block_tag;
mod buddy;
mod discard;
mod fast_path;
mod handle;
mod large_block;
mod magazine;
mod metrics;
mod observer;
mod pool_table;
#[cfg(all(test, unix))]
mod process_tests;
mod purge;
mod purpose;
pub(super) mod sampling;
mod size_class;
mod slow_path;
mod small_block;
mod state;
mod stats;
mod thread_cache;
mod usage;

pub use handle::MemoryHandle;
pub use metrics::{ClassFigures, MemoryMetrics, PoolFigures};
pub use observer::{AllocationEvent, DeallocationEvent, LatencyKind};
pub use purge::Released;
pub use purpose::Purpose;

pub(super) use block_tag::Key;
pub(super) use discard::past;
pub(super) use observer::{HeapObserver, Recording};
pub(super) use size_class::{LINE, SMALL_LIMIT};
pub(super) use state::{Limits, PoolInner};

//! Moving live blocks out of sparse memory, so that it can be released as a whole.
//!
//! While a [`Compaction`] is alive, slabs and regions of which little is in use are drained: nothing is allocated
//! there. The owners of handles pass them through [`Compaction::relocate`]; at the end the empty slabs and regions are
//! released. A block whose handle is borrowed is not moved.

use std::time::Instant;

use crate::Result;
use crate::device::Device;
use crate::memory::heap::{LINE, past};
use crate::memory::{HybridMemoryPool, MemoryHandle};

/// Bytes that are copied between two checks of the clock.
const PIECE: usize = 1 << 20;

/// A compaction of a pool that is under way; dropping it ends it.
#[derive(Debug)]
pub struct Compaction<'a> {
    pool: &'a HybridMemoryPool,
    sparse_bytes: usize,
}

impl Compaction<'_> {
    /// Bytes in use in sparse memory at the start, free blocks in the bins of other threads included.
    pub fn sparse_bytes(&self) -> usize {
        self.sparse_bytes
    }

    /// Whether the block is in memory that is being drained.
    pub fn concerns(&self, handle: &MemoryHandle) -> bool {
        self.pool.made(handle) && handle.is_draining()
    }

    /// Returns the same bytes in another block, if the block is in memory
    /// that is being drained; else the handle itself.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], with the block, unmoved.
    #[track_caller]
    pub fn relocate(
        &self,
        handle: MemoryHandle,
    ) -> Result<MemoryHandle, (MemoryHandle, crate::Error)> {
        self.relocate_until(handle, None)
    }

    /// As [`Compaction::relocate`]; returns the handle itself if its bytes were not copied before the deadline.
    #[track_caller]
    pub(in crate::memory) fn relocate_until(
        &self,
        handle: MemoryHandle,
        deadline: Option<Instant>,
    ) -> Result<MemoryHandle, (MemoryHandle, crate::Error)> {
        if !self.concerns(&handle) {
            return Ok(handle);
        }
        let pool = self.pool.for_purpose(handle.purpose());
        let align = handle.align().max(LINE);
        match pool.allocate(handle.size(), align, &Device::Cpu) {
            Ok(mut moved) => {
                let pieces = handle.bytes().chunks(PIECE);
                for (to, from) in moved.bytes_mut().chunks_mut(PIECE).zip(pieces) {
                    if past(deadline) {
                        return Ok(handle);
                    }
                    to.copy_from_slice(from);
                }
                if let Some(tracker) = self.pool.tracker() {
                    let [from, to] =
                        [&handle, &moved].map(|handle| handle.bytes().as_ptr() as usize);
                    tracker.moved(from, to, moved.occupied());
                    moved.report_end();
                }
                handle.return_to_slab();
                Ok(moved)
            }
            Err(error) => Err((handle, error)),
        }
    }
}

impl HybridMemoryPool {
    /// Begins to drain slabs and regions of which at most `share` (0 to 1) is in use; `None` during another compaction.
    pub fn start_compaction(&self, share: f64) -> Option<Compaction<'_>> {
        self.start_compaction_until(share, None)
    }

    /// As [`HybridMemoryPool::start_compaction`]; free memory is purged until the deadline at most.
    pub(in crate::memory) fn start_compaction_until(
        &self,
        share: f64,
        deadline: Option<Instant>,
    ) -> Option<Compaction<'_>> {
        let sparse_bytes = self.inner().start_draining(share, deadline)?;
        Some(Compaction { pool: self, sparse_bytes })
    }
}

impl Drop for Compaction<'_> {
    fn drop(&mut self) {
        self.pool.inner().stop_draining();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryPoolConfig;

    /// Allocates `count` blocks of `size` bytes, each filled with its number, and frees all but every `step`th.
    fn sparse(
        pool: &HybridMemoryPool,
        size: usize,
        count: usize,
        step: usize,
    ) -> Vec<MemoryHandle> {
        let all: Vec<_> = (0..count)
            .map(|at| {
                let mut handle = pool.allocate(size, 64, &Device::Cpu).unwrap();
                handle.bytes_mut().fill(at as u8);
                handle
            })
            .collect();
        let retained = all.into_iter().enumerate().filter(|(at, _)| at % step == 0);
        retained.map(|(_, handle)| handle).collect()
    }

    #[test]
    fn compaction_drains_sparse_memory_and_keeps_contents() {
        let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).unwrap();
        for (size, count, step) in [(64, 20_000, 50), (5000, 2000, 40), (3 << 20, 120, 30)] {
            let mut live = sparse(&pool, size, count, step);
            pool.trim();
            let before = pool.get_metrics();
            let occupied = pool.resident_bytes();
            let compaction = pool.start_compaction(0.25).unwrap();
            assert!(compaction.sparse_bytes() >= size);
            assert!(pool.start_compaction(0.25).is_none(), "one at a time");
            let mut moved = 0;
            live = live
                .into_iter()
                .map(|handle| {
                    moved += usize::from(compaction.concerns(&handle));
                    compaction.relocate(handle).unwrap()
                })
                .collect();
            drop(compaction);
            pool.trim();
            assert!(moved > 0, "{size}");
            for (at, handle) in live.iter().enumerate() {
                assert!(handle.bytes().iter().all(|&byte| byte == (at * step) as u8));
            }
            let after = pool.get_metrics();
            assert_eq!(after.total_allocated, before.total_allocated);
            if let (Some(before), Some(after)) = (occupied, pool.resident_bytes()) {
                assert!(after <= before, "{size}: {after} of {before}");
            }
            let fewest = live.iter().map(MemoryHandle::occupied).sum::<usize>();
            if size < 1 << 20 {
                assert!(
                    after.reserved < before.reserved
                        || after.reserved as usize <= 2 * fewest.max(64 << 20)
                );
            } else {
                assert!(after.reserved < before.reserved, "regions of 64 MiB were unmapped");
            }
        }
        assert_eq!(pool.get_metrics().total_allocated, 0);
    }

    #[test]
    fn dense_and_foreign_blocks_are_not_moved() {
        let pool = HybridMemoryPool::new().unwrap();
        let other = HybridMemoryPool::new().unwrap();
        let dense = sparse(&pool, 4096, 1000, 1);
        let foreign = other.allocate(100, 64, &Device::Cpu).unwrap();
        let compaction = pool.start_compaction(0.1).unwrap();
        assert!(dense.iter().all(|handle| !compaction.concerns(handle)));
        assert!(!compaction.concerns(&foreign));
        let address = dense[0].bytes().as_ptr();
        let first = dense.into_iter().next().unwrap();
        assert_eq!(compaction.relocate(first).unwrap().bytes().as_ptr(), address);
    }
}

//! What every operation runs on: an instruction set, threads, counters and scratch memory.

use std::ops::Range;

use crate::isa::AnyIsa;
use crate::threads::{Pieces, Threads};
use crate::traffic::TrafficCounters;
use bitnet_core::Result;
use bitnet_core::memory::HybridMemoryPool;

/// The resources of one call of an operation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExecContext<'a> {
    pub(crate) isa: AnyIsa,
    pub(crate) threads: &'a Threads,
    pub(crate) traffic: &'a TrafficCounters,
    /// For buffers that a call needs and drops.
    pub(crate) scratch_pool: &'a HybridMemoryPool,
}

/// Computes some rows of an output: their range, and the place of their results.
pub(crate) type RowsFn<'a, T> = dyn Fn(Range<usize>, &mut [T]) -> Result<()> + Sync + 'a;

impl ExecContext<'_> {
    /// Divides the rows of `out` (`[rows, width]`) among the threads: `f` computes each range of rows. `work` is the
    /// number of elementary steps of a row.
    ///
    /// # Errors
    /// That of the first range, in order, for which `f` fails.
    pub(crate) fn for_each_rows<T: Send>(
        self,
        out: &mut [T],
        width: usize,
        work: usize,
        f: &RowsFn<'_, T>,
    ) -> Result<()> {
        let mut rest = out;
        let mut pieces: Pieces<(Range<usize>, &mut [T])> = Pieces::new();
        for range in self.threads.ranges(rest.len().checked_div(width).unwrap_or(0), work) {
            let (rows, tail) = rest.split_at_mut(range.len() * width);
            rest = tail;
            pieces.push((range, rows));
        }
        self.threads.each(pieces, |(range, rows)| f(range, rows))
    }
}

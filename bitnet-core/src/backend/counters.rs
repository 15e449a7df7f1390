//! Counts of the bytes that a back end reads and skips.

use super::top_logits::HeadStats;

/// Reports what the operations of a back end have read.
pub trait Counters {
    /// Returns what was read since the back end was made; `None` if it does not count.
    fn traffic(&self) -> Option<Traffic> {
        None
    }
}

/// Bytes and rows that a back end has read and skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of ternary weights read.
    pub ternary_bytes: u64,
    /// Rows of up-projections in layers whose gate may be exactly zero, one token at a time.
    pub gated_rows: u64,
    /// Those of them that were skipped because the gate was zero.
    pub gated_rows_skipped: u64,
    /// Input columns of layers prepared for sparse inputs, one token at a time.
    pub sparse_columns: u64,
    /// Those of them that were skipped because the quantised input was zero.
    pub sparse_columns_skipped: u64,
    /// Reads of [`Operations::top_logits`](super::Operations::top_logits).
    pub head: HeadStats,
    /// Bytes of ordinary matrices read by [`Operations::linear`](super::Operations::linear).
    pub dense_bytes: u64,
    /// Bytes of keys and values read by [`Operations::attention`](super::Operations::attention), those of a span once.
    pub cache_bytes: u64,
}

impl Traffic {
    /// Returns all bytes: weights, heads and caches. Activations are not counted.
    pub fn bytes(&self) -> u64 {
        self.ternary_bytes + self.head.bytes() + self.dense_bytes + self.cache_bytes
    }

    /// Returns what was counted after `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        let after = u64::wrapping_sub;
        Self {
            ternary_bytes: after(self.ternary_bytes, earlier.ternary_bytes),
            gated_rows: after(self.gated_rows, earlier.gated_rows),
            gated_rows_skipped: after(self.gated_rows_skipped, earlier.gated_rows_skipped),
            sparse_columns: after(self.sparse_columns, earlier.sparse_columns),
            sparse_columns_skipped: after(
                self.sparse_columns_skipped,
                earlier.sparse_columns_skipped,
            ),
            head: self.head.since(earlier.head),
            dense_bytes: after(self.dense_bytes, earlier.dense_bytes),
            cache_bytes: after(self.cache_bytes, earlier.cache_bytes),
        }
    }
}

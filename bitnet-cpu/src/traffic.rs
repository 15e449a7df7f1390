//! Counters of the bytes that kernels read.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bitnet_core::backend::Traffic;
use bitnet_core::backend::top_logits::HeadStats;

use crate::threads::lock;

/// Counters behind [`Traffic`], field by field.
#[derive(Debug, Default)]
pub(crate) struct TrafficCounters {
    pub(crate) ternary_bytes: AtomicU64,
    pub(crate) gated_rows: AtomicU64,
    pub(crate) gated_rows_skipped: AtomicU64,
    pub(crate) sparse_columns: AtomicU64,
    pub(crate) sparse_columns_skipped: AtomicU64,
    pub(crate) dense_bytes: AtomicU64,
    pub(crate) cache_bytes: AtomicU64,
    pub(crate) head: Mutex<HeadStats>,
}

impl TrafficCounters {
    /// Returns the counts so far.
    pub(crate) fn read(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            ternary_bytes: read(&self.ternary_bytes),
            gated_rows: read(&self.gated_rows),
            gated_rows_skipped: read(&self.gated_rows_skipped),
            sparse_columns: read(&self.sparse_columns),
            sparse_columns_skipped: read(&self.sparse_columns_skipped),
            head: *lock(&self.head),
            dense_bytes: read(&self.dense_bytes),
            cache_bytes: read(&self.cache_bytes),
        }
    }

    /// Adds counts.
    pub(crate) fn add(&self, traffic: Traffic) {
        let counters = [
            (&self.ternary_bytes, traffic.ternary_bytes),
            (&self.gated_rows, traffic.gated_rows),
            (&self.gated_rows_skipped, traffic.gated_rows_skipped),
            (&self.sparse_columns, traffic.sparse_columns),
            (&self.sparse_columns_skipped, traffic.sparse_columns_skipped),
            (&self.dense_bytes, traffic.dense_bytes),
            (&self.cache_bytes, traffic.cache_bytes),
        ];
        for (counter, count) in counters.into_iter().filter(|(_, count)| *count > 0) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
        if traffic.head.queries > 0 {
            let mut head = lock(&self.head);
            *head = head.plus(traffic.head);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn add_covers_every_field() {
        let traffic = Traffic {
            ternary_bytes: 1,
            gated_rows: 2,
            gated_rows_skipped: 3,
            sparse_columns: 4,
            sparse_columns_skipped: 5,
            head: HeadStats { queries: 6, rows: 7, row_bytes: 8, ..HeadStats::default() },
            dense_bytes: 9,
            cache_bytes: 10,
        };
        let counters = TrafficCounters::default();
        counters.add(traffic);
        assert_eq!(counters.read(), traffic);
        counters.add(traffic);
        assert_eq!(counters.read().since(traffic), traffic);
        assert_eq!(counters.read().bytes(), 2 * (1 + 8 + 9 + 10));
    }
}

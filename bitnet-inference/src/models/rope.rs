//! The rotation table that all sequences of a model share.

use std::sync::{Arc, PoisonError, RwLock};

use bitnet_core::backend::RopeTable;
use bitnet_core::memory::HybridMemoryPool;

use crate::Result;

/// Cosines and sines of every position that some sequence has reached. The table doubles as sequences grow; one that is
/// in use stays as it is until its last user is done.
#[derive(Debug)]
pub(crate) struct SharedRope {
    inverse_frequencies: Vec<f32>,
    magnitude: f32,
    table: RwLock<Arc<RopeTable>>,
}

impl SharedRope {
    /// An empty table for inverse frequencies `[head_dim / 2]`, with cosines and sines multiplied by `magnitude`.
    pub(crate) fn new(inverse_frequencies: Vec<f32>, magnitude: f32) -> Self {
        let table = RwLock::new(Arc::new(RopeTable::new(&inverse_frequencies, 0)));
        Self { inverse_frequencies, magnitude, table }
    }

    /// Returns a table of at least `positions` positions; its numbers do not depend on its length.
    ///
    /// # Errors
    /// If the memory can't be had.
    pub(crate) fn at_least(
        &self,
        positions: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Arc<RopeTable>> {
        let table = Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner));
        if positions <= table.positions() {
            return Ok(table);
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if positions > table.positions() {
            let positions = positions.max(table.positions().saturating_mul(2));
            let own =
                RopeTable::in_pool(&self.inverse_frequencies, self.magnitude, positions, pool)?;
            *table = Arc::new(own);
        }
        Ok(Arc::clone(&table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_grows_and_keeps_its_numbers() {
        let pool = HybridMemoryPool::new().unwrap();
        let rope = SharedRope::new(vec![1.0, 0.1], 1.0);
        let short = rope.at_least(3, &pool).unwrap();
        let long = rope.at_least(4, &pool).unwrap();
        assert_eq!((short.positions(), long.positions()), (3, 6));
        assert_eq!((&short.cos[..], &short.sin[..]), (&long.cos[..6], &long.sin[..6]));
        assert!(Arc::ptr_eq(&long, &rope.at_least(1, &pool).unwrap()));
    }
}

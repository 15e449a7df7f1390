//! What a sequence remembers of the tokens before.

use bitnet_core::kv::KvCache;

use crate::{InferenceError, Result};

/// The state of one sequence between two steps: keys and values of every layer, in pages that are allocated as
/// positions are filled.
#[derive(Debug)]
pub struct SequenceCache {
    kv: KvCache,
}

impl SequenceCache {
    /// Returns the state of a sequence whose keys and values are in `kv`.
    pub fn new(kv: KvCache) -> Self {
        Self { kv }
    }

    /// Returns the number of filled positions.
    pub fn len(&self) -> usize {
        self.kv.len()
    }

    /// Returns whether no position is filled.
    pub fn is_empty(&self) -> bool {
        self.kv.is_empty()
    }

    /// Returns the most positions that the cache may hold.
    pub fn capacity(&self) -> usize {
        self.kv.capacity()
    }

    /// Returns the bytes that one position takes in all layers.
    pub fn bytes_per_position(&self) -> usize {
        self.kv.bytes_per_position()
    }

    /// Forgets everything from position `len` on and frees its memory.
    pub fn truncate(&mut self, len: usize) {
        self.kv.truncate(len);
    }

    /// Returns a cache with the first `len` positions of this one, or all if there are fewer. Both share their memory until
    /// one of them writes.
    #[must_use]
    pub fn fork(&self, len: usize) -> Self {
        Self { kv: self.kv.fork(len) }
    }

    /// Returns the keys and values.
    pub fn kv(&self) -> &KvCache {
        &self.kv
    }

    /// Returns the keys and values for writing.
    pub fn kv_mut(&mut self) -> &mut KvCache {
        &mut self.kv
    }

    /// Allocates what `tokens` more positions need.
    ///
    /// # Errors
    /// [`InferenceError::Resource`] beyond the capacity, [`InferenceError::Core`] if the memory can't be had.
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        let used = self.len().saturating_add(tokens);
        if used <= self.capacity() {
            return Ok(self.kv.reserve(tokens)?);
        }
        Err(InferenceError::Resource {
            what: "context",
            used,
            limit: self.capacity(),
            advice: "shorten the prompt or raise the context size",
        })
    }

    /// Marks `tokens` more positions as filled.
    ///
    /// # Panics
    /// If they were not [reserved](SequenceCache::reserve).
    pub fn advance(&mut self, tokens: usize) {
        self.kv.advance(tokens);
    }
}

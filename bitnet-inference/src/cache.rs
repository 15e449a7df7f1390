//! The key-value cache: what attention remembers of the tokens before.

use bitnet_core::kv::{KvLayer, KvType};
use bitnet_core::memory::HybridMemoryPool;

use crate::{InferenceError, Result};

/// Keys and values of every layer for one sequence.
///
/// Memory is reserved for the whole capacity but touched only as positions are filled.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<KvLayer>,
    capacity: usize,
    len: usize,
}

impl KvCache {
    /// An empty cache for `capacity` positions of `kv_heads` heads of `head_dim` components.
    ///
    /// # Errors
    /// [`InferenceError::Core`] if the memory can't be had.
    pub fn new(
        kind: KvType,
        layers: usize,
        capacity: usize,
        kv_heads: usize,
        head_dim: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let layers = (0..layers)
            .map(|_| Ok(KvLayer::new(kind, capacity, kv_heads, head_dim, pool)?))
            .collect::<Result<_>>()?;
        Ok(Self { layers, capacity, len: 0 })
    }

    /// Positions filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that one position takes in all layers.
    pub fn bytes_per_position(&self) -> usize {
        self.layers.iter().map(KvLayer::bytes_per_position).sum()
    }

    /// Forgets everything from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The cache of layer `index`.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn layer_mut(&mut self, index: usize) -> &mut KvLayer {
        &mut self.layers[index]
    }

    /// Marks `tokens` more positions as filled.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// That `tokens` more positions fit.
    pub(crate) fn ensure_room(&self, tokens: usize) -> Result<()> {
        let used = self.len.saturating_add(tokens);
        if used <= self.capacity {
            return Ok(());
        }
        Err(InferenceError::Resource {
            what: "context",
            used,
            limit: self.capacity,
            advice: "shorten the prompt or raise the context size",
        })
    }
}

//! Operands of the gated delta rule.

use crate::memory::tensor::BitNetTensor;

/// Which head of keys a head of values reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeadOrder {
    /// Value heads `r * k .. r * (k + 1)` read key head `k`, where each key head has `r` value heads.
    Grouped,
    /// Value head `v` reads key head `v % key_heads`.
    Tiled,
}

impl HeadOrder {
    /// Returns the key head that value head `value_head` reads.
    #[inline]
    pub fn key_head(self, value_head: usize, key_heads: usize, value_heads: usize) -> usize {
        match self {
            Self::Grouped => value_head / (value_heads / key_heads).max(1),
            Self::Tiled => value_head % key_heads.max(1),
        }
    }
}

/// What the gated delta rule reads, besides the state.
#[derive(Debug, Clone, Copy)]
pub struct DeltaInputs<'a> {
    /// Queries, keys and values after the convolution, `[tokens, channels]`.
    pub qkv: &'a BitNetTensor,
    /// `[tokens, value_heads]`: the logarithm of decay is `rate * softplus(step + step_bias)`.
    pub step: &'a BitNetTensor,
    /// `[tokens, value_heads]`: the share of a correction that is written is `sigmoid(write)`.
    pub write: &'a BitNetTensor,
    /// `[value_heads]`, negative.
    pub rate: &'a BitNetTensor,
    /// `[value_heads]`
    pub step_bias: &'a BitNetTensor,
    /// Which key head each value head reads.
    pub order: HeadOrder,
}

//! The configuration of a training run, read from JSON.
use std::fmt::Debug;
use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Maximum number of parameters; gradients and moments are in memory as well.
const MAX_PARAMETERS: u64 = 1 << 30;

/// Sizes of the model (architecture `bitnet-b1.58`: ReLU², sub-norms, grouped queries, tied head).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Entries of the vocabulary, at least 260 (256 bytes and the special tokens).
    pub vocab_size: usize,
    /// Longest text in tokens.
    pub context_length: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads; divides `hidden_size`.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of the feed-forward block.
    pub feed_forward: usize,
    /// Base of the rotary embedding.
    pub rope_base: f32,
    /// Epsilon of every norm.
    pub rms_eps: f32,
}

impl ModelConfig {
    /// Width of one head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.heads
    }

    /// Returns the number of parameters; saturates for sizes that [`ModelConfig::validate`] rejects.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let [vocab, hidden, layers, feed_forward, heads, kv_heads] = [
            self.vocab_size,
            self.hidden_size,
            self.layers,
            self.feed_forward,
            self.heads.max(1),
            self.kv_heads,
        ]
        .map(|n| n as u128);
        let kv = hidden / heads * kv_heads;
        let rows = 2 * hidden + 2 * kv + 3 * feed_forward;
        let gains = 3 * hidden + feed_forward;
        let layer = hidden.saturating_mul(rows).saturating_add(gains);
        let total = layer.saturating_mul(layers).saturating_add((vocab + 1).saturating_mul(hidden));
        u64::try_from(total).unwrap_or(u64::MAX)
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`] with the first invalid field.
    pub fn validate(&self) -> Result<()> {
        require_in(260..=1 << 20, self.vocab_size, "vocab_size")?;
        require_in(2..=1 << 16, self.context_length, "context_length")?;
        require_in(1..=1 << 10, self.layers, "layers")?;
        require_in(1..=1 << 10, self.heads, "heads")?;
        let hidden =
            (1..=1 << 15).contains(&self.hidden_size) && self.hidden_size.is_multiple_of(128);
        require(
            hidden,
            "hidden_size",
            "must be a multiple of 128 (rows of I2_S hold whole groups of 128), at most 32768",
        )?;
        let feed_forward =
            (1..=1 << 17).contains(&self.feed_forward) && self.feed_forward.is_multiple_of(128);
        require(
            feed_forward,
            "feed_forward",
            "must be a multiple of 128 (rows of I2_S hold whole groups of 128), at most 131072",
        )?;
        let heads = self.hidden_size.is_multiple_of(2 * self.heads);
        require(heads, "heads", "hidden_size / heads must be an even integer")?;
        let kv_heads = self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads);
        require(kv_heads, "kv_heads", "must divide `heads`")?;
        require(
            self.rope_base.is_finite() && self.rope_base > 1.0,
            "rope_base",
            "must be above 1 (usually 10000)",
        )?;
        require(
            self.rms_eps > 0.0 && self.rms_eps < 0.1,
            "rms_eps",
            "must lie between 0 and 0.1 (usually 1e-5)",
        )?;
        require(
            self.parameters() <= MAX_PARAMETERS,
            "layers",
            "the model has more than 2^30 parameters, which is beyond this trainer; make it smaller",
        )
    }
}

fn require(ok: bool, field: &'static str, reason: &str) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::Config { field, reason: reason.to_owned() }) }
}

fn require_in<T: PartialOrd + Debug>(
    range: RangeInclusive<T>,
    value: T,
    field: &'static str,
) -> Result<()> {
    require(range.contains(&value), field, &format!("must lie in {range:?}"))
}

/// A run: model, length, learning rates and seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Name of the model in the exported file.
    pub name: String,
    /// Sizes.
    pub model: ModelConfig,
    /// Seed of the initial weights and of the stories.
    pub seed: u64,
    /// Stories from which the vocabulary is learned.
    pub vocabulary_stories: u64,
    /// Number of optimiser steps; may be changed when a run is resumed.
    pub steps: u64,
    /// Step at which the learning rate drops and weight decay ends; usually half of `steps`. Earlier steps do not
    /// depend on `steps`.
    pub stage_two_step: u64,
    /// Gradient shards of a step, which affect the result (sums run shard by shard), unlike `threads`.
    pub shards: usize,
    /// Stories per shard and step.
    pub stories_per_shard: usize,
    /// Worker threads, which do not affect the result; 0 = one per processor.
    pub threads: usize,
    /// Learning rate at the end of the warm-up.
    pub peak_learning_rate: f32,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: u64,
    /// Decoupled weight decay of the matrices in the first stage; the second has none.
    pub weight_decay: f32,
    /// Exponential decay of AdamW's first moment.
    pub beta1: f32,
    /// Exponential decay of AdamW's second moment.
    pub beta2: f32,
    /// Maximum gradient norm (clipping).
    pub gradient_clip: f32,
    /// Validation interval in steps.
    pub validate_every: u64,
    /// Held-out stories per validation.
    pub validation_stories: u64,
    /// Checkpoint interval in steps.
    pub checkpoint_every: u64,
}

impl TrainConfig {
    /// Reads a configuration from a JSON file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], or [`Error::Config`] if a field is out of range.
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let config: Self = serde_json::from_slice(&text)
            .map_err(|source| Error::Json { path: path.to_owned(), source })?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`] with the first invalid field.
    pub fn validate(&self) -> Result<()> {
        self.model.validate()?;
        require_in(1..=1 << 20, self.vocabulary_stories, "vocabulary_stories")?;
        require((1..=1 << 40).contains(&self.steps), "steps", "must be at least 1")?;
        require(self.stage_two_step < self.steps, "stage_two_step", "must be below `steps`")?;
        require_in(1..=1024, self.shards, "shards")?;
        require_in(1..=4096, self.stories_per_shard, "stories_per_shard")?;
        require(self.threads <= 1024, "threads", "must be at most 1024 (0 = one per processor)")?;
        let rate = self.peak_learning_rate > 0.0 && self.peak_learning_rate < 1.0;
        require(
            rate,
            "peak_learning_rate",
            "must lie between 0 and 1 (a few 1e-3 for small models)",
        )?;
        require(self.warmup_steps <= self.steps, "warmup_steps", "must not exceed `steps`")?;
        require((0.0..1.0).contains(&self.weight_decay), "weight_decay", "must lie in 0..1")?;
        require((0.0..1.0).contains(&self.beta1), "beta1", "must lie in 0..1")?;
        require((0.0..1.0).contains(&self.beta2), "beta2", "must lie in 0..1")?;
        require(self.gradient_clip > 0.0, "gradient_clip", "must be above 0 (usually 1)")?;
        require(self.validate_every > 0, "validate_every", "must be at least 1")?;
        require_in(1..=1 << 16, self.validation_stories, "validation_stories")?;
        require(self.checkpoint_every > 0, "checkpoint_every", "must be at least 1")
    }
}

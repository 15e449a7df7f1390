//! The parameter layout: one flat vector shared by optimiser, gradients and checkpoints.
use std::ops::Range;

use crate::{config::ModelConfig, layers::quantize_ternary, rng::Rng};

/// Ranges of one layer. Fused matrices are contiguous: queries, keys, values; gate, up.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerLayout {
    /// Gain before attention, `[hidden]`.
    pub attn_norm: Range<usize>,
    /// Query weights, `[heads·head_dim, hidden]`.
    pub q: Range<usize>,
    /// Key weights, `[kv_heads·head_dim, hidden]`.
    pub k: Range<usize>,
    /// Value weights, `[kv_heads·head_dim, hidden]`.
    pub v: Range<usize>,
    /// Gain before the output projection, `[hidden]`.
    pub attn_sub_norm: Range<usize>,
    /// Output projection, `[hidden, hidden]`.
    pub o: Range<usize>,
    /// Gain before the feed-forward block, `[hidden]`.
    pub ffn_norm: Range<usize>,
    /// Gate weights, `[feed_forward, hidden]`.
    pub gate: Range<usize>,
    /// Up weights, `[feed_forward, hidden]`.
    pub up: Range<usize>,
    /// Gain before the down projection, `[feed_forward]`.
    pub ffn_sub_norm: Range<usize>,
    /// Down projection, `[hidden, feed_forward]`.
    pub down: Range<usize>,
}

impl LayerLayout {
    /// Queries, keys and values as one matrix `[fused, hidden]`.
    #[must_use]
    pub fn qkv(&self) -> Range<usize> {
        self.q.start..self.v.end
    }

    /// Gate and up as one matrix `[2·feed_forward, hidden]`.
    #[must_use]
    pub fn gate_up(&self) -> Range<usize> {
        self.gate.start..self.up.end
    }

    /// Returns the seven ternary matrices, by their GGUF names.
    #[must_use]
    pub fn ternary(&self) -> [(&'static str, Range<usize>); 7] {
        [
            ("attn_q", self.q.clone()),
            ("attn_k", self.k.clone()),
            ("attn_v", self.v.clone()),
            ("attn_output", self.o.clone()),
            ("ffn_gate", self.gate.clone()),
            ("ffn_up", self.up.clone()),
            ("ffn_down", self.down.clone()),
        ]
    }

    /// Returns the four gains, by their GGUF names.
    #[must_use]
    pub fn norms(&self) -> [(&'static str, Range<usize>); 4] {
        [
            ("attn_norm", self.attn_norm.clone()),
            ("attn_sub_norm", self.attn_sub_norm.clone()),
            ("ffn_norm", self.ffn_norm.clone()),
            ("ffn_sub_norm", self.ffn_sub_norm.clone()),
        ]
    }
}

/// Ranges of the whole model.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// Token embedding and head, `[vocab, hidden]`.
    pub embedding: Range<usize>,
    /// The layers.
    pub layers: Vec<LayerLayout>,
    /// Last gain, `[hidden]`.
    pub output_norm: Range<usize>,
    /// Number of parameters.
    pub len: usize,
}

impl Layout {
    /// Returns the layout of a valid configuration.
    #[must_use]
    pub fn new(config: &ModelConfig) -> Self {
        let mut len = 0;
        let mut take = |n: usize| {
            len += n;
            len - n..len
        };
        let (h, f) = (config.hidden_size, config.feed_forward);
        let kv = config.kv_heads * config.head_dim();
        let embedding = take(config.vocab_size * h);
        let layers = (0..config.layers)
            .map(|_| LayerLayout {
                attn_norm: take(h),
                q: take(h * h),
                k: take(kv * h),
                v: take(kv * h),
                attn_sub_norm: take(h),
                o: take(h * h),
                ffn_norm: take(h),
                gate: take(f * h),
                up: take(f * h),
                ffn_sub_norm: take(f),
                down: take(h * f),
            })
            .collect();
        let output_norm = take(h);
        Self { embedding, layers, output_norm, len }
    }

    /// Writes initial values: gains 1, embedding N(0, 0.04²), matrices N(0, 1/(4·in)), divided by sqrt(2·layers) if
    /// they write to the residual stream.
    ///
    /// # Panics
    /// If `values` is not [`Layout::len`] long.
    pub fn initial(&self, config: &ModelConfig, seed: u64, values: &mut [f32]) {
        let mut rng = Rng::new(seed);
        values.fill(1.0);
        let mut fill = |range: Range<usize>, deviation: f32| {
            for value in &mut values[range] {
                *value = deviation * rng.normal();
            }
        };
        fill(self.embedding.clone(), 0.04);
        let residual = 1.0 / (2.0 * self.layers.len() as f32).sqrt();
        for layer in &self.layers {
            for (name, range) in layer.ternary() {
                let input =
                    if name == "ffn_down" { config.feed_forward } else { config.hidden_size };
                let writes_residual = matches!(name, "ffn_down" | "attn_output");
                let deviation = 0.5 / (input as f32).sqrt();
                fill(range, if writes_residual { deviation * residual } else { deviation });
            }
        }
    }

    /// Fills `effective` with the parameters of the forward pass: fake-quantised matrices, all others copied.
    pub fn quantize(&self, effective: &mut [f32], latent: &[f32]) {
        effective.copy_from_slice(latent);
        for layer in &self.layers {
            for (_, range) in layer.ternary() {
                quantize_ternary(&mut effective[range.clone()], &latent[range]);
            }
        }
    }

    /// Returns the ranges with weight decay: the ternary matrices.
    #[must_use]
    pub fn decayed(&self) -> Vec<Range<usize>> {
        self.layers.iter().flat_map(|layer| layer.ternary().map(|(_, range)| range)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_covers_every_parameter_once() {
        let config = ModelConfig {
            vocab_size: 300,
            context_length: 16,
            hidden_size: 128,
            layers: 3,
            heads: 8,
            kv_heads: 2,
            feed_forward: 384,
            rope_base: 10_000.0,
            rms_eps: 1e-5,
        };
        let layout = Layout::new(&config);
        assert_eq!(layout.len as u64, config.parameters());
        let mut ranges = vec![layout.embedding.clone(), layout.output_norm.clone()];
        for layer in &layout.layers {
            ranges.extend(layer.ternary().map(|(_, range)| range));
            ranges.extend(layer.norms().map(|(_, range)| range));
        }
        ranges.sort_by_key(|range| range.start);
        let mut end = 0;
        for range in ranges {
            assert_eq!(range.start, end);
            end = range.end;
        }
        assert_eq!(end, layout.len);
    }

    #[test]
    fn decayed_ranges_are_the_ternary_matrices() {
        let config = ModelConfig {
            vocab_size: 300,
            context_length: 16,
            hidden_size: 128,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            feed_forward: 128,
            rope_base: 10_000.0,
            rms_eps: 1e-5,
        };
        let decayed: usize =
            Layout::new(&config).decayed().iter().map(ExactSizeIterator::len).sum();
        assert_eq!(decayed, 128 * (128 + 64 + 64 + 128 + 128 + 128 + 128));
    }
}

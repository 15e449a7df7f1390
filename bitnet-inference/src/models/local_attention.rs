//! Layers that attend to a window of positions, beside layers that attend to all of them.

use std::sync::Arc;

use super::ModelConfig;

/// Which layers attend to a window.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalAttention {
    /// Positions that a token sees in these layers, its own included.
    pub positions: usize,
    /// Whether each layer is one of them.
    pub layers: Arc<[bool]>,
    /// Base of the RoPE frequencies in these layers, which are not stretched; `None`: those of all layers.
    pub rope_theta: Option<f32>,
}

impl LocalAttention {
    /// Returns the setting that is impossible in a model of `layers` layers, and its problem.
    pub(super) fn fault(&self, layers: usize) -> Option<(&'static str, String)> {
        if self.positions == 0 {
            return Some(("window of attention", "0; a token sees at least itself".into()));
        }
        if let Some(theta) = self.rope_theta.filter(|x| !(x.is_finite() && *x >= 1.0)) {
            let problem = format!("{theta} is not a number of at least 1");
            return Some(("RoPE base of layers with a window", problem));
        }
        let len = self.layers.len();
        (len != layers)
            .then(|| ("kinds of attention", format!("{len} of them for {layers} layers")))
    }
}

impl ModelConfig {
    /// Returns the setting of attention that is impossible, and its problem.
    pub(super) fn attention_fault(&self) -> Option<(&'static str, String)> {
        if let Some(scalar) = self.query_scalar.filter(|x| !(x.is_finite() && *x > 0.0)) {
            return Some(("scale of attention", format!("{scalar} is not a positive number")));
        }
        self.local.as_ref().and_then(|local| local.fault(self.layers))
    }

    /// What scores of attention are multiplied by.
    pub(crate) fn attention_scale(&self) -> f32 {
        1.0 / self.query_scalar.unwrap_or(self.head_dim as f32).sqrt()
    }

    /// Plain frequencies of a base.
    pub(super) fn frequencies_of(&self, theta: f32) -> impl Iterator<Item = f32> {
        let dim = self.rope_dim;
        (0..dim / 2).map(move |j| 1.0 / theta.powf((2 * j) as f32 / dim as f32))
    }

    /// Returns the positions that a token sees in a layer with attention, its own included; `None`: all.
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        let local = self.local.as_ref()?;
        local.layers.get(layer).copied().unwrap_or(false).then_some(local.positions)
    }

    /// Inverse frequencies of RoPE in layers that attend to a window, `[head_dim / 2]`, where they have their own.
    pub fn local_frequencies(&self) -> Option<Vec<f32>> {
        let theta = self.local.as_ref()?.rope_theta?;
        Some(self.frequencies_of(theta).collect())
    }

    /// Whether RoPE rotates queries and keys of a layer.
    pub fn has_rope(&self, layer: usize) -> bool {
        !self.architecture.table().local_rope || self.window_of(layer).is_some()
    }
}

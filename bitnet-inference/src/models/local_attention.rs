//! Layers that attend to a window of positions, beside layers that attend to all of them.

use std::sync::Arc;

use super::ModelConfig;

/// Which layers attend to a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalAttention {
    /// Positions that a token sees in these layers, its own included.
    pub positions: usize,
    /// Whether each layer is one of them.
    pub layers: Arc<[bool]>,
}

impl LocalAttention {
    /// Returns the setting that is impossible in a model of `layers` layers, and its problem.
    pub(super) fn fault(&self, layers: usize) -> Option<(&'static str, String)> {
        if self.positions == 0 {
            return Some(("window of attention", "0; a token sees at least itself".into()));
        }
        let len = self.layers.len();
        (len != layers)
            .then(|| ("kinds of attention", format!("{len} of them for {layers} layers")))
    }
}

impl ModelConfig {
    /// Returns the positions that a token sees in a layer with attention, its own included; `None`: all.
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        let local = self.local.as_ref()?;
        local.layers.get(layer).copied().unwrap_or(false).then_some(local.positions)
    }

    /// Whether RoPE rotates queries and keys of a layer.
    pub fn has_rope(&self, layer: usize) -> bool {
        !self.architecture.table().local_rope || self.window_of(layer).is_some()
    }
}

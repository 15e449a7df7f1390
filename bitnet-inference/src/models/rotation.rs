//! Weights that are stored rotated: which they are, and what turns their inputs.

use std::collections::BTreeMap;
use std::sync::Arc;

use bitnet_core::backend::Rotation;
use bitnet_formats::names::TensorName;

/// The weights of a model that are stored in a rotated basis: `W x` is computed as `W' (H (signs * x))`.
///
/// Sources: the keys `prism.hadamard.*`, version 1, of PrismML's GGUF files; `prism_hadamard_qwen35` of mlx-lm.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightRotations {
    /// What turns the inputs of each rotated weight, by names as `blk.0.attn_q`; rows of `token_embd` are turned back.
    pub by_weight: BTreeMap<String, Arc<Rotation>>,
    /// Whether the output projections of recurrent layers read heads grouped by their keys, whatever the order of
    /// heads in the other tensors.
    pub grouped_values: bool,
}

impl WeightRotations {
    /// Returns the rotation of the inputs of a weight; `None` if it is stored as it is.
    pub fn of(&self, name: TensorName) -> Option<&Arc<Rotation>> {
        self.by_weight.get(&name.stem())
    }
}

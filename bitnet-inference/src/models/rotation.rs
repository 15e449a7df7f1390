//! Weights that are stored rotated: which they are, and what turns their inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bitnet_core::backend::Rotation;
use bitnet_formats::names::{Role, TensorName};

/// The weights of a model that are stored in a rotated basis: `W x` is computed as `W' (H (signs * x))`.
///
/// Source: the keys `prism.hadamard.*`, version 1, of PrismML's GGUF files.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightRotations {
    /// The rotation of inputs of each width.
    pub by_width: BTreeMap<usize, Arc<Rotation>>,
    /// The rotated weights, `blk.0.attn_q` and so on.
    pub weights: BTreeSet<String>,
    /// Whether rows of the embedding table are rotated back.
    pub embedding: bool,
    /// Whether the output projections of recurrent layers read heads grouped by their keys, whatever the order of
    /// heads in the other tensors.
    pub grouped_values: bool,
}

impl WeightRotations {
    /// Returns the rotation of the inputs of a weight `[_, cols]`; `None` if it is stored as it is.
    pub fn of(&self, name: TensorName, cols: usize) -> Option<&Arc<Rotation>> {
        let is_rotated = match name.role {
            Role::TokenEmbedding => self.embedding,
            _ => self.weights.contains(&name.stem()),
        };
        if is_rotated { self.by_width.get(&cols) } else { None }
    }
}

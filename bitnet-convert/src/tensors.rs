//! The tensors of a model, in file order.

use bitnet_core::backend::RopeOrder;
use bitnet_formats::names::{Part, Role, TensorName};
use bitnet_inference::ModelFiles;
use bitnet_inference::models::{Architecture, ModelConfig};

use crate::Result;

/// The kind of a tensor, for its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A norm's gain; never quantised.
    Vector,
    /// A ternary layer's weight.
    Linear,
    /// The embedding table.
    Embedding,
    /// The head.
    Head,
}

/// A tensor of the model, `[rows, cols]`; a vector has one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ModelTensor {
    pub(crate) name: TensorName,
    pub(crate) kind: Kind,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl ModelTensor {
    /// Returns its name in checkpoints.
    pub(crate) fn stem(&self) -> String {
        let name = self.name.to_gguf().unwrap_or_default();
        name.strip_suffix(".weight").unwrap_or(&name).to_owned()
    }
}

/// (role, rows, columns, kind) of every layer's tensors, in the order of published files.
fn in_layer(c: &ModelConfig) -> Vec<(Role, usize, usize, Kind)> {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let mut out = vec![(Role::AttentionNorm, 1, c.hidden, Kind::Vector)];
    out.extend([
        (Role::Query, q, c.hidden, Kind::Linear),
        (Role::Key, kv, c.hidden, Kind::Linear),
        (Role::Value, kv, c.hidden, Kind::Linear),
    ]);
    if c.architecture == Architecture::Qwen3 {
        out.push((Role::QueryNorm, 1, c.head_dim, Kind::Vector));
        out.push((Role::KeyNorm, 1, c.head_dim, Kind::Vector));
    }
    let sub_norms = c.architecture == Architecture::BitNet;
    if sub_norms {
        out.push((Role::AttentionSubNorm, 1, q, Kind::Vector));
    }
    out.push((Role::AttentionOutput, c.hidden, q, Kind::Linear));
    out.push((Role::FeedForwardNorm, 1, c.hidden, Kind::Vector));
    out.push((Role::Gate, c.intermediate, c.hidden, Kind::Linear));
    out.push((Role::Up, c.intermediate, c.hidden, Kind::Linear));
    if sub_norms {
        out.push((Role::FeedForwardSubNorm, 1, c.intermediate, Kind::Vector));
    }
    out.push((Role::Down, c.hidden, c.intermediate, Kind::Linear));
    out
}

/// Returns all required tensors, and the optional ones that `files` has.
pub(crate) fn of(files: &ModelFiles) -> Result<Vec<ModelTensor>> {
    let c = files.config();
    let outside =
        |role, rows, cols, kind| ModelTensor { name: TensorName::outside(role), kind, rows, cols };
    let mut out = vec![outside(Role::TokenEmbedding, c.vocab_size, c.hidden, Kind::Embedding)];
    for layer in 0..c.layers {
        for (role, rows, cols, kind) in in_layer(c) {
            let name = TensorName::in_layer(layer as u32, role);
            let tensor = ModelTensor { name, kind, rows, cols };
            out.push(tensor);
            if kind == Kind::Linear {
                let norm = ModelTensor {
                    name: name.with(Part::InputNorm),
                    kind: Kind::Vector,
                    rows: 1,
                    cols,
                };
                if files.vector(&norm.stem(), cols)?.is_some() {
                    out.push(norm);
                }
            }
        }
    }
    out.push(outside(Role::OutputNorm, 1, c.hidden, Kind::Vector));
    if files.tied() != Some(true) && files.stored_bytes("output")?.is_some() {
        out.push(outside(Role::Output, c.vocab_size, c.hidden, Kind::Head));
    }
    Ok(out)
}

/// Returns the additional tensors of GGUF files: RoPE frequency factors, which other formats store as settings.
pub(crate) fn rope_frequencies(config: &ModelConfig) -> Option<ModelTensor> {
    let factors = config.frequency_factors()?;
    let name = TensorName::outside(Role::RopeFrequencies);
    Some(ModelTensor { name, kind: Kind::Vector, rows: 1, cols: factors.len() })
}

/// The source row of each row of the result, for query and key tensors with permuted rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeadRows {
    head_dim: usize,
    to: RopeOrder,
}

impl HeadRows {
    /// Returns the permutation of a tensor's rows to the order `to`; `None` if the order does not change.
    pub(crate) fn of(tensor: &ModelTensor, config: &ModelConfig, to: RopeOrder) -> Option<Self> {
        let rotated =
            matches!(tensor.name.role, Role::Query | Role::Key) && tensor.name.part == Part::Weight;
        (rotated && config.rope_order != to).then_some(Self { head_dim: config.head_dim, to })
    }

    /// Returns the source's row.
    pub(crate) fn source(self, row: usize) -> usize {
        let (head, inner, half) = (row / self.head_dim, row % self.head_dim, self.head_dim / 2);
        head * self.head_dim
            + match self.to {
                RopeOrder::Interleaved => inner % 2 * half + inner / 2,
                RopeOrder::Halves => inner % half * 2 + inner / half,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_permutations_are_inverse() {
        let there = HeadRows { head_dim: 8, to: RopeOrder::Interleaved };
        let back = HeadRows { head_dim: 8, to: RopeOrder::Halves };
        for row in 0..24 {
            assert_eq!(there.source(back.source(row)), row);
        }
        let order: Vec<usize> = (0..8).map(|row| there.source(row)).collect();
        assert_eq!(order, [0, 4, 1, 5, 2, 6, 3, 7]);
    }
}

//! The order of a tensor's components: containers differ in the rows of RoPE's heads and in the value heads of recurrent
//! layers, which rows, columns and vectors follow.

use bitnet_core::backend::{HeadOrder, RopeOrder};
use bitnet_core::ternary::{ScaleGranularity, TernaryBuilder, TernaryMatrix};
use bitnet_formats::names::{Part, Role};
use bitnet_inference::models::ModelConfig;

use crate::options::Target;
use crate::tensors::ModelTensor;
use crate::{Error, Result};

/// The orders in which a container holds components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Orders {
    /// The components of a head that RoPE pairs.
    pub(crate) rope: RopeOrder,
    /// The value heads of recurrent layers.
    pub(crate) heads: HeadOrder,
}

impl Orders {
    /// Hugging Face's, which adapters have too.
    pub(crate) const FOLDER: Self = Self { rope: RopeOrder::Halves, heads: HeadOrder::Grouped };

    /// Those of a target.
    pub(crate) fn of_target(target: Target, config: &ModelConfig) -> Self {
        match target {
            Target::Gguf => {
                Self { rope: config.architecture.table().gguf_rope_order, heads: HeadOrder::Tiled }
            }
            Target::HuggingFace | Target::Dense | Target::Mlx => Self::FOLDER,
        }
    }

    /// Those of a model as it is read.
    pub(crate) fn of_model(config: &ModelConfig) -> Self {
        let heads = config.recurrent.as_ref().map_or(HeadOrder::Grouped, |found| found.order);
        Self { rope: config.rope_order, heads }
    }
}

/// For each component of the result the source's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    /// The components of RoPE's heads.
    Rope { head_dim: usize, to: RopeOrder },
    /// Value heads of `head` components each after the `first` components, which stay.
    Heads { first: usize, head: usize, key_heads: usize, each: usize, to: HeadOrder },
}

impl Moved {
    fn source(self, index: usize) -> usize {
        match self {
            Self::Rope { head_dim, to } => {
                let (head, inner, half) = (index / head_dim, index % head_dim, head_dim / 2);
                head * head_dim
                    + match to {
                        RopeOrder::Interleaved => inner % 2 * half + inner / 2,
                        RopeOrder::Halves => inner % half * 2 + inner / half,
                    }
            }
            Self::Heads { first, .. } if index < first => index,
            Self::Heads { first, head, key_heads, each, to } => {
                let (place, inner) = ((index - first) / head, (index - first) % head);
                let own = match to {
                    HeadOrder::Tiled => place % key_heads * each + place / key_heads,
                    HeadOrder::Grouped => place % each * key_heads + place / each,
                };
                first + own * head + inner
            }
        }
    }
}

/// Where the components of a tensor of the result are in the source; at least one of both is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    rows: Option<Moved>,
    cols: Option<Moved>,
}

impl Order {
    /// Returns the order of a tensor that goes from `from` to `to`; `None` if its components stay where they are.
    pub(crate) fn of(
        tensor: &ModelTensor,
        config: &ModelConfig,
        from: Orders,
        to: Orders,
    ) -> Option<Self> {
        let (role, part) = (tensor.name.role, tensor.name.part);
        if matches!(role, Role::Query | Role::Key) && part == Part::Weight {
            let moved = Moved::Rope { head_dim: config.head_dim, to: to.rope };
            return (from.rope != to.rope).then_some(Self { rows: Some(moved), cols: None });
        }
        let shape = config.recurrent.as_ref()?.shape;
        let each = shape.value_heads / shape.key_heads;
        if from.heads == to.heads || each == 1 || shape.key_heads == 1 {
            return None;
        }
        let heads = |first, head| {
            Some(Moved::Heads { first, head, key_heads: shape.key_heads, each, to: to.heads })
        };
        let keys = 2 * shape.key_heads * shape.key_dim;
        let (rows, cols) = match (role, part) {
            (Role::DeltaQkv | Role::DeltaConv, Part::Weight) => {
                (heads(keys, shape.value_dim), None)
            }
            (Role::DeltaGate, Part::Weight) => (heads(0, shape.value_dim), None),
            (Role::DeltaStep | Role::DeltaWrite, Part::Weight) => (heads(0, 1), None),
            (Role::DeltaRate | Role::DeltaStepBias, _) => (None, heads(0, 1)),
            (Role::DeltaOutput, Part::InputNorm) => (None, heads(0, shape.value_dim)),
            // Rotated files may hold the columns grouped, whatever the order of the rest.
            (Role::DeltaOutput, Part::Weight)
                if !config.rotations.as_ref().is_some_and(|found| found.grouped_values) =>
            {
                (None, heads(0, shape.value_dim))
            }
            _ => return None,
        };
        Some(Self { rows, cols })
    }

    /// Returns the source's row.
    pub(crate) fn source_row(self, row: usize) -> usize {
        self.rows.map_or(row, |moved| moved.source(row))
    }

    /// Returns the source's column.
    pub(crate) fn source_col(self, col: usize) -> usize {
        self.cols.map_or(col, |moved| moved.source(col))
    }

    /// Whether columns are moved.
    pub(crate) fn moves_cols(self) -> bool {
        self.cols.is_some()
    }

    /// Moves the numbers of a row of the source to their places; `row` is free space of the same length.
    pub(crate) fn move_cols(self, numbers: &mut [f32], row: &mut [f32]) {
        if self.moves_cols() {
            row.copy_from_slice(numbers);
            numbers.iter_mut().enumerate().for_each(|(col, x)| *x = row[self.source_col(col)]);
        }
    }

    /// Returns a matrix of the source in the order of the result. `name` is the tensor's, for messages.
    ///
    /// # Errors
    /// [`Error::Refused`] if columns with a common scale do not stay together.
    pub(crate) fn apply(self, name: &str, matrix: &TernaryMatrix) -> Result<TernaryMatrix> {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let mut builder = TernaryBuilder::new(rows, cols)?.accept_doubled();
        let group = match matrix.granularity() {
            ScaleGranularity::Tensor => None,
            ScaleGranularity::Row => Some(cols),
            ScaleGranularity::Group(n) => Some(n),
        };
        let mut scales = Vec::with_capacity(matrix.scales().len());
        let (mut trits, mut codes) = (vec![0_i8; cols], vec![0_u8; cols]);
        for row in 0..rows {
            let source = self.source_row(row);
            if self.moves_cols() {
                matrix.unpack_row(source, &mut trits);
                codes.iter_mut().enumerate().for_each(|(col, code)| {
                    *code = (trits[self.source_col(col)] + 1) as u8;
                });
                builder.push_row(&codes)?;
            } else {
                builder.push_words(&matrix.row_words(source)[..cols.div_ceil(16)])?;
            }
            let Some(group) = group else { continue };
            for first in (0..cols).step_by(group) {
                let scale = |col| matrix.scale_at(source, self.source_col(col));
                let own = scale(first);
                let mut others = first + 1..cols.min(first + group);
                if self.moves_cols() && others.any(|col| scale(col) != own) {
                    let problem = format!(
                        "its columns are ordered by heads of recurrent layers, and {group} of them share a scale: in the \
                         result's order they would not; give it ordinary numbers (--tensor '{name}=f16')"
                    );
                    return Err(Error::refused(format!("tensor {name}"), problem));
                }
                scales.push(own);
            }
        }
        if group.is_none() {
            scales.extend_from_slice(matrix.scales());
        }
        Ok(builder.finish(matrix.granularity(), scales)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_inverse() {
        let rope = |to| Moved::Rope { head_dim: 8, to };
        let (there, back) = (rope(RopeOrder::Interleaved), rope(RopeOrder::Halves));
        assert!((0..24).all(|row| there.source(back.source(row)) == row));
        let order: Vec<usize> = (0..8).map(|row| there.source(row)).collect();
        assert_eq!(order, [0, 4, 1, 5, 2, 6, 3, 7]);

        let heads = |to| Moved::Heads { first: 4, head: 2, key_heads: 2, each: 3, to };
        let (there, back) = (heads(HeadOrder::Tiled), heads(HeadOrder::Grouped));
        assert!((0..16).all(|row| there.source(back.source(row)) == row));
        // Heads 0, 1 and 2 read key head 0, the others 1; tiled, keys alternate.
        let order: Vec<usize> = (0..16).map(|row| there.source(row)).collect();
        assert_eq!(order, [0, 1, 2, 3, 4, 5, 10, 11, 6, 7, 12, 13, 8, 9, 14, 15]);
    }

    #[test]
    fn scales_move_with_their_columns() {
        let cols = Moved::Heads { first: 0, head: 64, key_heads: 2, each: 2, to: HeadOrder::Tiled };
        let order = Order { rows: None, cols: Some(cols) };
        let trits: Vec<i8> = (0..512).map(|i| (i * 7 % 3) as i8 - 1).collect();
        let scales: Vec<f32> = (1..=8).map(|n| n as f32).collect();
        let matrix =
            TernaryMatrix::from_trits(2, 256, &trits, ScaleGranularity::Group(64), scales).unwrap();
        let moved = order.apply("x", &matrix).unwrap();
        assert_eq!(moved.scales(), [1.0, 3.0, 2.0, 4.0, 5.0, 7.0, 6.0, 8.0]);
        assert_eq!(moved.trit(1, 64), matrix.trit(1, 128));
        assert_eq!(moved.trit(0, 255), matrix.trit(0, 255));
        let halves = vec![1.0, 2.0, 3.0, 4.0];
        let matrix =
            TernaryMatrix::from_trits(2, 256, &trits, ScaleGranularity::Group(128), halves)
                .unwrap();
        let error = order.apply("blk.0.ssm_out", &matrix).unwrap_err().to_string();
        assert!(error.contains("blk.0.ssm_out") && error.contains("128"), "{error}");
    }

    #[test]
    fn weights_of_code_3_move_with_their_columns() {
        let cols = Moved::Heads { first: 0, head: 64, key_heads: 2, each: 2, to: HeadOrder::Tiled };
        let order = Order { rows: None, cols: Some(cols) };
        let mut codes = vec![1; 256];
        (codes[3], codes[130]) = (3, 3);
        let mut builder = TernaryBuilder::new(1, 256).unwrap().accept_doubled();
        builder.push_row(&codes).unwrap();
        let matrix = builder.finish(ScaleGranularity::Group(64), vec![0.5; 4]).unwrap();
        let moved = order.apply("x", &matrix).unwrap();
        // The second 64 columns change places with the third.
        assert_eq!((moved.doubled(), moved.trit(0, 3), moved.trit(0, 66)), (2, 2, 2));
    }
}

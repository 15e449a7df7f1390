//! Between ternary and ordinary matrices: rows of numbers out of trits, trits out of rows of numbers.

use std::sync::Arc;

use bitnet_core::backend::ActivationPrecision;
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_core::{Error, Result};
use bitnet_quant::weights::{absmean_in, detect_ternary_in};

use super::{Decoded, StoredLinear};

/// A ternary matrix that is read row by row as numbers: a ternary embedding table or head.
#[derive(Debug)]
pub(crate) struct TernaryRows {
    matrix: TernaryMatrix,
    type_name: &'static str,
}

impl TernaryRows {
    pub(crate) fn new(matrix: TernaryMatrix, type_name: &'static str) -> Self {
        Self { matrix, type_name }
    }
}

impl DenseRows for TernaryRows {
    fn rows(&self) -> usize {
        self.matrix.rows()
    }

    fn cols(&self) -> usize {
        self.matrix.cols()
    }

    fn type_name(&self) -> &'static str {
        self.type_name
    }

    fn bytes(&self) -> usize {
        self.matrix.bytes()
    }

    fn decode_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        if row >= self.rows() {
            return Err(Error::OutOfRange { op: "decode_row", index: row, len: self.rows() });
        }
        if out.len() != self.cols() {
            return Err(Error::ShapeMismatch {
                op: "decode_row",
                operand: "out",
                got: vec![out.len()],
                expected: format!("[{}]", self.cols()),
            });
        }
        for (col, out) in out.iter_mut().enumerate() {
            *out = f32::from(self.matrix.trit(row, col)) * self.matrix.scale_at(row, col);
        }
        Ok(())
    }
}

/// A linear layer stored as plain numbers: trits if it holds nothing else; trits by absmean if `latent` says that
/// the numbers are the full-precision masters of ternary weights; an ordinary matrix otherwise. Trits are in `pool`.
pub(crate) fn from_dense(
    dense: Arc<dyn DenseRows>,
    latent: bool,
    precision: ActivationPrecision,
    pool: &HybridMemoryPool,
) -> bitnet_quant::Result<Decoded> {
    if let Some(matrix) = detect_ternary_in(&*dense, Some(pool))? {
        let granularity = match matrix.granularity() {
            ScaleGranularity::Tensor => "one scale per tensor".to_owned(),
            ScaleGranularity::Row => "one scale per row".to_owned(),
            ScaleGranularity::Group(n) => format!("one scale per {n} weights"),
        };
        let assumption = format!(
            "linear layers stored as {} hold ternary values already ({granularity})",
            dense.type_name()
        );
        return Ok(Decoded {
            linear: StoredLinear::Ternary(matrix, precision),
            assumption: Some(assumption),
        });
    }
    if latent {
        let matrix = absmean_in(&*dense, Some(pool))?;
        let assumption = format!(
            "linear layers stored as {} were quantised at load (absmean)",
            dense.type_name()
        );
        return Ok(Decoded {
            linear: StoredLinear::Ternary(matrix, precision),
            assumption: Some(assumption),
        });
    }
    Ok(Decoded { linear: StoredLinear::Dense(dense), assumption: None })
}

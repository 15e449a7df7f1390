//! Between ternary and ordinary matrices: rows of numbers out of trits, trits out of rows of numbers.

use bitnet_core::dense::DenseRows;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_core::{Error, Result};
use bitnet_quant::weights::{absmean, detect_ternary};

use super::{Decoded, DecodedLinear, StoredLinear, StoredWeight};
use crate::InferenceError;

/// A ternary matrix that is read row by row as numbers: a ternary embedding table or head.
#[derive(Debug)]
pub struct TernaryRows {
    matrix: TernaryMatrix,
    type_name: &'static str,
}

impl TernaryRows {
    /// Over a matrix that was stored as `type_name`.
    pub fn new(matrix: TernaryMatrix, type_name: &'static str) -> Self {
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

/// A stored layer as the engine runs it. Plain numbers become trits if they are nothing else, and by absmean if they
/// are the full-precision masters of ternary weights; else they stay an ordinary matrix. Trits are in `pool`.
pub(crate) fn decoded(
    file: &str,
    stored: StoredLinear,
    pool: &HybridMemoryPool,
) -> crate::Result<Decoded> {
    let StoredLinear { tensor, weight, precision } = stored;
    let (rows, latent, scale) = match weight {
        StoredWeight::Ternary(matrix) => {
            let linear = DecodedLinear::Ternary(matrix, precision);
            return Ok(Decoded { linear, assumption: None });
        }
        StoredWeight::Dense { rows, latent, scale } => (rows, latent, scale),
    };
    let found = trits_of(&*rows, latent, pool);
    let found = found.map_err(|e| InferenceError::weights(file, &tensor, e))?;
    let Some((mut matrix, assumption)) = found else {
        if scale.is_some() {
            let what =
                format!("{file}: tensor {tensor} of ordinary numbers with a scale beside it");
            let instead = "a scale beside a tensor is read where its weights are ternary";
            return Err(InferenceError::unsupported(what, instead));
        }
        return Ok(Decoded { linear: DecodedLinear::Dense(rows), assumption: None });
    };
    rows.release();
    if let Some(scale) = scale {
        let scaled = matrix.scaled_in(scale, Some(pool));
        matrix = scaled.map_err(|e| InferenceError::weights(file, &tensor, e))?;
    }
    let linear = DecodedLinear::Ternary(matrix, precision);
    Ok(Decoded { linear, assumption: Some(assumption) })
}

/// What becomes of plain numbers of a linear layer when the model is loaded, in the words of [`Decoded::assumption`];
/// `None` if they stay what they are, or if they can't be quantised.
pub(super) fn becomes(stored: &StoredLinear, pool: &HybridMemoryPool) -> Option<String> {
    match &stored.weight {
        StoredWeight::Ternary(_) => None,
        StoredWeight::Dense { rows, latent, .. } => match detect_ternary(&**rows, Some(pool)) {
            Ok(Some(matrix)) => Some(ternary_already(&**rows, &matrix)),
            Ok(None) if *latent => Some(quantised_at_load(&**rows)),
            Ok(None) | Err(_) => None,
        },
    }
}

fn ternary_already(rows: &dyn DenseRows, matrix: &TernaryMatrix) -> String {
    let stored_as = rows.type_name();
    let granularity = match matrix.granularity() {
        ScaleGranularity::Tensor => "one scale per tensor".to_owned(),
        ScaleGranularity::Row => "one scale per row".to_owned(),
        ScaleGranularity::Group(n) => format!("one scale per {n} weights"),
    };
    format!("linear layers stored as {stored_as} hold ternary values already ({granularity})")
}

fn quantised_at_load(rows: &dyn DenseRows) -> String {
    let stored_as = rows.type_name();
    format!("linear layers stored as {stored_as} were quantised at load (absmean)")
}

/// The trits of a matrix that holds nothing else, or of full-precision masters, with what had to be assumed.
fn trits_of(
    rows: &dyn DenseRows,
    latent: bool,
    pool: &HybridMemoryPool,
) -> bitnet_quant::Result<Option<(TernaryMatrix, String)>> {
    if let Some(matrix) = detect_ternary(rows, Some(pool))? {
        let assumption = ternary_already(rows, &matrix);
        return Ok(Some((matrix, assumption)));
    }
    if !latent {
        return Ok(None);
    }
    let matrix = absmean(rows, ScaleGranularity::Tensor, Some(pool))?;
    Ok(Some((matrix, quantised_at_load(rows))))
}

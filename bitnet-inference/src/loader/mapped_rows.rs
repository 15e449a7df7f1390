//! A dense matrix over mapped bytes, which can leave the resident set.

use bitnet_core::Result;
use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_formats::Region;
use bitnet_quant::codec::dense::{DenseMatrix, DenseType};

use crate::InferenceError;

/// A dense matrix over a region of a file.
#[derive(Debug)]
pub(crate) struct MappedRows {
    matrix: DenseMatrix<Region>,
    region: Region,
}

impl MappedRows {
    /// Over the bytes of `region`.
    pub(crate) fn new(
        dtype: DenseType,
        rows: usize,
        cols: usize,
        region: Region,
    ) -> bitnet_quant::Result<Self> {
        let matrix = DenseMatrix::new(dtype, rows, cols, region.clone())?;
        Ok(Self { matrix, region })
    }
}

/// The numbers of the first row, which messages call `field`.
///
/// # Errors
/// [`InferenceError::Config`] for a number that is not finite.
pub(super) fn finite_row(rows: &dyn DenseRows, file: &str, field: &str) -> crate::Result<Vec<f32>> {
    let mut out = vec![0.0; rows.cols()];
    rows.decode_row(0, &mut out)?;
    match out.iter().enumerate().find(|(_, number)| !number.is_finite()) {
        None => Ok(out),
        Some((index, number)) => {
            let problem = format!("element {index} is {number}; the file is damaged");
            Err(InferenceError::config(file, field, problem))
        }
    }
}

impl DenseRows for MappedRows {
    fn rows(&self) -> usize {
        self.matrix.rows()
    }

    fn cols(&self) -> usize {
        self.matrix.cols()
    }

    fn type_name(&self) -> &'static str {
        self.matrix.type_name()
    }

    fn bytes(&self) -> usize {
        self.matrix.bytes()
    }

    fn decode_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        self.matrix.decode_row(row, out)
    }

    fn plain(&self) -> Option<(PlainType, &[u8])> {
        self.matrix.plain()
    }

    fn release(&self) {
        self.region.release();
    }
}

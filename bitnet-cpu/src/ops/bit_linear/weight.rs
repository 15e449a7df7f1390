//! A ternary weight as this back end reads it: rows of codes, and columns where inputs are sparse.

use std::any::Any;
use std::ops::Range;

use crate::isa::{CodeBlock, PANEL_ROWS};
use bitnet_core::backend::TernaryWeight;
use bitnet_core::backend::prepared_parts::PreparedParts;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_core::{Error, Result};

/// The layout of the parts of a [`CpuWeight`], the same for all instruction sets. Its number grows with every change.
pub(crate) const PARTS_LAYOUT: &str = "cpu 1: rows, columns for sparse inputs";

/// A ternary matrix as this back end reads it: the canonical layout, and for sparse inputs its columns as well.
#[derive(Debug)]
pub(crate) struct CpuWeight {
    pub(super) matrix: TernaryMatrix,
    /// The trits of the transposed matrix, where inputs are sparse.
    pub(super) transposed: Option<TernaryMatrix>,
}

impl CpuWeight {
    pub(crate) fn new(matrix: TernaryMatrix) -> Self {
        Self { matrix, transposed: None }
    }

    /// For inputs that hold many zeros. With scales for groups along a row, whole columns cannot be added.
    pub(crate) fn for_sparse_input(matrix: TernaryMatrix, pool: &HybridMemoryPool) -> Result<Self> {
        let transposed = match matrix.granularity() {
            ScaleGranularity::Group(_) => None,
            ScaleGranularity::Tensor | ScaleGranularity::Row => {
                Some(matrix.transposed_trits(Some(pool))?)
            }
        };
        Ok(Self { matrix, transposed })
    }

    /// Restores a weight from its [`TernaryWeight::parts`]. That the columns are those of the rows is not checked: it
    /// would cost what preparing the weight costs.
    pub(crate) fn from_parts(parts: &PreparedParts) -> Result<Self> {
        let matrix = parts.matrix("rows")?;
        let transposed = if parts.has_matrix("columns") {
            let transposed = parts.matrix("columns")?;
            if transposed.rows() != matrix.cols() || transposed.cols() != matrix.rows() {
                return Err(Error::ShapeMismatch {
                    op: "cached weight",
                    operand: "columns",
                    got: vec![transposed.rows(), transposed.cols()],
                    expected: format!("[{}, {}]", matrix.cols(), matrix.rows()),
                });
            }
            Some(transposed)
        } else {
            None
        };
        Ok(Self { matrix, transposed })
    }

    pub(crate) fn matrix(&self) -> &TernaryMatrix {
        &self.matrix
    }
}

impl TernaryWeight for CpuWeight {
    fn rows(&self) -> usize {
        self.matrix.rows()
    }

    fn cols(&self) -> usize {
        self.matrix.cols()
    }

    fn bytes(&self) -> usize {
        self.matrix.bytes() + self.transposed.as_ref().map_or(0, TernaryMatrix::bytes)
    }

    fn parts(&self) -> PreparedParts {
        let mut parts = PreparedParts::default();
        parts.put_matrix("rows", &self.matrix);
        if let Some(transposed) = &self.transposed {
            parts.put_matrix("columns", transposed);
        }
        parts
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

pub(super) fn own(weight: &dyn TernaryWeight) -> Result<&CpuWeight> {
    let foreign = Error::ForeignWeight { op: "bit_linear", backend: "cpu" };
    weight.as_any().downcast_ref::<CpuWeight>().ok_or(foreign)
}

pub(crate) fn matrix(weight: &dyn TernaryWeight) -> Result<&TernaryMatrix> {
    own(weight).map(CpuWeight::matrix)
}

/// A row as blocks of 128 codes.
#[inline(always)]
pub(super) fn row_blocks(weight: &TernaryMatrix, row: usize) -> &[CodeBlock] {
    weight.row_words(row).as_chunks().0
}

/// Runs of elements along a row that share a scale.
pub(super) fn groups(weight: &TernaryMatrix) -> usize {
    match weight.granularity() {
        ScaleGranularity::Group(n) => weight.cols() / n,
        ScaleGranularity::Tensor | ScaleGranularity::Row => 1,
    }
}

/// The scales of one row, one for each group.
#[inline(always)]
pub(super) fn row_scales(weight: &TernaryMatrix, row: usize) -> &[f32] {
    match weight.granularity() {
        ScaleGranularity::Tensor => weight.scales(),
        ScaleGranularity::Row => &weight.scales()[row..row + 1],
        ScaleGranularity::Group(n) => {
            let groups = weight.cols() / n;
            &weight.scales()[row * groups..(row + 1) * groups]
        }
    }
}

/// The scales of all rows of a panel, of a weight without groups; `None` where there are fewer rows.
pub(super) fn panel_scales(
    weight: &TernaryMatrix,
    rows: Range<usize>,
) -> Option<[f32; PANEL_ROWS]> {
    match weight.granularity() {
        _ if rows.len() != PANEL_ROWS => None,
        ScaleGranularity::Tensor => Some([weight.scales()[0]; PANEL_ROWS]),
        ScaleGranularity::Row => weight.scales()[rows].try_into().ok(),
        ScaleGranularity::Group(_) => None,
    }
}

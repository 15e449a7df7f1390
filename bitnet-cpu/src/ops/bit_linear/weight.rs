//! A ternary weight as this back end reads it: rows of codes, and columns where inputs are sparse.

use std::any::Any;
use std::ops::Range;

use super::canonical::{CanonicalMatrix, ScaleBuffer};
use super::packed::PackedMatrix;
use crate::isa::{CodeBlock, FloatLanes, PANEL_ROWS, Vbmi};
use bitnet_core::backend::TernaryWeight;
use bitnet_core::backend::prepared_parts::PreparedParts;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_core::{Error, Result};

/// The layout of the parts of a [`CpuWeight`]. Its number grows with every change.
pub(crate) fn parts_layout(vbmi: Option<Vbmi>) -> String {
    let rows = if vbmi.is_some() { "large rows with five trits in a byte" } else { "rows" };
    format!("cpu 4: {rows}, columns for sparse inputs")
}

/// The rows of a ternary matrix, in the layout that the kernels read.
#[derive(Debug)]
pub(crate) enum CpuMatrix {
    /// Two bits a weight.
    Canonical(CanonicalMatrix),
    /// 1.6 bits a trit.
    Packed(PackedMatrix),
}

impl CpuMatrix {
    /// Packs a matrix where that makes decoding faster: with VBMI, no scales for groups, and too many weights for a
    /// cache.
    pub(super) fn new(
        matrix: TernaryMatrix,
        vbmi: Option<Vbmi>,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        match vbmi {
            Some(vbmi) if PackedMatrix::takes(&matrix) => {
                Ok(Self::Packed(PackedMatrix::new(&matrix, vbmi, pool)?))
            }
            _ => Ok(Self::Canonical(CanonicalMatrix::new(matrix, pool)?)),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Canonical(matrix) => matrix.rows(),
            Self::Packed(matrix) => matrix.rows(),
        }
    }

    pub(crate) fn cols(&self) -> usize {
        match self {
            Self::Canonical(matrix) => matrix.cols(),
            Self::Packed(matrix) => matrix.cols(),
        }
    }

    #[inline]
    pub(crate) fn granularity(&self) -> ScaleGranularity {
        match self {
            Self::Canonical(matrix) => matrix.granularity(),
            Self::Packed(matrix) => matrix.granularity(),
        }
    }

    /// The scales of a matrix without groups.
    #[inline]
    pub(crate) fn scales(&self) -> &[f32] {
        match self {
            Self::Canonical(matrix) => matrix.scales(),
            Self::Packed(matrix) => matrix.scales(),
        }
    }

    /// A row as blocks of 128 codes; of a packed matrix there are none.
    #[inline(always)]
    pub(super) fn row_blocks(&self, row: usize) -> &[CodeBlock] {
        match self {
            Self::Canonical(matrix) => matrix.row_blocks(row),
            Self::Packed(_) => &[],
        }
    }

    /// The blocks of all rows, one row after the other; of a packed matrix there are none.
    #[inline(always)]
    pub(super) fn blocks(&self) -> &[CodeBlock] {
        match self {
            Self::Canonical(matrix) => matrix.blocks(),
            Self::Packed(_) => &[],
        }
    }

    /// Bytes of the codes.
    pub(crate) fn code_bytes(&self) -> usize {
        match self {
            Self::Canonical(matrix) => matrix.code_bytes(),
            Self::Packed(matrix) => matrix.codes().as_flattened().len(),
        }
    }

    /// Bytes of the codes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.code_bytes() / self.rows().max(1)
    }

    fn bytes(&self) -> usize {
        let scale_bytes = match self {
            Self::Canonical(matrix) => matrix.scale_bytes(),
            Self::Packed(matrix) => size_of_val(matrix.scales()),
        };
        self.code_bytes() + scale_bytes
    }
}

/// A ternary matrix as this back end reads it: its rows, and for sparse inputs its columns as well.
#[derive(Debug)]
pub(crate) struct CpuWeight {
    pub(super) matrix: CpuMatrix,
    /// The trits of the transposed matrix, where inputs are sparse.
    pub(super) transposed: Option<TernaryMatrix>,
}

impl CpuWeight {
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn new(
        matrix: TernaryMatrix,
        vbmi: Option<Vbmi>,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        Ok(Self { matrix: CpuMatrix::new(matrix, vbmi, pool)?, transposed: None })
    }

    /// For inputs that hold many zeros. With scales for groups along a row, whole columns cannot be added.
    pub(crate) fn for_sparse_input(
        matrix: TernaryMatrix,
        vbmi: Option<Vbmi>,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let transposed = match matrix.granularity() {
            ScaleGranularity::Group(_) => None,
            ScaleGranularity::Tensor | ScaleGranularity::Row => {
                Some(matrix.transposed_trits(Some(pool))?)
            }
        };
        Ok(Self { matrix: CpuMatrix::new(matrix, vbmi, pool)?, transposed })
    }

    /// Restores a weight from its [`TernaryWeight::parts`]. That the columns are those of the rows is not checked: it
    /// would cost what preparing the weight costs.
    pub(crate) fn from_parts(parts: &PreparedParts, vbmi: Option<Vbmi>) -> Result<Self> {
        let matrix = match vbmi {
            Some(vbmi) if PackedMatrix::is_in(parts) => {
                CpuMatrix::Packed(PackedMatrix::from_parts(parts, vbmi)?)
            }
            _ => CpuMatrix::Canonical(CanonicalMatrix::from_parts(parts)?),
        };
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

    pub(crate) fn matrix(&self) -> &CpuMatrix {
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
        match &self.matrix {
            CpuMatrix::Canonical(matrix) => matrix.put_in(&mut parts),
            CpuMatrix::Packed(matrix) => matrix.put_in(&mut parts),
        }
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

pub(crate) fn matrix(weight: &dyn TernaryWeight) -> Result<&CpuMatrix> {
    own(weight).map(CpuWeight::matrix)
}

/// A row of a ternary matrix as blocks of 128 codes.
#[inline(always)]
pub(super) fn row_blocks(matrix: &TernaryMatrix, row: usize) -> &[CodeBlock] {
    matrix.row_words(row).as_chunks().0
}

/// Runs of elements along a row that share a scale.
pub(super) fn groups(weight: &CpuMatrix) -> usize {
    match weight.granularity() {
        ScaleGranularity::Group(n) => weight.cols() / n,
        ScaleGranularity::Tensor | ScaleGranularity::Row => 1,
    }
}

/// The scales of the groups of some rows, one row after the other; none of a weight without groups.
#[inline(always)]
pub(super) fn group_scales<'a, I: FloatLanes>(
    isa: I,
    weight: &'a CpuMatrix,
    rows: Range<usize>,
    buffer: &'a mut ScaleBuffer,
) -> &'a [f32] {
    match (weight, weight.granularity()) {
        (CpuMatrix::Canonical(matrix), ScaleGranularity::Group(_)) => {
            let groups = groups(weight);
            matrix.group_scales(isa, rows.start * groups..rows.end * groups, buffer)
        }
        _ => &[],
    }
}

/// The scales of all rows of a panel, of a weight without groups; `None` where there are fewer rows.
pub(super) fn panel_scales(weight: &CpuMatrix, rows: Range<usize>) -> Option<[f32; PANEL_ROWS]> {
    match weight.granularity() {
        _ if rows.len() != PANEL_ROWS => None,
        ScaleGranularity::Tensor => Some([weight.scales()[0]; PANEL_ROWS]),
        ScaleGranularity::Row => weight.scales()[rows].try_into().ok(),
        ScaleGranularity::Group(_) => None,
    }
}

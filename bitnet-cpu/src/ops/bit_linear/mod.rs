//! Ternary layers: activations in 8 bits with exact integer sums, or in f32.

mod columns;
mod eight;
mod float;
mod groups;
mod int8;
mod rescale;
mod sink;

pub(crate) use int8::{Rows as WeightRows, SingleDots, block_sums};
pub(crate) use rescale::Rescale;
use rescale::rescale;

use std::any::Any;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::Machine;
use crate::activations::{Quantized, float_blocks};
use crate::isa::CodeBlock;
use crate::threads::{self, Pieces, Rows};
use bitnet_core::backend::prepared_parts::PreparedParts;
use bitnet_core::backend::shape_check;
use bitnet_core::backend::{ActivationPrecision, BitLinearIntegers, TernaryWeight};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use bitnet_core::ternary::{ROW_BLOCK, ScaleGranularity, TernaryMatrix};
use bitnet_core::{Error, Result};
use smallvec::SmallVec;

/// The layout of the parts of a [`CpuWeight`]; it does not depend on the instruction set. Counted up whenever it changes.
pub(crate) const PARTS_LAYOUT: &str = "cpu 1: rows, columns for sparse inputs";

/// A ternary matrix as this back end reads it: the canonical layout, and for sparse inputs its columns as well.
#[derive(Debug)]
pub(crate) struct CpuWeight {
    matrix: TernaryMatrix,
    /// The trits of the transposed matrix, where inputs are sparse.
    turned: Option<TernaryMatrix>,
}

impl CpuWeight {
    pub(crate) fn new(matrix: TernaryMatrix) -> Self {
        Self { matrix, turned: None }
    }

    /// For inputs that hold many zeros. Scales for groups along a row forbid to add whole columns.
    pub(crate) fn for_sparse_input(matrix: TernaryMatrix, pool: &HybridMemoryPool) -> Result<Self> {
        let turned = match matrix.granularity() {
            ScaleGranularity::Group(_) => None,
            ScaleGranularity::Tensor | ScaleGranularity::Row => {
                Some(matrix.transposed_trits(Some(pool))?)
            }
        };
        Ok(Self { matrix, turned })
    }

    /// From what [`TernaryWeight::parts`] gave. That the columns are those of the rows is not checked: it would cost
    /// what preparing the weight costs.
    pub(crate) fn from_parts(parts: &PreparedParts) -> Result<Self> {
        let matrix = parts.matrix("rows")?;
        let turned = if parts.has_matrix("columns") {
            let turned = parts.matrix("columns")?;
            if turned.rows() != matrix.cols() || turned.cols() != matrix.rows() {
                return Err(Error::ShapeMismatch {
                    op: "cached weight",
                    operand: "columns",
                    got: vec![turned.rows(), turned.cols()],
                    expected: format!("[{}, {}]", matrix.cols(), matrix.rows()),
                });
            }
            Some(turned)
        } else {
            None
        };
        Ok(Self { matrix, turned })
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
        self.matrix.bytes() + self.turned.as_ref().map_or(0, TernaryMatrix::bytes)
    }

    fn parts(&self) -> PreparedParts {
        let mut parts = PreparedParts::default();
        parts.put_matrix("rows", &self.matrix);
        if let Some(turned) = &self.turned {
            parts.put_matrix("columns", turned);
        }
        parts
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn own(weight: &dyn TernaryWeight) -> Result<&CpuWeight> {
    let foreign = Error::ForeignWeight { op: "bit_linear", backend: "cpu" };
    weight.as_any().downcast_ref::<CpuWeight>().ok_or(foreign)
}

pub(crate) fn matrix(weight: &dyn TernaryWeight) -> Result<&TernaryMatrix> {
    own(weight).map(CpuWeight::matrix)
}

/// A row as blocks of 128 codes.
#[inline(always)]
fn row_blocks(weight: &TernaryMatrix, row: usize) -> &[CodeBlock] {
    weight.row_words(row).as_chunks().0
}

/// Runs of elements along a row that share a scale.
fn groups(weight: &TernaryMatrix) -> usize {
    match weight.granularity() {
        ScaleGranularity::Group(n) => weight.cols() / n,
        ScaleGranularity::Tensor | ScaleGranularity::Row => 1,
    }
}

/// The scales of one row, one for each group.
#[inline(always)]
fn row_scales(weight: &TernaryMatrix, row: usize) -> &[f32] {
    match weight.granularity() {
        ScaleGranularity::Tensor => weight.scales(),
        ScaleGranularity::Row => &weight.scales()[row..row + 1],
        ScaleGranularity::Group(n) => {
            let groups = weight.cols() / n;
            &weight.scales()[row * groups..(row + 1) * groups]
        }
    }
}

/// Some rows of one weight, and where their results go: `out[token][row - rows.start]`.
struct Part<'a> {
    weight: &'a TernaryMatrix,
    rows: Range<usize>,
    out: Rows<'a>,
}

/// The parts of a piece: as a rule those of at most three weights.
type Share<'a> = SmallVec<[Part<'a>; 3]>;

/// `out[i] = x · weights[i]ᵀ`. See [`bitnet_core::backend::Operations::bit_linear`].
pub(crate) fn bit_linear(
    x: &BitNetTensor,
    precision: ActivationPrecision,
    weights: &[&dyn TernaryWeight],
    out: &mut [&mut BitNetTensor],
    machine: Machine<'_>,
) -> Result<()> {
    let tokens = shape_check::bit_linear(x, weights, out)?;
    let cols = x.shape()[1];
    let x = x.f32()?;
    match precision {
        ActivationPrecision::Int8 | ActivationPrecision::Int8Within(_) => {
            let x = Quantized::new(x, tokens, cols, within(precision), machine)?;
            if let ([weight], [out]) = (weights, &mut *out)
                && sparse(&x, tokens, own(*weight)?, out.f32_mut()?, machine)?
            {
                return Ok(());
            }
            let pieces = pieces(tokens, weights, out, machine)?;
            machine.threads.each(pieces, |parts| {
                machine.isa.run(int8::Int8 { x: &x, tokens, parts });
                Ok(())
            })
        }
        ActivationPrecision::Float => {
            let x = float_blocks(x, tokens, cols, machine.pool)?;
            let pieces = pieces(tokens, weights, out, machine)?;
            machine.threads.each(pieces, |parts| {
                machine.isa.run_shared(float::Float { x: &x, tokens, parts });
                Ok(())
            })
        }
    }
}

/// The magnitude that becomes 127, where it is not each token's largest.
pub(crate) fn within(precision: ActivationPrecision) -> Option<f32> {
    match precision {
        ActivationPrecision::Int8Within(largest) => Some(largest),
        ActivationPrecision::Int8 | ActivationPrecision::Float => None,
    }
}

/// Rows of all weights, divided among the threads.
fn pieces<'a>(
    tokens: usize,
    weights: &'a [&dyn TernaryWeight],
    out: &'a mut [&mut BitNetTensor],
    machine: Machine<'_>,
) -> Result<Pieces<Share<'a>>> {
    let mut pieces: Pieces<Share<'_>> = Pieces::new();
    for (weight, out) in weights.iter().zip(out) {
        let weight = matrix(*weight)?;
        machine.traffic.ternary_bytes.fetch_add(weight.words().len() as u64 * 4, Ordering::Relaxed);
        // A multiplication by a trit is a fraction of an elementary step: dozens are one instruction.
        let ranges =
            machine.threads.ranges(weight.rows(), tokens.saturating_mul(weight.cols() / 8));
        let parts = threads::columns(out.f32_mut()?, weight.rows(), &ranges);
        pieces.resize_with(pieces.len().max(ranges.len()), SmallVec::new);
        for ((piece, rows), out) in pieces.iter_mut().zip(ranges).zip(parts) {
            piece.push(Part { weight, rows, out });
        }
    }
    Ok(pieces)
}

/// Fewest columns in a hundred that must be zero for the columns to be taken one by one.
const SPARSE_PERCENT: usize = 25;

/// One token through a weight that was prepared for sparse inputs; whether it was sparse enough.
fn sparse(
    x: &Quantized,
    tokens: usize,
    weight: &CpuWeight,
    out: &mut [f32],
    machine: Machine<'_>,
) -> Result<bool> {
    let (1, Some(turned)) = (tokens, &weight.turned) else { return Ok(false) };
    let cols = turned.rows();
    let mut places = PoolBuffer::scratch(cols.next_multiple_of(ROW_BLOCK), machine.pool)?;
    let occupied = columns::occupied(x, &mut places);
    if occupied.len() * 100 > cols * (100 - SPARSE_PERCENT) {
        return Ok(false);
    }
    let mut dots = PoolBuffer::scratch(weight.matrix.rows(), machine.pool)?;
    columns::column_dots(turned, occupied, &mut dots, machine)?;
    rescale(&weight.matrix, 0, &dots, x.scales[0], out);
    let column_bytes = turned.words().len() * 4 / cols.max(1);
    let traffic = machine.traffic;
    traffic.ternary_bytes.fetch_add((occupied.len() * column_bytes) as u64, Ordering::Relaxed);
    traffic.sparse_columns.fetch_add(cols as u64, Ordering::Relaxed);
    traffic.sparse_columns_skipped.fetch_add((cols - occupied.len()) as u64, Ordering::Relaxed);
    Ok(true)
}

/// The integers of [`bit_linear`] for one weight, computed by the same kernel.
pub(crate) fn bit_linear_integers(
    x: &BitNetTensor,
    weight: &dyn TernaryWeight,
    machine: Machine<'_>,
) -> Result<BitLinearIntegers> {
    let weight = matrix(weight)?;
    let (tokens, cols) = x.dims2("bit_linear", "x")?;
    shape_check::expect_shape("bit_linear", "x", x, tokens, weight.cols())?;
    let quantized = Quantized::new(x.f32()?, tokens, cols, None, machine)?;
    let dots = machine.isa.run(int8::Integers { x: &quantized, tokens, weight });
    Ok(BitLinearIntegers {
        activations: quantized.activations(tokens, cols),
        activation_scales: quantized.scales.to_vec(),
        dots,
    })
}

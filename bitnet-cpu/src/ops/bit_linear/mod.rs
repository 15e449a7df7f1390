//! Ternary layers: activations in 8 bits with exact integer sums, or in f32.

mod float;
mod int8;

pub(crate) use int8::block_sums;

use std::any::Any;
use std::ops::Range;

use super::Machine;
use crate::activations::{Quantized, float_blocks};
use crate::isa::CodeBlock;
use crate::threads::columns;
use bitnet_core::backend::{ActivationPrecision, BitLinearIntegers, TernaryWeight};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_core::{Error, Result, operands};

/// A ternary matrix as this back end reads it, which is the canonical layout: nothing is copied.
#[derive(Debug)]
pub(crate) struct CpuWeight(pub(crate) TernaryMatrix);

impl TernaryWeight for CpuWeight {
    fn rows(&self) -> usize {
        self.0.rows()
    }

    fn cols(&self) -> usize {
        self.0.cols()
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn matrix(weight: &dyn TernaryWeight) -> Result<&TernaryMatrix> {
    match weight.as_any().downcast_ref::<CpuWeight>() {
        Some(weight) => Ok(&weight.0),
        None => Err(Error::ForeignWeight { op: "bit_linear", backend: "cpu" }),
    }
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
    out: Vec<&'a mut [f32]>,
}

/// `out[i] = x · weights[i]ᵀ`. See [`bitnet_core::backend::Backend::bit_linear`].
pub(crate) fn bit_linear(
    x: &BitNetTensor,
    precision: ActivationPrecision,
    weights: &[&dyn TernaryWeight],
    out: &mut [&mut BitNetTensor],
    machine: Machine<'_>,
) -> Result<()> {
    let tokens = operands::bit_linear(x, weights, out)?;
    let cols = x.shape()[1];
    let x = x.f32()?;
    let mut pieces: Vec<Vec<Part<'_>>> = Vec::new();
    for (weight, out) in weights.iter().zip(out) {
        let weight = matrix(*weight)?;
        // A multiplication by a trit is a fraction of an elementary step: dozens are one instruction.
        let ranges = machine.threads.ranges(weight.rows(), tokens.saturating_mul(cols / 8));
        let parts = columns(out.f32_mut()?, weight.rows(), &ranges);
        pieces.resize_with(pieces.len().max(ranges.len()), Vec::new);
        for ((piece, rows), out) in pieces.iter_mut().zip(ranges).zip(parts) {
            piece.push(Part { weight, rows, out });
        }
    }
    match precision {
        ActivationPrecision::Int8 => {
            let x = Quantized::new(x, tokens, cols, machine.isa, machine.threads)?;
            machine.threads.each(pieces, |parts| {
                machine.isa.run(int8::Int8 { x: &x, tokens, parts });
                Ok(())
            })
        }
        ActivationPrecision::Float => {
            let x = float_blocks(x, tokens, cols);
            machine.threads.each(pieces, |parts| {
                machine.isa.run(float::Float { x: &x, tokens, parts });
                Ok(())
            })
        }
    }
}

/// The integers of [`bit_linear`] for one weight, computed by the same kernel.
pub(crate) fn bit_linear_integers(
    x: &BitNetTensor,
    weight: &dyn TernaryWeight,
    machine: Machine<'_>,
) -> Result<BitLinearIntegers> {
    let weight = matrix(weight)?;
    let (tokens, cols) = x.dims2("bit_linear", "x")?;
    operands::expect_shape("bit_linear", "x", x, tokens, weight.cols())?;
    let quantized = Quantized::new(x.f32()?, tokens, cols, machine.isa, machine.threads)?;
    let dots = machine.isa.run(int8::Integers { x: &quantized, tokens, weight });
    Ok(BitLinearIntegers {
        activations: quantized.activations(tokens, cols),
        activation_scales: quantized.scales,
        dots,
    })
}

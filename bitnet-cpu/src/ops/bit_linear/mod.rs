//! Ternary layers: exact integer sums with activations in 8 bits, or in three digits of 8 bits each.

mod canonical;
mod dot;
mod few;
mod gemm;
mod grouped;
mod packed;
mod panel;
mod rescale;
mod scaled;
mod sink;
mod sparse;
mod tile8;
mod weight;

pub(crate) use dot::{SingleDots, WeightRows, block_sums};
pub(crate) use rescale::Rescale;
pub(crate) use weight::{CpuMatrix, CpuWeight, matrix, parts_layout};

use std::ops::Range;
use std::sync::atomic::Ordering;

use few::Rest;

use crate::activations::{Quantized, places};
use crate::exec::ExecContext;
use crate::isa::PANEL_ROWS;
use crate::threads::{self, Pieces, Rows};
use bitnet_core::Result;
use bitnet_core::backend::{
    Activation, ActivationPrecision, BitLinearIntegers, TernaryWeight, shape_check,
};
use bitnet_core::memory::tensor::BitNetTensor;
use smallvec::SmallVec;

/// Some rows of one weight, and the places of their results: `out[token][row - rows.start]`.
struct Part<'a> {
    weight: &'a CpuMatrix,
    rows: Range<usize>,
    out: Rows<'a>,
}

/// The parts of a piece, as a rule of at most three weights.
type Share<'a> = SmallVec<[Part<'a>; 3]>;

/// `out[i] = x · weights[i]ᵀ`. See [`bitnet_core::backend::Operations::bit_linear`].
pub(crate) fn bit_linear(
    x: &BitNetTensor,
    precision: ActivationPrecision,
    weights: &[&dyn TernaryWeight],
    out: &mut [&mut BitNetTensor],
    exec: ExecContext<'_>,
) -> Result<()> {
    let tokens = shape_check::bit_linear(x, weights, out)?;
    let (x, rest) = quantize(x, tokens, precision, weights, exec)?;
    if let ([weight], [out]) = (weights, &mut *out)
        && sparse::sparse_token(&x, weight::own(*weight)?, out.f32_mut()?, exec)?
    {
        return Ok(());
    }
    let operand = gemm::Operand { x: &x, rest: &rest, precision, pool: exec.scratch_pool };
    let pieces = pieces(x.tokens(), weights, out, exec)?;
    exec.threads.each(pieces, |parts| exec.isa.run(gemm::Int8Gemm { operand, parts }))
}

/// Returns whether [`gated`] takes these operands.
pub(crate) fn takes_gated(x: &BitNetTensor, precision: ActivationPrecision) -> bool {
    let least = panel::GROUPED_TOKENS.div_ceil(places(precision));
    matches!(x.shape(), &[tokens, cols] if tokens >= least && cols > 0)
}

/// `out = activation(x · gateᵀ) * (x · upᵀ)` of a prompt: the two products meet while they are in a cache.
/// For operands that [`takes_gated`] accepts.
pub(crate) fn gated(
    x: &BitNetTensor,
    precision: ActivationPrecision,
    activation: Activation,
    weights: [&dyn TernaryWeight; 2],
    out: &mut BitNetTensor,
    scratch: &mut BitNetTensor,
    exec: ExecContext<'_>,
) -> Result<()> {
    let tokens = shape_check::bit_linear(x, &weights, &[&mut *out, scratch])?;
    let [gate, up] = [matrix(weights[0])?, matrix(weights[1])?];
    shape_check::expect_same("gate_up", out, scratch)?;
    let (x, rest) = quantize(x, tokens, precision, &weights, exec)?;
    let operand = gemm::Operand { x: &x, rest: &rest, precision, pool: exec.scratch_pool };
    let mut out = [out];
    let pieces = pieces(x.tokens(), &weights[..1], &mut out, exec)?;
    exec.traffic.ternary_bytes.fetch_add(up.code_bytes() as u64, Ordering::Relaxed);
    let (level, weights) = (exec.isa, [gate, up]);
    exec.threads.each(pieces, |parts| {
        parts.into_iter().try_for_each(|Part { rows, out, .. }| {
            level.run(gemm::Gated { operand, level, activation, weights, rows, out })
        })
    })
}

/// Quantises the activations that meet some weights.
fn quantize(
    x: &BitNetTensor,
    tokens: usize,
    precision: ActivationPrecision,
    weights: &[&dyn TernaryWeight],
    exec: ExecContext<'_>,
) -> Result<(Quantized, Rest)> {
    let amx = panel::amx_for(exec, tokens * places(precision), weights)?;
    let x = Quantized::new(x.f32()?, tokens, x.shape()[1], precision, amx, exec)?;
    let rest = Rest::new(&x, exec.scratch_pool)?;
    Ok((x, rest))
}

/// The rows in multiples of which weights are divided among threads.
fn rows_tile(tokens: usize) -> usize {
    if tokens < panel::GROUPED_TOKENS { 1 } else { PANEL_ROWS }
}

/// Divides the rows of all weights among the threads, for `tokens` tokens or digits.
fn pieces<'a>(
    tokens: usize,
    weights: &'a [&dyn TernaryWeight],
    out: &'a mut [&mut BitNetTensor],
    exec: ExecContext<'_>,
) -> Result<Pieces<Share<'a>>> {
    let mut pieces: Pieces<Share<'_>> = Pieces::new();
    for (weight, out) in weights.iter().zip(out) {
        let weight = matrix(*weight)?;
        exec.traffic.ternary_bytes.fetch_add(weight.code_bytes() as u64, Ordering::Relaxed);
        // A multiplication by a trit is a fraction of an elementary step: dozens are one instruction.
        let work = tokens.saturating_mul(weight.cols() / 8);
        let ranges = exec.threads.tile_ranges(weight.rows(), rows_tile(tokens), work);
        let parts = threads::columns(out.f32_mut()?, weight.rows(), &ranges);
        pieces.resize_with(pieces.len().max(ranges.len()), SmallVec::new);
        for ((piece, rows), out) in pieces.iter_mut().zip(ranges).zip(parts) {
            piece.push(Part { weight, rows, out });
        }
    }
    Ok(pieces)
}

/// Returns the integers of [`bit_linear`] for one weight, computed by the same kernel.
pub(crate) fn bit_linear_integers(
    x: &BitNetTensor,
    weight: &dyn TernaryWeight,
    exec: ExecContext<'_>,
) -> Result<BitLinearIntegers> {
    let (tokens, cols) = x.dims2("bit_linear", "x")?;
    shape_check::expect_shape("bit_linear", "x", x, tokens, matrix(weight)?.cols())?;
    let precision = ActivationPrecision::Int8;
    let (x, rest) = quantize(x, tokens, precision, &[weight], exec)?;
    let operand = gemm::Operand { x: &x, rest: &rest, precision, pool: exec.scratch_pool };
    let dots = exec.isa.run(gemm::IntegerDots { operand, weight: matrix(weight)? })?;
    Ok(BitLinearIntegers {
        activations: x.activations(tokens, cols),
        activation_scales: x.scales.to_vec(),
        dots,
    })
}

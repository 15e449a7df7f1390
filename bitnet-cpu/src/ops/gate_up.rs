//! The first half of a gated feed-forward layer for one token:
//! rows of the up-projection whose gate is zero are not read.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::bit_linear::{CpuMatrix, CpuWeight, Rescale, SingleDots, WeightRows, matrix};
use crate::activations::Quantized;
use crate::exec::ExecContext;
use crate::isa::{Isa, Op};
use bitnet_core::Result;
use bitnet_core::backend::shape_check;
use bitnet_core::backend::{ActivationPrecision, TernaryWeight};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use bitnet_core::ternary::ScaleGranularity;

/// Returns whether [`relu2`] takes these weights: both of this back end, without scales for groups.
pub(crate) fn takes(weights: [&dyn TernaryWeight; 2]) -> bool {
    weights.into_iter().all(|weight| {
        let weight = weight.as_any().downcast_ref::<CpuWeight>();
        weight.is_some_and(|weight| {
            let matrix = weight.matrix();
            !matches!(matrix.granularity(), ScaleGranularity::Group(_)) && matrix.cols() > 0
        })
    })
}

/// Computes `out = max(x · gateᵀ, 0)² * (x · upᵀ)` for one token in 8 bits and weights that [`takes`] accepts.
pub(crate) fn relu2(
    x: &BitNetTensor,
    precision: ActivationPrecision,
    weights: [&dyn TernaryWeight; 2],
    out: &mut BitNetTensor,
    scratch: &mut BitNetTensor,
    exec: ExecContext<'_>,
) -> Result<()> {
    shape_check::bit_linear(x, &weights, &[&mut *out, &mut *scratch])?;
    let [gate, up] = [matrix(weights[0])?, matrix(weights[1])?];
    let x = Quantized::new(x.f32()?, 1, gate.cols(), precision, None, exec)?;
    let (traffic, pool) = (exec.traffic, exec.scratch_pool);
    exec.for_each_rows(out.f32_mut()?, 1, gate.cols() / 8, &|rows, out| {
        let len = rows.len();
        let read = exec.isa.run(Relu2 { x: &x, gate, up, rows, out, pool })?;
        let bytes = len * gate.row_bytes() + read * up.row_bytes();
        traffic.ternary_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        traffic.gated_rows.fetch_add(len as u64, Ordering::Relaxed);
        traffic.gated_rows_skipped.fetch_add((len - read) as u64, Ordering::Relaxed);
        Ok(())
    })
}

/// Some rows; returns how many of the up-projection were read.
struct Relu2<'a> {
    x: &'a Quantized,
    gate: &'a CpuMatrix,
    up: &'a CpuMatrix,
    rows: Range<usize>,
    out: &'a mut [f32],
    pool: &'a HybridMemoryPool,
}

impl Op for Relu2<'_> {
    type Output = Result<usize>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<usize> {
        let Self { x, gate, up, rows, out, pool } = self;
        let (x, start, activation_scale) = (x.tile(&(0..1)), x.starts[0], x.scales[0]);
        let mut dots = PoolBuffer::scratch(rows.len(), pool)?;
        dots.fill(start);
        let first = rows.start;
        isa.run(SingleDots { weight: gate, x, rows: WeightRows::From(first), dots: &mut dots });
        isa.run(Rescale {
            weight: gate,
            row: first,
            dots: &dots,
            activation_scale,
            out: &mut *out,
        });
        for gate in &mut *out {
            // Not `max`, which would make 0 of NaN.
            let positive = if *gate < 0.0 { 0.0 } else { *gate };
            *gate = positive * positive;
        }
        let mut active: PoolBuffer<u32> = PoolBuffer::scratch(rows.len(), pool)?;
        let places = &mut *active;
        let mut len = 0;
        for (index, gate) in out.iter().enumerate() {
            // Written always, and overwritten if it is zero: a branch would be unpredictable. Bits without the sign,
            // because comparing floats takes a mask register on AVX-512.
            places[len] = index as u32;
            len += usize::from(gate.to_bits() << 1 != 0);
        }
        let active = &active[..len];
        let dots = &mut dots[..len];
        dots.fill(start);
        let rows = WeightRows::Listed(first, active);
        isa.run(SingleDots { weight: up, x, rows, dots: &mut *dots });
        let mut products = PoolBuffer::scratch(len, pool)?;
        if up.granularity() == ScaleGranularity::Tensor {
            isa.run(Rescale { weight: up, row: 0, dots, activation_scale, out: &mut products });
        } else {
            for ((product, &dot), &index) in products.iter_mut().zip(&*dots).zip(active) {
                // A weight that `takes` accepts has a scale for each row, if it does not have one for all.
                *product = dot as f32 / activation_scale * up.scales()[first + index as usize];
            }
        }
        for (&index, &product) in active.iter().zip(&*products) {
            out[index as usize] *= product;
        }
        Ok(len)
    }
}

//! The reference operations as a back end: slow, and right by inspection.

use std::any::Any;
use std::sync::Arc;

use super::{cached, ops, recurrent, ternary_ops};
use crate::backend::dense::DenseRows;
use crate::backend::top_logits::{Guarantee, HeadStats, HeadWeight, LogitQuery, TopLogits};
use crate::backend::{
    Activation, ActivationPrecision, AttentionShape, Backend, BitLinearIntegers, Counters,
    DeltaInputs, Direction, Operations, Preparation, RopeOrder, RopeTable, Rotation, Tensors,
    TernaryWeight, shape_check,
};
use crate::kv::{KvCache, KvSpan, StateSpan};
use crate::memory::tensor::BitNetTensor;
use crate::ternary::TernaryMatrix;
use crate::{Error, Result};

/// The back end named `reference`: one thread, no vector instructions of its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReferenceBackend;

/// A ternary matrix as it is: the reference needs no other layout.
impl TernaryWeight for TernaryMatrix {
    fn rows(&self) -> usize {
        self.rows()
    }

    fn cols(&self) -> usize {
        self.cols()
    }

    fn bytes(&self) -> usize {
        self.bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A head as it is: the reference reads all of it.
#[derive(Debug)]
struct StoredHead {
    rows: Arc<dyn DenseRows>,
    guarantee: Guarantee,
}

impl HeadWeight for StoredHead {
    fn stored(&self) -> &dyn DenseRows {
        &*self.rows
    }

    fn bytes(&self) -> usize {
        0
    }

    fn guarantee(&self) -> Guarantee {
        self.guarantee
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn matrix<'a>(op: &'static str, weight: &'a dyn TernaryWeight) -> Result<&'a TernaryMatrix> {
    weight.as_any().downcast_ref().ok_or(Error::ForeignWeight { op, backend: "reference" })
}

impl Backend for ReferenceBackend {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn describe(&self) -> String {
        "reference (scalar, one thread)".into()
    }
}

impl Counters for ReferenceBackend {}

impl Tensors for ReferenceBackend {}

impl Preparation for ReferenceBackend {
    fn prepare(&self, matrix: TernaryMatrix) -> Result<Box<dyn TernaryWeight>> {
        Ok(Box::new(matrix))
    }

    fn prepare_head(
        &self,
        rows: Arc<dyn DenseRows>,
        guarantee: Guarantee,
    ) -> Result<Option<Box<dyn HeadWeight>>> {
        Ok(Some(Box::new(StoredHead { rows, guarantee })))
    }
}

impl Operations for ReferenceBackend {
    fn embed(&self, table: &dyn DenseRows, tokens: &[u32], out: &mut BitNetTensor) -> Result<()> {
        shape_check::embed(table, tokens, out)?;
        ops::embed(table, tokens, out.f32_mut()?)
    }

    fn bit_linear(
        &self,
        x: &BitNetTensor,
        precision: ActivationPrecision,
        weights: &[&dyn TernaryWeight],
        out: &mut [&mut BitNetTensor],
    ) -> Result<()> {
        shape_check::bit_linear(x, weights, out)?;
        for (weight, out) in weights.iter().zip(out) {
            let weight = matrix("bit_linear", *weight)?;
            let tokens = x.f32()?.chunks_exact(weight.cols().max(1));
            for (x, out) in tokens.zip(out.f32_mut()?.chunks_exact_mut(weight.rows().max(1))) {
                match precision {
                    ActivationPrecision::Int8 => ternary_ops::bit_linear_int8(weight, x, out),
                    ActivationPrecision::Int8Within(largest) => {
                        ternary_ops::bit_linear_int8_within(weight, x, largest, out);
                    }
                    ActivationPrecision::Float => ternary_ops::bit_linear_float(weight, x, out),
                }
            }
        }
        Ok(())
    }

    fn bit_linear_integers(
        &self,
        x: &BitNetTensor,
        weight: &dyn TernaryWeight,
    ) -> Result<BitLinearIntegers> {
        let weight = matrix("bit_linear", weight)?;
        let (tokens, _) = x.dims2("bit_linear", "x")?;
        shape_check::expect_shape("bit_linear", "x", x, tokens, weight.cols())?;
        let mut activations = vec![0i8; tokens * weight.cols()];
        let mut activation_scales = Vec::with_capacity(tokens);
        let mut dots = Vec::new();
        for (x, q) in x
            .f32()?
            .chunks_exact(weight.cols().max(1))
            .zip(activations.chunks_exact_mut(weight.cols().max(1)))
        {
            activation_scales.push(ternary_ops::quantize_activations(x, q));
            dots.extend(ternary_ops::ternary_dots(weight, q));
        }
        Ok(BitLinearIntegers { activations, activation_scales, dots })
    }

    fn linear(
        &self,
        x: &BitNetTensor,
        weight: &dyn DenseRows,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        shape_check::linear(x, weight, out)?;
        ops::linear(x.f32()?, weight, out.f32_mut()?)
    }

    fn top_logits(
        &self,
        x: &BitNetTensor,
        head: &dyn HeadWeight,
        queries: &[LogitQuery],
    ) -> Result<Vec<TopLogits>> {
        let foreign = Error::ForeignWeight { op: "top_logits", backend: "reference" };
        let head = head.as_any().downcast_ref::<StoredHead>().ok_or(foreign)?;
        shape_check::top_logits(x, &*head.rows, queries)?;
        let mut logits = vec![0f32; head.rows.rows()];
        let (rows, row_bytes) = (logits.len() as u64, head.rows.bytes() as u64);
        let read = HeadStats { queries: 1, full_scans: 1, rows, row_bytes, ..HeadStats::default() };
        let mut answer = |(x, query): (&[f32], &LogitQuery)| {
            ops::linear(x, &*head.rows, &mut logits)?;
            Ok(TopLogits { read, ..TopLogits::of_all(&logits, query) })
        };
        x.f32()?.chunks_exact(head.rows.cols().max(1)).zip(queries).map(&mut answer).collect()
    }

    fn rms_norm(
        &self,
        x: &BitNetTensor,
        weight: &BitNetTensor,
        eps: f32,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        shape_check::rms_norm(x, weight, out)?;
        ops::rms_norm(x.f32()?, weight.f32()?, eps, out.f32_mut()?);
        Ok(())
    }

    fn rope(
        &self,
        x: &mut BitNetTensor,
        head_dim: usize,
        positions: &[usize],
        table: &RopeTable,
        order: RopeOrder,
    ) -> Result<()> {
        shape_check::rope(x, head_dim, positions, table)?;
        let heads = x.shape()[1] / head_dim;
        for (index, head) in x.f32_mut()?.chunks_exact_mut(head_dim).enumerate() {
            ops::rope(head, positions[index / heads], table, order);
        }
        Ok(())
    }

    fn store(
        &self,
        k: &BitNetTensor,
        v: &BitNetTensor,
        cache: &mut KvCache,
        layer: usize,
        first: usize,
    ) -> Result<()> {
        shape_check::store(k, v, cache, layer, first)?;
        cached::store(k.f32()?, v.f32()?, cache, layer, first)
    }

    fn attention(
        &self,
        q: &BitNetTensor,
        spans: &[KvSpan<'_>],
        shape: AttentionShape,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        shape_check::attention(q, spans, shape, out)?;
        let (mut q, mut out) = (q.f32()?, out.f32_mut()?);
        for span in spans {
            let (own, rest) = q.split_at(span.tokens * shape.heads * shape.head_dim);
            let (result, tail) = out.split_at_mut(own.len());
            (q, out) = (rest, tail);
            let seen = span.first + span.tokens;
            let k = cached::keys(span.cache, span.layer, seen)?;
            let v = cached::values(span.cache, span.layer, seen)?;
            ops::attention(own, &k, &v, span.first, shape, result);
        }
        Ok(())
    }

    fn hadamard(
        &self,
        x: &BitNetTensor,
        rotation: &Rotation,
        direction: Direction,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        shape_check::hadamard(x, rotation, out)?;
        let cols = rotation.signs().len().max(1);
        for (x, out) in x.f32()?.chunks_exact(cols).zip(out.f32_mut()?.chunks_exact_mut(cols)) {
            recurrent::hadamard(x, rotation, direction, out);
        }
        Ok(())
    }

    fn causal_conv(
        &self,
        x: &BitNetTensor,
        weight: &BitNetTensor,
        spans: &mut [StateSpan<'_>],
        out: &mut BitNetTensor,
    ) -> Result<()> {
        shape_check::causal_conv(x, weight, spans, out)?;
        let (mut x, weight, mut out) = (x.f32()?, weight.f32()?, out.f32_mut()?);
        for span in spans {
            let (first, tokens) = (span.first, span.tokens);
            let mut state = span.layer_state()?;
            let (own, rest) = x.split_at(tokens * state.shape.channels());
            let (result, tail) = out.split_at_mut(own.len());
            (x, out) = (rest, tail);
            recurrent::causal_conv(own, weight, &mut state, first, result);
        }
        Ok(())
    }

    fn delta_rule(
        &self,
        inputs: DeltaInputs<'_>,
        spans: &mut [StateSpan<'_>],
        out: &mut BitNetTensor,
    ) -> Result<()> {
        shape_check::delta_rule(&inputs, spans, out)?;
        let (rate, bias) = (inputs.rate.f32()?, inputs.step_bias.f32()?);
        let heads = rate.len().max(1);
        let steps = inputs.step.f32()?.iter().enumerate();
        let log_decays: Vec<f32> = steps
            .map(|(i, step)| recurrent::log_decay(rate[i % heads], step + bias[i % heads]))
            .collect();
        let share = |&write| ops::activate(Activation::Sigmoid, write);
        let shares: Vec<f32> = inputs.write.f32()?.iter().map(share).collect();
        let (mut row, mut out) = (0, out.f32_mut()?);
        for span in spans {
            let (first, rows) = (span.first, row..row + span.tokens);
            row = rows.end;
            let mut state = span.layer_state()?;
            let (result, tail) = out.split_at_mut(rows.len() * state.shape.values());
            out = tail;
            let of = |width: usize| rows.start * width..rows.end * width;
            let tokens = recurrent::DeltaTokens {
                qkv: &inputs.qkv.f32()?[of(state.shape.channels())],
                log_decays: &log_decays[of(heads)],
                shares: &shares[of(heads)],
                first,
                order: inputs.order,
            };
            recurrent::delta_rule(&tokens, &mut state, result);
        }
        Ok(())
    }

    fn gate(
        &self,
        activation: Activation,
        gate: &mut BitNetTensor,
        up: &BitNetTensor,
    ) -> Result<()> {
        shape_check::expect_same("gate", gate, up)?;
        ops::gate(activation, gate.f32_mut()?, up.f32()?);
        Ok(())
    }

    fn clamped_gate(&self, limit: f32, gate: &mut BitNetTensor, up: &BitNetTensor) -> Result<()> {
        shape_check::clamped_gate(limit, gate, up)?;
        ops::clamped_gate(limit, gate.f32_mut()?, up.f32()?);
        Ok(())
    }

    fn weighted_sum(
        &self,
        x: &BitNetTensor,
        weights: &[f32],
        out: &mut BitNetTensor,
    ) -> Result<()> {
        let each = shape_check::weighted_sum(x, weights, out)?;
        ops::weighted_sum(x.f32()?, weights, each, out.f32_mut()?);
        Ok(())
    }

    fn add(&self, x: &mut BitNetTensor, y: &BitNetTensor) -> Result<()> {
        shape_check::expect_same("add", x, y)?;
        for (x, y) in x.f32_mut()?.iter_mut().zip(y.f32()?) {
            *x += y;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{KvShape, KvType};
    use crate::memory::HybridMemoryPool;
    use crate::ternary::ScaleGranularity;

    #[test]
    fn empty_operands_do_not_panic() {
        let pool = HybridMemoryPool::new().unwrap();
        let backend = ReferenceBackend;
        let zeros = |shape: &[usize]| BitNetTensor::zeros(shape, &pool).unwrap();
        for (rows, cols) in [(0, 8), (3, 0), (0, 0)] {
            let matrix = TernaryMatrix::from_trits(
                rows,
                cols,
                &vec![0; rows * cols],
                ScaleGranularity::Tensor,
                vec![1.0],
            );
            let weight = backend.prepare(matrix.unwrap()).unwrap();
            for tokens in [0, 2] {
                let (x, mut out) = (zeros(&[tokens, cols]), zeros(&[tokens, rows]));
                for precision in [ActivationPrecision::Int8, ActivationPrecision::Float] {
                    backend.bit_linear(&x, precision, &[&*weight], &mut [&mut out]).unwrap();
                }
                backend.bit_linear_integers(&x, &*weight).unwrap();
            }
        }
        let shape = AttentionShape { heads: 0, kv_heads: 1, head_dim: 4, scale: 1.0, window: None };
        let mut cache = KvCache::new(
            KvShape { kind: KvType::F32, layers: 1, kv_heads: 1, head_dim: 4 },
            1,
            &pool,
        )
        .unwrap();
        cache.reserve(1).unwrap();
        let span = KvSpan { cache: &cache, layer: 0, first: 0, tokens: 1 };
        let (q, mut out) = (zeros(&[1, 0]), zeros(&[1, 0]));
        assert!(backend.attention(&q, &[span], shape, &mut out).is_err());
    }
}

//! A gated delta network: what mixes the tokens of a recurrent layer.
//!
//! ```text
//! q, k, v = split( silu( conv( L_qkv(x) ) ) );  z = L_gate(x)
//! o = delta_rule(q, k, v, step = L_step(x), write = L_write(x))
//! out = L_o( head_norm(o) * silu(z) )
//! ```
//!
//! Sources: Gated Delta Networks (Yang, Kautz, Hatamizadeh, 2024); Qwen3.5 in transformers 5.

use bitnet_core::backend::{Activation, DeltaInputs, HeadOrder};
use bitnet_core::kv::{RecurrentShape, StateSpan};
use bitnet_core::memory::tensor::BitNetTensor;

use super::layer::{Few, Pass, TokenSpan};
use super::linear::Projection;
use super::observer::{DELTA_GATES, DELTA_OUTPUT, DELTA_QKV, InputObserver};
use crate::Result;

/// A gated delta network.
#[derive(Debug)]
pub struct DeltaNet {
    /// Projections to queries, keys and values, `[channels, hidden]`, and to the gate, `[values, hidden]`.
    pub qkv_gate: [Projection; 2],
    /// Projections to steps and shares, `[value_heads, hidden]`.
    pub step_write: [Projection; 2],
    /// The convolution's weight, `[taps, channels]`, the oldest position first.
    pub conv: BitNetTensor,
    /// The rate of decay, `[value_heads]`.
    pub rate: BitNetTensor,
    /// What is added to steps, `[value_heads]`.
    pub step_bias: BitNetTensor,
    /// Norm of each head of the output, `[value_dim]`.
    pub norm: BitNetTensor,
    /// Output projection, `[hidden, values]`.
    pub output: Projection,
    /// Which key head each value head reads.
    pub order: HeadOrder,
    /// Whether the output projection reads heads grouped by their keys, though `order` is another one.
    pub regroups: bool,
}

impl DeltaNet {
    /// Returns the output of layer `layer`, counted among recurrent layers, `[tokens, hidden]`.
    pub(super) fn forward(
        &self,
        layer: usize,
        x: BitNetTensor,
        spans: &mut [TokenSpan<'_>],
        pass: &Pass<'_>,
        observer: &mut InputObserver<'_, '_>,
    ) -> Result<BitNetTensor> {
        let (compute, tokens) = (pass.compute, x.shape()[0]);
        let [mixed, mut z] = compute.project(&x, &self.qkv_gate, DELTA_QKV, observer)?;
        let [step, write] = compute.project(&x, &self.step_write, DELTA_GATES, observer)?;
        let mut spans: Few<_> = spans
            .iter_mut()
            .map(|span| StateSpan {
                cache: &mut *span.cache,
                layer,
                first: span.first,
                tokens: span.tokens,
            })
            .collect();
        let mut qkv = compute.tensor(tokens, mixed.shape()[1])?;
        compute.backend.causal_conv(&mixed, &self.conv, &mut spans, &mut qkv)?;
        let mut o = compute.tensor(tokens, z.shape()[1])?;
        let inputs = DeltaInputs {
            qkv: &qkv,
            step: &step,
            write: &write,
            rate: &self.rate,
            step_bias: &self.step_bias,
            order: self.order,
        };
        compute.backend.delta_rule(inputs, &mut spans, &mut o)?;
        let o = pass.norm(&o, &self.norm)?;
        compute.backend.gate(Activation::Silu, &mut z, &o)?;
        if self.regroups
            && let Some(shape) = pass.config.recurrent.as_ref().map(|recurrent| recurrent.shape)
        {
            z = regrouped(&z, &shape, pass)?;
        }
        let output = std::array::from_ref(&self.output);
        let [out] = compute.project(&z, output, DELTA_OUTPUT, observer)?;
        Ok(out)
    }
}

/// Puts tiled heads into the order in which those of one key head follow one another.
fn regrouped(x: &BitNetTensor, shape: &RecurrentShape, pass: &Pass<'_>) -> Result<BitNetTensor> {
    let (tokens, heads, keys) = (x.shape()[0], shape.value_heads, shape.key_heads);
    let by_head = x.view(&[tokens * heads, shape.value_dim])?;
    let each_key = heads / keys;
    let rows: Vec<_> = (0..tokens)
        .flat_map(|token| {
            (0..heads).map(move |head| token * heads + head % each_key * keys + head / each_key)
        })
        .map(|row| (&by_head, row))
        .collect();
    let grouped = pass.compute.backend.rows(&rows, &pass.compute.pool)?;
    Ok(grouped.view(&[tokens, heads * shape.value_dim])?)
}

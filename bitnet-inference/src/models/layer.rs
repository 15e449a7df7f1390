//! One layer of the decoder: attention and the gated feed-forward part, as the papers write them.

use bitnet_core::backend::{Activation, AttentionShape, Direction, RopeTable};
use bitnet_core::kv::{KvCache, KvSpan};
use bitnet_core::memory::tensor::BitNetTensor;
use smallvec::SmallVec;

use super::ModelConfig;
use super::compute::Compute;
use super::delta_net::DeltaNet;
use super::linear::Projection;
use super::mixture::Mixture;
use super::observer::{DOWN, GATE_UP, InputObserver, OUTPUT, QKV};
use crate::Result;

/// One layer.
#[derive(Debug)]
pub struct Layer {
    /// Norm before attention, `[hidden]`.
    pub attention_norm: BitNetTensor,
    /// What mixes tokens.
    pub mixer: Mixer,
    /// The number of earlier layers of the same kind: its place in a cache.
    pub place_in_cache: usize,
    /// Norm before the feed-forward part, `[hidden]`.
    pub feed_forward_norm: BitNetTensor,
    /// Feed-forward part.
    pub feed_forward: FeedForward,
    /// Norms of what attention and the feed-forward part add, `[hidden]` (Gemma 3).
    pub post_norms: Option<[BitNetTensor; 2]>,
}

/// The feed-forward part of a layer.
#[derive(Debug)]
pub enum FeedForward {
    /// One for all tokens.
    Dense(Box<GatedUnit>),
    /// A few of many for each token.
    Mixture(Box<Mixture>),
}

/// What mixes the tokens of a layer.
#[derive(Debug)]
pub enum Mixer {
    /// Attention over keys and values.
    Attention(Box<Attention>),
    /// A gated delta network.
    Delta(Box<DeltaNet>),
}

/// Attention of one layer.
#[derive(Debug)]
pub struct Attention {
    /// Query, key and value projections. A gated query projection gives each head its query, then its gate.
    pub qkv: [Projection; 3],
    /// Whether the query projection gives a gate on the output of attention.
    pub is_gated: bool,
    /// Norm of each query head and each key head, `[head_dim]` (Qwen3).
    pub head_norms: Option<[BitNetTensor; 2]>,
    /// Norm before the output projection, `[heads * head_dim]` (BitNet).
    pub sub_norm: Option<BitNetTensor>,
    /// Output projection.
    pub output: Projection,
    /// Whether queries and keys are rotated.
    pub has_rope: bool,
    /// The positions that a token sees, its own included; `None`: all.
    pub window: Option<usize>,
}

/// A gated linear unit: the feed-forward part of a layer, or of an expert.
#[derive(Debug)]
pub struct GatedUnit {
    /// Gate and up projections.
    pub gate_up: [Projection; 2],
    /// Norm before the down projection, `[intermediate]` (BitNet).
    pub sub_norm: Option<BitNetTensor>,
    /// Down projection.
    pub down: Projection,
    /// What bounds the gate from above, and what it multiplies on both sides (Maple).
    pub limit: Option<f32>,
}

/// A few items for each sequence or token, on the stack where there is one of them.
pub(super) type Few<T> = SmallVec<[T; 1]>;

/// What all layers of one pass share.
pub(super) struct Pass<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) compute: &'a Compute,
    pub(super) rope: &'a RopeTable,
    /// That of layers with a window, where they have their own.
    pub(super) local_rope: Option<&'a RopeTable>,
    /// The position of each token in its sequence.
    pub(super) positions: &'a [usize],
}

/// The tokens that one sequence reads now, and its keys and values.
pub(super) struct TokenSpan<'a> {
    pub(super) cache: &'a mut KvCache,
    pub(super) first: usize,
    pub(super) tokens: usize,
}

impl Pass<'_> {
    pub(super) fn norm(&self, x: &BitNetTensor, weight: &BitNetTensor) -> Result<BitNetTensor> {
        self.compute.norm(x, weight, self.config.stream_eps())
    }
}

impl Layer {
    /// Adds the two parts of the layer to `h`, `[tokens of all sequences, hidden]`.
    pub(super) fn forward(
        &self,
        h: &mut BitNetTensor,
        spans: &mut [TokenSpan<'_>],
        pass: &Pass<'_>,
        observer: &mut InputObserver<'_, '_>,
    ) -> Result<()> {
        let a = pass.norm(h, &self.attention_norm)?;
        let place = self.place_in_cache;
        let mut o = match &self.mixer {
            Mixer::Attention(attention) => attention.forward(place, a, spans, pass, observer),
            Mixer::Delta(delta) => delta.forward(place, a, spans, pass, observer),
        }?;
        if let Some([norm, _]) = &self.post_norms {
            o = pass.norm(&o, norm)?;
        }
        pass.compute.backend.add(h, &o)?;
        let b = pass.norm(h, &self.feed_forward_norm)?;
        let mut d = match &self.feed_forward {
            FeedForward::Dense(unit) => unit.forward(b, pass, observer),
            FeedForward::Mixture(mixture) => mixture.forward(&b, pass),
        }?;
        if let Some([_, norm]) = &self.post_norms {
            d = pass.norm(&d, norm)?;
        }
        Ok(pass.compute.backend.add(h, &d)?)
    }
}

impl Attention {
    /// `L_o( (sub_norm)( attention(rope(q), rope(k), v) (* sigmoid(gate)) ) )`
    fn forward(
        &self,
        layer: usize,
        x: BitNetTensor,
        spans: &mut [TokenSpan<'_>],
        pass: &Pass<'_>,
        observer: &mut InputObserver<'_, '_>,
    ) -> Result<BitNetTensor> {
        let Pass { config: c, compute, positions, .. } = *pass;
        let [mut q, mut k, v] = compute.project(&x, &self.qkv, QKV, observer)?;
        let mut gate = None;
        if self.is_gated {
            let [query, its_gate] = halves_of_heads(&q, c.head_dim, compute)?;
            (q, gate) = (query, Some(its_gate));
        }
        if let Some([q_norm, k_norm]) = &self.head_norms {
            q = pass.norm(&q, q_norm)?;
            k = pass.norm(&k, k_norm)?;
        }
        if self.has_rope {
            let own = pass.local_rope.filter(|_| self.window.is_some());
            let rope = own.unwrap_or(pass.rope);
            compute.backend.rope(&mut q, c.head_dim, positions, rope, c.rope_order)?;
            compute.backend.rope(&mut k, c.head_dim, positions, rope, c.rope_order)?;
        }
        let mut o = attend(layer, [&q, &k, &v], self.window, spans, pass)?;
        if let Some(mut gate) = gate {
            compute.backend.gate(Activation::Sigmoid, &mut gate, &o)?;
            o = gate;
        }
        if let Some(sub_norm) = &self.sub_norm {
            o = pass.norm(&o, sub_norm)?;
        }
        let [out] = compute.project(&o, std::array::from_ref(&self.output), OUTPUT, observer)?;
        Ok(out)
    }
}

/// Divides `[tokens, heads * 2 * head_dim]` into the first and the second half of each head.
fn halves_of_heads(
    x: &BitNetTensor,
    head_dim: usize,
    compute: &Compute,
) -> Result<[BitNetTensor; 2]> {
    let (tokens, width) = (x.shape()[0], x.shape()[1]);
    let halves = x.view(&[tokens * width / head_dim, head_dim])?;
    let every_second = |first: usize| -> Result<BitNetTensor> {
        let rows: Vec<_> =
            (first..halves.shape()[0]).step_by(2).map(|row| (&halves, row)).collect();
        let half = compute.backend.rows(&rows, &compute.pool)?;
        Ok(half.view(&[tokens, width / 2])?)
    };
    Ok([every_second(0)?, every_second(1)?])
}

/// Stores keys and values, and returns the attention of the queries over all
/// that is stored and in their window: `[tokens, heads * head_dim]`.
fn attend(
    layer: usize,
    [q, k, v]: [&BitNetTensor; 3],
    window: Option<usize>,
    spans: &mut [TokenSpan<'_>],
    pass: &Pass<'_>,
) -> Result<BitNetTensor> {
    let Pass { config: c, compute, .. } = pass;
    let mut row = 0;
    for span in &mut *spans {
        let rows = row..row + span.tokens;
        row = rows.end;
        let (k, v) = (k.narrow(0, rows.clone())?, v.narrow(0, rows)?);
        compute.backend.store(&k, &v, span.cache, layer, span.first)?;
    }
    let spans: Few<_> = spans
        .iter()
        .map(|span| KvSpan { cache: span.cache, layer, first: span.first, tokens: span.tokens })
        .collect();
    let shape = AttentionShape {
        heads: c.heads,
        kv_heads: c.kv_heads,
        head_dim: c.head_dim,
        scale: c.attention_scale(),
        window,
    };
    let mut out = compute.tensor(q.shape()[0], q.shape()[1])?;
    compute.backend.attention(q, &spans, shape, &mut out)?;
    Ok(out)
}

impl GatedUnit {
    /// `L_down( (sub_norm)( activation(L_gate(x)) * L_up(x) ) )`
    pub(super) fn forward(
        &self,
        x: BitNetTensor,
        pass: &Pass<'_>,
        observer: &mut InputObserver<'_, '_>,
    ) -> Result<BitNetTensor> {
        let mut u = self.gated(&x, pass, observer)?;
        if let Some(sub_norm) = &self.sub_norm {
            u = pass.norm(&u, sub_norm)?;
        }
        let down = std::array::from_ref(&self.down);
        let [out] = pass.compute.project(&u, down, DOWN, observer)?;
        Ok(out)
    }

    /// `activation(L_gate(x)) * L_up(x)`, in one operation where both read the same quantised input.
    fn gated(
        &self,
        x: &BitNetTensor,
        pass: &Pass<'_>,
        observer: &mut InputObserver<'_, '_>,
    ) -> Result<BitNetTensor> {
        let (compute, activation) = (pass.compute, pass.config.activation);
        let [gate, up] = &self.gate_up;
        let together = gate.quantised_together(up);
        let fits = gate.bias.is_none() && up.bias.is_none() && self.limit.is_none();
        let together = together.filter(|_| fits);
        let turned = match (together.is_some(), &gate.rotation) {
            (true, Some(rotation)) => Some(compute.rotate(x, rotation, Direction::Forward)?),
            _ => None,
        };
        let Some((weights, precision)) = together else {
            let [mut out, up] = compute.project(x, &self.gate_up, GATE_UP, observer)?;
            match self.limit {
                Some(limit) => compute.backend.clamped_gate(limit, &mut out, &up)?,
                None => compute.backend.gate(activation, &mut out, &up)?,
            }
            return Ok(out);
        };
        let x = turned.as_ref().unwrap_or(x);
        observer.show(GATE_UP, 0, false, x, compute)?;
        let mut out = compute.tensor(x.shape()[0], weights[0].rows())?;
        let mut scratch = compute.tensor(x.shape()[0], weights[1].rows())?;
        compute.backend.gate_up(x, precision, activation, weights, &mut out, &mut scratch)?;
        Ok(out)
    }
}

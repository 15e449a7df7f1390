//! Causal attention over a cache, parallel over heads and tokens.
//!
//! Query heads that share a key head pass over the cache together, so that it is read once. Scores are summed as
//! `dot.rs` says; values are summed over runs of 32 positions and the runs over each other, so a component lies
//! within `(32 + positions / 32) · 2⁻²⁴ · max|v|` of the exact one for the same scores.

use std::ops::Range;

use super::Machine;
use super::dot::{Plain, dots};
use super::softmax::softmax_row;
use crate::isa::{Isa, Op};
use bitnet_core::backend::AttentionShape;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::{Result, operands};

/// Positions whose weighted values are summed before they are added to the rest.
const RUN: usize = 32;

/// See [`bitnet_core::backend::Backend::attention`].
pub(crate) fn attention(
    q: &BitNetTensor,
    k: &BitNetTensor,
    v: &BitNetTensor,
    first: usize,
    shape: AttentionShape,
    out: &mut BitNetTensor,
    machine: Machine<'_>,
) -> Result<()> {
    let tokens = operands::attention(q, k, v, first, shape, out)?;
    let (q, k, v) = (q.f32()?, k.f32()?, v.f32()?);
    let mut rest = out.f32_mut()?;
    let heads = tokens * shape.heads;
    let work = (first + tokens).saturating_mul(2 * shape.head_dim);
    let mut pieces = Vec::new();
    for heads in machine.threads.ranges(heads, work) {
        let (out, tail) = rest.split_at_mut(heads.len() * shape.head_dim);
        rest = tail;
        pieces.push(Attention { q, k, v, first, shape, heads, out });
    }
    machine.threads.each(pieces, |piece| {
        machine.isa.run(piece);
        Ok(())
    })
}

/// Some heads, counted over all tokens: head `h` of token `t` is number `t * shape.heads + h`.
struct Attention<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    first: usize,
    shape: AttentionShape,
    heads: Range<usize>,
    out: &'a mut [f32],
}

impl Op for Attention<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let AttentionShape { heads, kv_heads, head_dim, scale } = self.shape;
        let sharing = heads / kv_heads;
        let stride = kv_heads * head_dim;
        let mut scores = Vec::new();
        let mut run = vec![0f32; head_dim];
        let mut rest = self.out;
        let mut head = self.heads.start;
        while head < self.heads.end {
            // `heads` is a multiple of `sharing`, so a run of heads with one key head stays within a token.
            let end = ((head / sharing + 1) * sharing).min(self.heads.end);
            let visible = self.first + head / heads + 1;
            let kv = head % heads / sharing * head_dim;
            let q = &self.q[head * head_dim..end * head_dim];
            let (out, tail) = rest.split_at_mut(q.len());
            rest = tail;
            scores.resize((end - head) * visible, 0f32);
            let cache = Cache { stride, at: kv, head_dim, visible };
            cache.score(isa, q, self.k, scale, &mut scores);
            for scores in scores.chunks_exact_mut(visible) {
                softmax_row(scores);
            }
            cache.mix(isa, &scores, self.v, &mut run, out);
            head = end;
        }
    }
}

/// One key head's rows of a cache.
struct Cache {
    stride: usize,
    at: usize,
    head_dim: usize,
    visible: usize,
}

impl Cache {
    #[inline(always)]
    fn row<'a>(&self, cache: &'a [f32], position: usize) -> &'a [f32] {
        &cache[position * self.stride + self.at..][..self.head_dim]
    }

    /// `scores[h, p] = q[h] · k[p] * scale`.
    #[inline(always)]
    fn score<I: Isa>(&self, isa: I, q: &[f32], k: &[f32], scale: f32, scores: &mut [f32]) {
        for position in 0..self.visible {
            let key = self.row(k, position);
            for (h, q) in q.chunks_exact(self.head_dim).enumerate() {
                let [dot] = dots::<Plain, I, 1>(isa, key, [q]);
                scores[h * self.visible + position] = dot * scale;
            }
        }
    }

    /// `out[h] = Σ_p scores[h, p] * v[p]`; `run` is scratch of one head.
    #[inline(always)]
    fn mix<I: Isa>(&self, isa: I, scores: &[f32], v: &[f32], run: &mut [f32], out: &mut [f32]) {
        out.fill(0.0);
        for start in (0..self.visible).step_by(RUN) {
            let positions = start..(start + RUN).min(self.visible);
            let heads = scores.chunks_exact(self.visible).zip(out.chunks_exact_mut(self.head_dim));
            for (scores, out) in heads {
                run.fill(0.0);
                for position in positions.clone() {
                    let score = scores[position];
                    for (sum, &v) in run.iter_mut().zip(self.row(v, position)) {
                        *sum = isa.mul_add(score, v, *sum);
                    }
                }
                for (out, &run) in out.iter_mut().zip(&*run) {
                    *out += run;
                }
            }
        }
    }
}

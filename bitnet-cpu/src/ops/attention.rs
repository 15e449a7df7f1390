//! Causal attention over a cache, parallel over heads and tokens.
//!
//! Query heads that share a key head pass over the cache together, so that it is read once. Scores are summed as
//! `dot.rs` says; values are summed over runs of 32 positions and the runs over each other, so a component lies
//! within `(32 + positions / 32) · 2⁻²⁴ · max|v|` of the exact one for the same scores.

use std::ops::Range;

use super::Machine;
use super::dot::{Plain, dots, load_rest};
use super::softmax::softmax_row;
use crate::activations::TILE;
use crate::isa::{Isa, LANES, Op};
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
            cache.mix(isa, &scores, self.v, out);
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
        let tile = TILE * self.head_dim;
        let whole = q.len() / tile * tile;
        let (tiled, single) = scores.split_at_mut(whole / self.head_dim * self.visible);
        let tiles = q.chunks_exact(tile).zip(tiled.chunks_exact_mut(TILE * self.visible));
        for (q, scores) in tiles {
            self.score_tile::<I, TILE>(isa, q, k, scale, scores);
        }
        let singles = q[whole..].chunks_exact(self.head_dim);
        for (q, scores) in singles.zip(single.chunks_exact_mut(self.visible)) {
            self.score_tile::<I, 1>(isa, q, k, scale, scores);
        }
    }

    #[inline(always)]
    fn score_tile<I: Isa, const T: usize>(
        &self,
        isa: I,
        q: &[f32],
        k: &[f32],
        scale: f32,
        scores: &mut [f32],
    ) {
        let mut heads = [&q[..0]; T];
        for (head, q) in heads.iter_mut().zip(q.chunks_exact(self.head_dim)) {
            *head = q;
        }
        for position in 0..self.visible {
            let dots = dots::<Plain, I, T>(isa, self.row(k, position), heads);
            for (h, dot) in dots.into_iter().enumerate() {
                scores[h * self.visible + position] = dot * scale;
            }
        }
    }

    /// `out[h] = Σ_p scores[h, p] * v[p]`.
    #[inline(always)]
    fn mix<I: Isa>(&self, isa: I, scores: &[f32], v: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        for start in (0..self.visible).step_by(RUN) {
            let positions = start..(start + RUN).min(self.visible);
            let heads = scores.chunks_exact(self.visible).zip(out.chunks_exact_mut(self.head_dim));
            for (scores, out) in heads {
                let mut at = 0;
                while at + 4 * LANES <= self.head_dim {
                    self.mix_run::<I, 4>(isa, scores, v, positions.clone(), at, out);
                    at += 4 * LANES;
                }
                while at < self.head_dim {
                    self.mix_run::<I, 1>(isa, scores, v, positions.clone(), at, out);
                    at += LANES;
                }
            }
        }
    }

    /// Adds a run of positions to components `at..at + 16 * C`, or as many of them as there are.
    #[inline(always)]
    fn mix_run<I: Isa, const C: usize>(
        &self,
        isa: I,
        scores: &[f32],
        v: &[f32],
        positions: Range<usize>,
        at: usize,
        out: &mut [f32],
    ) {
        let mut sums = [isa.splat(0.0); C];
        for position in positions {
            let score = isa.splat(scores[position]);
            let (chunks, rest) = self.row(v, position)[at..].as_chunks::<LANES>();
            for (c, sum) in sums.iter_mut().enumerate() {
                let v = match chunks.get(c) {
                    Some(v) => isa.load(v),
                    None => load_rest::<Plain, I>(isa, rest),
                };
                *sum = isa.mul_add(score, v, *sum);
            }
        }
        for (out, sum) in out[at..].chunks_mut(LANES).zip(sums) {
            for (out, sum) in out.iter_mut().zip(isa.store(sum)) {
                *out += sum;
            }
        }
    }
}

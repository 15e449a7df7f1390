//! The gated delta rule in chunks of 16 positions.
//!
//! With `S` the state at the start of the chunk and `c_t` the sum of the logarithms of decay from there to position `t`,
//!
//! ```text
//! u_t   = share_t * (v_t - exp(c_t) * Sᵀ k_t - Σ_{j < t} exp(c_t - c_j) * (k_j · k_t) * u_j)
//! out_t = exp(c_t) * Sᵀ q_t + Σ_{j <= t} exp(c_t - c_j) * (k_j · q_t) * u_j
//! ```
//!
//! and the next chunk begins with `exp(c_16) * S + Σ_j exp(c_16 - c_j) * k_j ⊗ u_j`. Chunks begin at multiples of 16 and
//! every sum has one order, so a result depends neither on the tokens that are read together nor on the number of
//! threads. Sums are products fused with additions in f32: against the rule in exact arithmetic, an output lies within
//! `2⁻¹⁶` of the largest magnitude of the values so far (the conformance suite holds each level to that).

mod kernel;

use std::sync::atomic::Ordering;

use super::rms_norm::sum_of_squares;
use crate::exec::ExecContext;
use crate::isa::{Isa, Op};
use crate::threads::Pieces;
use bitnet_core::Result;
use bitnet_core::backend::{Activation, DeltaInputs, shape_check};
use bitnet_core::kv::{LayerState, RecurrentShape, STATE_CHUNK, StateNumbers, StateSpan};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use bitnet_core::reference::{activate, length_factor, log_decay};
use kernel::HeadJob;

/// See [`bitnet_core::backend::Operations::delta_rule`].
pub(crate) fn delta_rule(
    inputs: DeltaInputs<'_>,
    spans: &mut [StateSpan<'_>],
    out: &mut BitNetTensor,
    exec: ExecContext<'_>,
) -> Result<()> {
    shape_check::delta_rule(&inputs, spans, out)?;
    let (mut row, mut out) = (0, out.f32_mut()?);
    for span in spans {
        let (first, rows) = (span.first, row..row + span.tokens);
        row = rows.end;
        let mut state = span.layer_state()?;
        let (result, tail) = out.split_at_mut(rows.len() * state.shape.values());
        out = tail;
        if !rows.is_empty() {
            let tokens = Tokens::new(&inputs, rows, first, &state.shape, exec)?;
            tokens.run(&mut state, result, exec)?;
        }
    }
    Ok(())
}

/// What one sequence's tokens give the rule.
struct Tokens<'a> {
    inputs: &'a DeltaInputs<'a>,
    /// Convolved queries, keys and values, `[tokens, channels]`.
    qkv: &'a [f32],
    /// Queries and keys of length 1, `[tokens, 2 * key_heads * key_dim]`.
    qk: PoolBuffer<f32>,
    /// The logarithms of decay, then the shares that are written, `[tokens, value_heads]` each.
    gates: PoolBuffer<f32>,
    first: usize,
    count: usize,
}

impl<'a> Tokens<'a> {
    fn new(
        inputs: &'a DeltaInputs<'a>,
        rows: std::ops::Range<usize>,
        first: usize,
        shape: &RecurrentShape,
        exec: ExecContext<'_>,
    ) -> Result<Self> {
        let (channels, heads, count) = (shape.channels(), shape.value_heads, rows.len());
        let qkv = &inputs.qkv.f32()?[rows.start * channels..rows.end * channels];
        let width = 2 * shape.key_heads * shape.key_dim;
        let mut qk = PoolBuffer::scratch(count * width, exec.scratch_pool)?;
        exec.for_each_rows(&mut qk, width, width, &|range, qk| {
            let rows = qkv[range.start * channels..].chunks(channels);
            for (out, row) in qk.chunks_exact_mut(width).zip(rows) {
                exec.isa.run_shared(Normalise { x: &row[..width], dim: shape.key_dim, out });
            }
            Ok(())
        })?;
        let mut gates = PoolBuffer::scratch(2 * count * heads, exec.scratch_pool)?;
        let (log_decays, shares) = gates.split_at_mut(count * heads);
        let numbers = rows.start * heads..rows.end * heads;
        let (rate, bias) = (inputs.rate.f32()?, inputs.step_bias.f32()?);
        for (index, (out, step)) in
            log_decays.iter_mut().zip(&inputs.step.f32()?[numbers.clone()]).enumerate()
        {
            *out = log_decay(rate[index % heads], step + bias[index % heads]);
        }
        for (out, &write) in shares.iter_mut().zip(&inputs.write.f32()?[numbers]) {
            *out = activate(Activation::Sigmoid, write);
        }
        Ok(Self { inputs, qkv, qk, gates, first, count })
    }

    /// Computes `out` (`[tokens, value_heads * value_dim]`) and fills the chunks of the pass.
    fn run(
        &self,
        state: &mut LayerState<'_>,
        out: &mut [f32],
        exec: ExecContext<'_>,
    ) -> Result<()> {
        let shape = state.shape;
        self.store_keys(state);
        let bytes = shape.value_heads * shape.head_state() * size_of::<f32>();
        exec.traffic.cache_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let head_len = self.count * shape.value_dim;
        let mut results = PoolBuffer::scratch(shape.value_heads * head_len, exec.scratch_pool)?;
        let mut jobs = self.jobs(state, &mut results);
        let work = self.count * 4 * shape.head_state();
        let mut rest = &mut jobs[..];
        let mut pieces: Pieces<&mut [HeadJob<'_>]> = Pieces::new();
        for range in exec.threads.ranges(shape.value_heads, work) {
            let (piece, tail) = rest.split_at_mut(range.len());
            rest = tail;
            pieces.push(piece);
        }
        exec.threads.each(pieces, |jobs| {
            exec.isa.run_shared(Heads { jobs, shape, pool: exec.scratch_pool })
        })?;
        drop(jobs);
        let values = shape.values();
        for (head, result) in results.chunks_exact(head_len).enumerate() {
            let places = out[head * shape.value_dim..].chunks_mut(values);
            for (place, row) in places.zip(result.chunks_exact(shape.value_dim)) {
                place[..shape.value_dim].copy_from_slice(row);
            }
        }
        Ok(())
    }

    /// Writes the keys of the tokens to the logs of the chunks that are kept.
    fn store_keys(&self, state: &mut LayerState<'_>) {
        let (heads, dim) = (state.shape.key_heads, state.shape.key_dim);
        for chunk in &mut state.chunks {
            let from = chunk.start.max(self.first);
            let to = (chunk.start + STATE_CHUNK).min(self.first + self.count);
            for position in from..to {
                let row = &self.qk[((position - self.first) * 2 + 1) * heads * dim..];
                for head in 0..heads {
                    let place = (head * STATE_CHUNK + position - chunk.start) * dim;
                    chunk.keys[place..][..dim].copy_from_slice(&row[head * dim..][..dim]);
                }
            }
        }
    }

    /// One job for each value head: its part of every chunk, and the place of its results, `[tokens, value_dim]`.
    fn jobs<'s>(&'s self, state: &'s mut LayerState<'_>, out: &'s mut [f32]) -> Vec<HeadJob<'s>> {
        let shape = state.shape;
        let mut jobs: Vec<HeadJob<'s>> = out
            .chunks_exact_mut(self.count * shape.value_dim)
            .enumerate()
            .map(|(head, out)| {
                let key_head = self.inputs.order.key_head(head, shape.key_heads, shape.value_heads);
                let (log_decays, shares) = self.gates.split_at(self.count * shape.value_heads);
                let (qkv, qk, first) = (self.qkv, &self.qk[..], self.first);
                HeadJob {
                    head,
                    key_head,
                    qkv,
                    qk,
                    log_decays,
                    shares,
                    first,
                    chunks: Pieces::new(),
                    out,
                }
            })
            .collect();
        let (keys, corrections) = (STATE_CHUNK * shape.key_dim, STATE_CHUNK * shape.value_width());
        for chunk in &mut state.chunks {
            let (known, unknown): (&[f32], &mut [f32]) = match &mut chunk.state {
                StateNumbers::Known(numbers) => (numbers, &mut []),
                StateNumbers::Unknown(numbers) => (&[], numbers),
            };
            let mut known = known.chunks_exact(shape.head_state());
            let mut unknown = unknown.chunks_exact_mut(shape.head_state());
            let logs = chunk.corrections.chunks_exact_mut(corrections);
            let logs = logs.zip(chunk.decays.chunks_exact_mut(STATE_CHUNK));
            for (job, (corrections, decays)) in jobs.iter_mut().zip(logs) {
                job.chunks.push(kernel::HeadChunk {
                    start: chunk.start,
                    known: known.next(),
                    unknown: unknown.next(),
                    keys: &chunk.keys[job.key_head * keys..][..keys],
                    corrections,
                    decays,
                });
            }
        }
        jobs
    }
}

/// Queries and keys of one token: each head gets the length 1, those of queries times `1 / sqrt(dim)`.
struct Normalise<'a> {
    x: &'a [f32],
    dim: usize,
    out: &'a mut [f32],
}

impl Op for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let Self { x, dim, out } = self;
        let (queries, scale) = (x.len() / 2, (1.0 / (dim as f64).sqrt()) as f32);
        let heads = x.chunks_exact(dim).zip(out.chunks_exact_mut(dim));
        for (index, (x, out)) in heads.enumerate() {
            let factor = length_factor(sum_of_squares(x));
            let factor = if index * dim < queries { factor * scale } else { factor };
            for (out, x) in out.iter_mut().zip(x) {
                *out = x * factor;
            }
        }
    }
}

/// Heads that one thread computes.
struct Heads<'a, 'b> {
    jobs: &'b mut [HeadJob<'a>],
    shape: RecurrentShape,
    pool: &'b HybridMemoryPool,
}

impl Op for Heads<'_, '_> {
    type Output = Result<()>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<()> {
        let mut room = PoolBuffer::scratch(kernel::room_len(&self.shape), self.pool)?;
        for job in self.jobs {
            job.run(isa, &self.shape, &mut room);
        }
        Ok(())
    }
}

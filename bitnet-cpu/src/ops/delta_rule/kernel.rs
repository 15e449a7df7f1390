//! One value head through the chunks of a pass.

use super::super::exp::exp;
use crate::isa::{Isa, LANES};
use crate::threads::Pieces;
use bitnet_core::kv::{RecurrentShape, STATE_CHUNK, chunk_start};

/// Tokens that share a pass over a state.
const ROWS: usize = 4;

/// One head's part of a chunk that is kept.
pub(super) struct HeadChunk<'a> {
    pub(super) start: usize,
    /// The state at the start, `[key_dim, value_width]`, of the pass's first chunk.
    pub(super) known: Option<&'a [f32]>,
    /// Its place, in later chunks.
    pub(super) unknown: Option<&'a mut [f32]>,
    /// `[16, key_dim]`, of all positions up to the end of the pass.
    pub(super) keys: &'a [f32],
    /// `[16, value_width]`
    pub(super) corrections: &'a mut [f32],
    /// `[16]`
    pub(super) decays: &'a mut [f32],
}

/// One value head of one sequence.
pub(super) struct HeadJob<'a> {
    pub(super) head: usize,
    pub(super) key_head: usize,
    /// `[tokens, channels]`
    pub(super) qkv: &'a [f32],
    /// `[tokens, 2 * key_heads * key_dim]`
    pub(super) qk: &'a [f32],
    /// `[tokens, value_heads]`
    pub(super) log_decays: &'a [f32],
    /// `[tokens, value_heads]`
    pub(super) shares: &'a [f32],
    pub(super) first: usize,
    pub(super) chunks: Pieces<HeadChunk<'a>>,
    /// `[tokens, value_dim]`
    pub(super) out: &'a mut [f32],
}

/// The chunk at hand: `[16, key_dim]`, `[16, value_width]` and `[16]`.
struct Log<'a> {
    keys: &'a mut [f32],
    corrections: &'a mut [f32],
    decays: [f32; STATE_CHUNK],
}

/// Numbers that [`HeadJob::run`] notes on the side: two states, keys, corrections, and `Sᵀ k` and `Sᵀ q` of some rows.
pub(super) fn room_len(shape: &RecurrentShape) -> usize {
    let width = shape.value_width();
    2 * shape.head_state() + STATE_CHUNK * (shape.key_dim + width) + 2 * ROWS * width
}

impl HeadJob<'_> {
    /// Computes the results of all tokens and fills the chunks.
    #[inline(always)]
    pub(super) fn run<I: Isa>(&mut self, isa: I, shape: &RecurrentShape, room: &mut [f32]) {
        let (dim, width) = (shape.key_dim, shape.value_width());
        let (mut state, rest) = room.split_at_mut(shape.head_state());
        let (mut next, rest) = rest.split_at_mut(shape.head_state());
        let (keys, rest) = rest.split_at_mut(STATE_CHUNK * dim);
        let (corrections, products) = rest.split_at_mut(STATE_CHUNK * width);
        let mut log = Log { keys, corrections, decays: [0.0; STATE_CHUNK] };
        let mut known = self.begin(&mut log);
        let base = self.chunks.first().map_or(0, |chunk| chunk.start);
        let end = self.first + self.qk.len() / (2 * shape.key_heads * dim);
        let mut from = self.first;
        while from < end {
            let start = chunk_start(from);
            if from == start && from > base {
                next_state(isa, known.unwrap_or(state), &log, next, shape);
                std::mem::swap(&mut state, &mut next);
                known = None;
                let chunk = self.chunks.iter_mut().find(|chunk| chunk.start == start);
                if let Some(place) = chunk.and_then(|chunk| chunk.unknown.as_deref_mut()) {
                    place.copy_from_slice(state);
                }
            }
            let to = (start + STATE_CHUNK).min(end);
            self.read_keys(&mut log, shape, from..to);
            let mut row = from;
            while row < to {
                let (s, products) = (known.unwrap_or(state), &mut *products);
                row += match to - row {
                    ROWS.. => self.rows::<I, ROWS>(isa, s, row, &mut log, products, shape),
                    _ => self.rows::<I, 1>(isa, s, row, &mut log, products, shape),
                };
            }
            self.end_chunk(&log, start, from..to, width);
            from = to;
        }
    }

    /// Loads what the log of the first chunk has; returns the state at its start.
    #[inline(always)]
    fn begin<'s>(&self, log: &mut Log<'_>) -> Option<&'s [f32]>
    where
        Self: 's,
    {
        let base = self.chunks.first()?;
        log.keys.copy_from_slice(base.keys);
        log.corrections.copy_from_slice(base.corrections);
        log.decays.copy_from_slice(base.decays);
        base.known
    }

    /// Puts the keys of `positions` into the log.
    #[inline(always)]
    fn read_keys(
        &self,
        log: &mut Log<'_>,
        shape: &RecurrentShape,
        positions: std::ops::Range<usize>,
    ) {
        let dim = shape.key_dim;
        for position in positions {
            let head = shape.key_heads + self.key_head;
            let key = head_of(self.qk, shape, position - self.first, head);
            log.keys[position % STATE_CHUNK * dim..][..dim].copy_from_slice(key);
        }
    }

    /// Computes `N` positions of one chunk; returns `N`.
    #[inline(always)]
    fn rows<I: Isa, const N: usize>(
        &mut self,
        isa: I,
        s: &[f32],
        first: usize,
        log: &mut Log<'_>,
        products: &mut [f32],
        shape: &RecurrentShape,
    ) -> usize {
        let width = shape.value_width();
        let (qk, token, head) = (self.qk, first - self.first, self.key_head);
        let key = |i| head_of(qk, shape, token + i, shape.key_heads + head);
        let query = |i| head_of(qk, shape, token + i, head);
        let (keys, queries): ([&[f32]; N], [&[f32]; N]) =
            (std::array::from_fn(key), std::array::from_fn(query));
        let (known, read) = products[..2 * N * width].split_at_mut(N * width);
        multiply(isa, s, keys, queries, known, read);
        for (i, (query, key)) in queries.into_iter().zip(keys).enumerate() {
            let row = (first + i) % STATE_CHUNK;
            let token = token + i;
            let gate = token * shape.value_heads + self.head;
            let before = if row == 0 { 0.0 } else { log.decays[row - 1] };
            log.decays[row] = before + self.log_decays[gate];
            let value = 2 * shape.key_heads * shape.key_dim + self.head * shape.value_dim;
            let value = &self.qkv[token * shape.channels() + value..][..shape.value_dim];
            let row = Row { row, query, key, value, share: self.shares[gate] };
            let (known, read) = (&known[i * width..][..width], &mut read[i * width..][..width]);
            row.correct(isa, log, known, read);
            let out = &mut self.out[token * shape.value_dim..][..shape.value_dim];
            out.copy_from_slice(&read[..shape.value_dim]);
        }
        N
    }

    /// Writes the corrections and decays of `positions` to the chunk at `start`, if it is kept.
    #[inline(always)]
    fn end_chunk(
        &mut self,
        log: &Log<'_>,
        start: usize,
        positions: std::ops::Range<usize>,
        width: usize,
    ) {
        if let Some(chunk) = self.chunks.iter_mut().find(|chunk| chunk.start == start) {
            let rows = positions.start - start..positions.end - start;
            let numbers = rows.start * width..rows.end * width;
            chunk.corrections[numbers.clone()].copy_from_slice(&log.corrections[numbers]);
            chunk.decays[rows.clone()].copy_from_slice(&log.decays[rows]);
        }
    }
}

/// A query (heads from 0 on) or key (heads from `key_heads` on) of a token.
#[inline(always)]
fn head_of<'a>(qk: &'a [f32], shape: &RecurrentShape, token: usize, head: usize) -> &'a [f32] {
    let width = 2 * shape.key_heads * shape.key_dim;
    &qk[token * width + head * shape.key_dim..][..shape.key_dim]
}

/// A position in its chunk.
struct Row<'a> {
    row: usize,
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    share: f32,
}

impl Row<'_> {
    /// Computes the position's correction from `known = Sᵀ k`, and its result in place of `read = Sᵀ q`.
    #[inline(always)]
    fn correct<I: Isa>(&self, isa: I, log: &mut Log<'_>, known: &[f32], read: &mut [f32]) {
        let (row, dim, width) = (self.row, self.key.len(), known.len());
        let (mut of_keys, mut of_queries) = ([0f32; STATE_CHUNK], [0f32; STATE_CHUNK]);
        let factors = of_keys.iter_mut().zip(&mut of_queries).zip(log.keys.chunks_exact(dim));
        for (((of_key, of_query), key), before) in factors.zip(log.decays).take(row + 1) {
            let decay = exp(log.decays[row] - before);
            *of_key = -decay * dot(isa, key, self.key);
            *of_query = decay * dot(isa, key, self.query);
        }
        let decay = exp(log.decays[row]);
        let (before, own) = log.corrections.split_at_mut(row * width);
        let own = own[..width].as_chunks_mut::<LANES>().0.iter_mut();
        let lanes = known.as_chunks().0.iter().zip(read.as_chunks_mut().0).zip(own);
        for (block, ((known, read), own)) in lanes.enumerate() {
            let at = block * LANES;
            let mut value = [0.0; LANES];
            let rest = &self.value[at.min(self.value.len())..];
            let rest = &rest[..rest.len().min(LANES)];
            value[..rest.len()].copy_from_slice(rest);
            let mut u = isa.mul_add(isa.splat(-decay), isa.load(known), isa.load(&value));
            let mut out = isa.mul_add(isa.splat(decay), isa.load(read), isa.splat(0.0));
            let factors = of_keys.iter().zip(&of_queries);
            for ((of_key, of_query), correction) in factors.zip(before.chunks_exact(width)) {
                let correction = isa.load(lanes_at(correction, at));
                u = isa.mul_add(isa.splat(*of_key), correction, u);
                out = isa.mul_add(isa.splat(*of_query), correction, out);
            }
            let u = isa.mul_add(isa.splat(self.share), u, isa.splat(0.0));
            *own = isa.store(u);
            *read = isa.store(isa.mul_add(isa.splat(of_queries[row]), u, out));
        }
    }
}

/// Sixteen numbers of a row whose length is a multiple of sixteen.
#[inline(always)]
fn lanes_at(row: &[f32], at: usize) -> &[f32; LANES] {
    &row.as_chunks::<LANES>().0[at / LANES]
}

/// `known[i] = Sᵀ keys[i]` and `read[i] = Sᵀ queries[i]`, `[N, value_width]`.
#[inline(always)]
fn multiply<I: Isa, const N: usize>(
    isa: I,
    s: &[f32],
    keys: [&[f32]; N],
    queries: [&[f32]; N],
    known: &mut [f32],
    read: &mut [f32],
) {
    let (width, dim) = (known.len() / N, keys[0].len());
    let (keys, queries) = (keys.map(|key| &key[..dim]), queries.map(|query| &query[..dim]));
    for at in (0..width).step_by(LANES) {
        let mut sums = [[isa.splat(0.0); 2]; N];
        for (component, s) in s.chunks_exact(width).enumerate() {
            let s = isa.load(lanes_at(s, at));
            for i in 0..N {
                sums[i][0] = isa.mul_add(isa.splat(keys[i][component]), s, sums[i][0]);
                sums[i][1] = isa.mul_add(isa.splat(queries[i][component]), s, sums[i][1]);
            }
        }
        for (i, [by_key, by_query]) in sums.into_iter().enumerate() {
            known[i * width + at..][..LANES].copy_from_slice(&isa.store(by_key));
            read[i * width + at..][..LANES].copy_from_slice(&isa.store(by_query));
        }
    }
}

/// The state after a full chunk: `next = exp(c_16) * S + Σ_j exp(c_16 - c_j) * k_j ⊗ u_j`.
#[inline(always)]
fn next_state<I: Isa>(isa: I, s: &[f32], log: &Log<'_>, next: &mut [f32], shape: &RecurrentShape) {
    let (dim, width) = (shape.key_dim, shape.value_width());
    let last = log.decays[STATE_CHUNK - 1];
    let decay = isa.splat(exp(last));
    let factors = log.decays.map(|sum| exp(last - sum));
    for (i, (s, next)) in s.chunks_exact(width).zip(next.chunks_exact_mut(width)).enumerate() {
        let factors: [f32; STATE_CHUNK] =
            std::array::from_fn(|j| factors[j] * log.keys[j * dim + i]);
        let blocks = s.as_chunks().0.iter().zip(next.as_chunks_mut().0);
        for (block, (s, next)) in blocks.enumerate() {
            let mut sum = isa.mul_add(decay, isa.load(s), isa.splat(0.0));
            for (factor, u) in factors.iter().zip(log.corrections.chunks_exact(width)) {
                let u = isa.load(lanes_at(u, block * LANES));
                sum = isa.mul_add(isa.splat(*factor), u, sum);
            }
            *next = isa.store(sum);
        }
    }
}

#[inline(always)]
fn dot<I: Isa>(isa: I, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sum = isa.splat(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = isa.mul_add(isa.load(a), isa.load(b), sum);
    }
    let mut lanes = isa.store(sum);
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += a * b;
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

//! Causal attention over caches, for one token and for many, in one arithmetic.
//!
//! A query takes its positions in tiles of 256 (`KV_TILE`), each with a softmax of its own (largest score, sum,
//! weighted values), and adds the tiles up in order, scaled to the largest score so far. That order belongs to the
//! position alone, so a result depends neither on the number of threads, nor on the tokens that are read together,
//! nor on other sequences. (A number that is not finite in a later token of the same span may make it one.)
//!
//! With `d = head_dim`, `n` positions, and keys and values as they are stored: a score lies within
//! `(d + 2) · 2⁻²⁴ · scale · Σ |q·k|` of the exact one, and for the same scores a component of the result lies within
//! `(min(n, 256) + 8 · n / 256 + 48) · 2⁻²⁴ · max|v|` of the exact one.

mod division;
mod kernel;

use super::Machine;
use crate::isa::{Isa, Op};
use bitnet_core::backend::AttentionShape;
use bitnet_core::kv::{KV_TILE, KvSpan};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::{Result, operands};
use division::{Job, Queries, jobs};
use kernel::{add_tile, finish, keep_scratch, partial_len, reset, take_scratch};

/// Pieces of work for each thread, so that one that is put aside does not hold up the others.
const PIECES: usize = 4;

/// See [`bitnet_core::backend::Backend::attention`].
pub(crate) fn attention(
    q: &BitNetTensor,
    spans: &[KvSpan<'_>],
    shape: AttentionShape,
    out: &mut BitNetTensor,
    machine: Machine<'_>,
) -> Result<()> {
    if operands::attention(q, spans, shape, out)? == 0 {
        return Ok(());
    }
    let jobs = jobs(q.f32()?, spans, shape, out.f32_mut()?)?;
    let tiles: usize = jobs.iter().map(|job| job.queries.tiles()).sum();
    let work: usize = jobs.iter().map(|job| job.queries.work()).sum();
    let threads = machine.threads.count();
    if jobs.len() < threads * PIECES && tiles > jobs.len() && threads > 1 {
        let ranges = machine.threads.ranges(tiles, work / tiles);
        if ranges.len() > 1 {
            return in_parts(jobs, &ranges, tiles, machine);
        }
    }
    let ranges = machine.threads.ranges(jobs.len(), work / jobs.len());
    let mut jobs = jobs.into_iter();
    let pieces = ranges.iter().map(|range| Whole(jobs.by_ref().take(range.len()).collect()));
    machine.threads.each(pieces.collect(), |piece| {
        machine.isa.run(piece);
        Ok(())
    })
}

/// Jobs fewer than threads: their tiles are divided among the threads, and added up afterwards.
fn in_parts(
    jobs: Vec<Job<'_>>,
    ranges: &[std::ops::Range<usize>],
    tiles: usize,
    machine: Machine<'_>,
) -> Result<()> {
    let mut partials = kernel::take_partials();
    let len = |job: &Job<'_>| job.queries.tiles() * partial_len(&job.queries);
    partials.resize(jobs.iter().map(len).sum(), 0.0);
    let mut units = Vec::with_capacity(tiles);
    let mut rest = &mut partials[..];
    for job in &jobs {
        for tile in 0..job.queries.tiles() {
            let (partial, tail) = rest.split_at_mut(partial_len(&job.queries));
            rest = tail;
            units.push((job.queries, tile, partial));
        }
    }
    let mut units = units.into_iter();
    let pieces = ranges.iter().map(|range| Tiles(units.by_ref().take(range.len()).collect()));
    machine.threads.each(pieces.collect(), |piece| {
        machine.isa.run(piece);
        Ok(())
    })?;
    let mut rest = &partials[..];
    let mut sums = Vec::with_capacity(jobs.len());
    for job in jobs {
        let (own, tail) = rest.split_at(len(&job));
        rest = tail;
        sums.push(Sum { job, partials: own });
    }
    let ranges = machine.threads.ranges(sums.len(), partials.len() / sums.len().max(1));
    let mut sums = sums.into_iter();
    let pieces = ranges.iter().map(|range| Sums(sums.by_ref().take(range.len()).collect()));
    machine.threads.each(pieces.collect(), |piece| {
        machine.isa.run(piece);
        Ok(())
    })?;
    kernel::keep_partials(partials);
    Ok(())
}

/// Jobs that one thread does from beginning to end.
struct Whole<'a>(Vec<Job<'a>>);

impl Op for Whole<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let mut scratch = take_scratch();
        let (mut state, mut partial) = scratch.take_sums();
        for mut job in self.0 {
            scratch.load(&job.queries);
            reset(&mut state, &job.queries);
            partial.resize(partial_len(&job.queries), 0.0);
            for tile in 0..job.queries.tiles() {
                kernel::tile(isa, &job.queries, tile, &mut scratch, &mut partial);
                add_tile(&mut state, &partial, &job.queries);
            }
            finish(&state, &mut job);
        }
        scratch.keep_sums(state, partial);
        keep_scratch(scratch);
    }
}

/// Tiles, each with the place of its result.
struct Tiles<'a>(Vec<(Queries<'a>, usize, &'a mut [f32])>);

impl Op for Tiles<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let mut scratch = take_scratch();
        for (index, (queries, tile, partial)) in self.0.into_iter().enumerate() {
            // The tiles of one job follow one another.
            if index == 0 || tile == 0 {
                scratch.load(&queries);
            }
            kernel::tile(isa, &queries, tile, &mut scratch, partial);
        }
        keep_scratch(scratch);
    }
}

/// A job with the results of all its tiles.
struct Sum<'a> {
    job: Job<'a>,
    partials: &'a [f32],
}

struct Sums<'a>(Vec<Sum<'a>>);

impl Op for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let mut scratch = take_scratch();
        let (mut state, partial) = scratch.take_sums();
        for mut sum in self.0 {
            let queries = sum.job.queries;
            reset(&mut state, &queries);
            for partial in sum.partials.chunks_exact(partial_len(&queries)) {
                add_tile(&mut state, partial, &queries);
            }
            finish(&state, &mut sum.job);
        }
        scratch.keep_sums(state, partial);
        keep_scratch(scratch);
    }
}

/// Tiles that `positions` positions fill or begin.
fn tiles(positions: usize) -> usize {
    positions.div_ceil(KV_TILE)
}

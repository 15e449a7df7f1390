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
mod mix;
mod partial;
mod pass;
mod scratch;

use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::exec::ExecContext;
use crate::isa::{Isa, Op};
use crate::threads::{Pieces, Ranges};
use bitnet_core::Result;
use bitnet_core::backend::AttentionShape;
use bitnet_core::backend::shape_check;
use bitnet_core::kv::{KV_TILE, KvSpan};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use division::{Job, Queries, jobs};
use kernel::Partial;
use partial::{add_tile, finish, partial_len, reset};
use scratch::Room;

/// Pieces of work for each thread, so that one that is put aside does not hold up the others.
const PIECES: usize = 4;

/// See [`bitnet_core::backend::Operations::attention`].
pub(crate) fn attention(
    q: &BitNetTensor,
    spans: &[KvSpan<'_>],
    shape: AttentionShape,
    out: &mut BitNetTensor,
    exec: ExecContext<'_>,
) -> Result<()> {
    if shape_check::attention(q, spans, shape, out)? == 0 {
        return Ok(());
    }
    let mut jobs = jobs(q.f32()?, spans, shape, out.f32_mut()?);
    let read: usize = spans.iter().map(|span| span.bytes_within(shape.window)).sum();
    exec.traffic.cache_bytes.fetch_add(read as u64, Ordering::Relaxed);
    let tiles: usize = jobs.iter().map(|job| job.queries.tiles().len()).sum();
    let work: usize = jobs.iter().map(|job| job.queries.work()).sum();
    let threads = exec.threads.count();
    if jobs.len() < threads * PIECES && tiles > jobs.len() && threads > 1 {
        let ranges = exec.threads.ranges(tiles, work / tiles);
        if ranges.len() > 1 {
            return in_parts(&mut jobs, ranges, tiles, exec);
        }
    }
    let ranges = exec.threads.ranges(jobs.len(), work / jobs.len());
    exec.threads.each(cut(&mut jobs, ranges), |jobs| {
        exec.isa.run_shared(Whole { jobs, pool: exec.scratch_pool })
    })
}

/// Items, cut into as many pieces as there are ranges; they follow one another.
fn cut<T>(items: &mut [T], ranges: Ranges) -> Pieces<&mut [T]> {
    let mut rest = items;
    let piece = |range: Range<usize>| {
        let (piece, tail) = std::mem::take(&mut rest).split_at_mut(range.len());
        rest = tail;
        piece
    };
    ranges.map(piece).collect()
}

/// A tile of a job, with the place of its result.
type Unit<'a> = (Queries<'a>, usize, &'a mut [f32]);

/// Jobs fewer than threads: their tiles are divided among the threads, and added up afterwards.
fn in_parts(
    jobs: &mut [Job<'_>],
    ranges: Ranges,
    tiles: usize,
    exec: ExecContext<'_>,
) -> Result<()> {
    let pool = exec.scratch_pool;
    let len = |job: &Job<'_>| job.queries.tiles().len() * partial_len(&job.queries);
    let mut partials = PoolBuffer::scratch(jobs.iter().map(len).sum(), pool)?;
    let mut units: Vec<Unit<'_>> = Vec::with_capacity(tiles);
    let mut rest: &mut [f32] = &mut partials;
    for job in &*jobs {
        for tile in job.queries.tiles() {
            let (partial, tail) = rest.split_at_mut(partial_len(&job.queries));
            rest = tail;
            units.push((job.queries, tile, partial));
        }
    }
    exec.threads
        .each(cut(&mut units, ranges), |units| exec.isa.run_shared(Tiles { units, pool }))?;
    let mut rest: &[f32] = &partials;
    let mut sums = Pieces::new();
    for job in jobs {
        let (own, tail) = rest.split_at(len(job));
        rest = tail;
        sums.push(Sum { job, partials: own });
    }
    let ranges = exec.threads.ranges(sums.len(), partials.len() / sums.len().max(1));
    exec.threads.each(cut(&mut sums, ranges), |sums| exec.isa.run_shared(Sums { sums, pool }))
}

/// Jobs that one thread does from beginning to end.
struct Whole<'a, 'b> {
    jobs: &'b mut [Job<'a>],
    pool: &'b HybridMemoryPool,
}

impl Op for Whole<'_, '_> {
    type Output = Result<()>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<()> {
        let mut room = Room::of(self.jobs.iter().map(|job| &job.queries), self.pool)?;
        for job in self.jobs {
            let (mut scratch, state, partial) = room.for_queries(&job.queries);
            scratch.load(isa, &job.queries);
            reset(state, &job.queries);
            for tile in job.queries.tiles() {
                let (queries, scratch, partial) = (&job.queries, &mut scratch, &mut *partial);
                isa.run(Partial { queries, tile, scratch, partial });
                add_tile(state, partial, &job.queries);
            }
            finish(state, job);
        }
        Ok(())
    }
}

/// Tiles, each with the place of its result.
struct Tiles<'a, 'b> {
    units: &'b mut [Unit<'a>],
    pool: &'b HybridMemoryPool,
}

impl Op for Tiles<'_, '_> {
    type Output = Result<()>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Result<()> {
        let mut room = Room::of(self.units.iter().map(|(queries, ..)| queries), self.pool)?;
        for (index, (queries, tile, partial)) in self.units.iter_mut().enumerate() {
            let (mut scratch, ..) = room.for_queries(queries);
            // The tiles of one job follow one another.
            if index == 0 || *tile == queries.tiles().start {
                scratch.load(isa, queries);
            }
            isa.run(Partial { queries, tile: *tile, scratch: &mut scratch, partial });
        }
        Ok(())
    }
}

/// A job with the results of all its tiles.
struct Sum<'a, 'b> {
    job: &'b mut Job<'a>,
    partials: &'b [f32],
}

struct Sums<'a, 'b, 'c> {
    sums: &'c mut [Sum<'a, 'b>],
    pool: &'c HybridMemoryPool,
}

impl Op for Sums<'_, '_, '_> {
    type Output = Result<()>;

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) -> Result<()> {
        let most = self.sums.iter().map(|sum| partial_len(&sum.job.queries)).max().unwrap_or(0);
        let mut room = PoolBuffer::scratch(most, self.pool)?;
        for Sum { job, partials } in self.sums {
            let state = &mut room[..partial_len(&job.queries)];
            reset(state, &job.queries);
            for partial in partials.chunks_exact(state.len()) {
                add_tile(state, partial, &job.queries);
            }
            finish(state, job);
        }
        Ok(())
    }
}

/// Tiles that `positions` positions fill or begin.
fn tiles(positions: usize) -> usize {
    positions.div_ceil(KV_TILE)
}

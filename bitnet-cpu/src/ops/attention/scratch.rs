//! What a job of attention notes on the side: its queries in groups that share a pass, scores, and blocks as f32.

use std::ops::Range;

use super::division::Queries;
use super::partial::partial_len;
use crate::isa::{Isa, LANES};
use bitnet_core::Result;
use bitnet_core::kv::KV_TILE;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use smallvec::SmallVec;

/// Most queries that share a pass, on any level.
const GROUP: usize = 8;

/// Numbers from the scores of one query to those of the next: not a power of two, or the rows of a block would meet in
/// a few lines of a cache.
pub(super) const STRIDE: usize = KV_TILE + LANES;

/// Queries that share a pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    pub(super) row: usize,
    pub(super) size: usize,
    /// The end of the positions of the tile that each of them sees, in ascending order.
    pub(super) seen: [usize; GROUP],
    /// The start of these positions, in ascending order.
    pub(super) hidden: [usize; GROUP],
}

impl Group {
    /// Positions that some query sees of the `len` positions of the tile from `from` on, counted from there.
    #[inline(always)]
    pub(super) fn some(&self, from: usize, len: usize) -> Range<usize> {
        within(self.hidden[0]..self.seen[self.size - 1], from, len)
    }

    /// Those that every query sees.
    #[inline(always)]
    pub(super) fn every(&self, from: usize, len: usize) -> Range<usize> {
        within(self.hidden[self.size - 1]..self.seen[0], from, len)
    }

    /// Those that query `member` sees.
    #[inline(always)]
    pub(super) fn of(&self, member: usize, from: usize, len: usize) -> Range<usize> {
        within(self.hidden[member]..self.seen[member], from, len)
    }
}

/// The part of some positions that lies in the `len` from `from` on, counted from there.
#[inline(always)]
fn within(positions: Range<usize>, from: usize, len: usize) -> Range<usize> {
    let start = positions.start.saturating_sub(from).min(len);
    start..positions.end.saturating_sub(from).min(len).max(start)
}

/// The groups of a tile; those of one token as a rule.
pub(super) type Groups = SmallVec<[Group; 8]>;

/// Memory for the queries of one job at a time.
pub(super) struct Room {
    floats: PoolBuffer<f32>,
    groups: Groups,
}

impl Room {
    /// For whichever of these queries need most.
    pub(super) fn of<'a>(
        jobs: impl Iterator<Item = &'a Queries<'a>>,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let most = jobs.map(|queries| lens(queries).iter().sum()).max().unwrap_or(0);
        Ok(Self { floats: PoolBuffer::scratch(most, pool)?, groups: Groups::new() })
    }

    /// Divided for some queries: the side notes, the sum of the tiles so far, and the result of one tile. What was
    /// written for the same queries before is still there.
    pub(super) fn for_queries(
        &mut self,
        queries: &Queries<'_>,
    ) -> (Scratch<'_>, &mut [f32], &mut [f32]) {
        let [q, scores, block, state, partial] = lens(queries);
        let (q, rest) = self.floats.split_at_mut(q);
        let (scores, rest) = rest.split_at_mut(scores);
        let (block, rest) = rest.split_at_mut(block);
        let (state, rest) = rest.split_at_mut(state);
        let scratch = Scratch { q, scores, block, groups: &mut self.groups };
        (scratch, state, &mut rest[..partial])
    }
}

/// Lengths of the parts of a [`Room`], in their order.
fn lens(queries: &Queries<'_>) -> [usize; 5] {
    let (rows, dim, width) = (queries.rows(), queries.shape.head_dim, queries.cache.width());
    let partial = partial_len(queries);
    let exact = [rows * dim, rows * STRIDE, width * KV_TILE];
    let [q, scores, block] = exact.map(|len| len.next_multiple_of(LANES));
    [q, scores, block, partial, partial]
}

/// What the kernel notes on the side of some queries.
pub(super) struct Scratch<'a> {
    /// Queries, in groups that share a pass; a group is `[head_dim, queries]`.
    pub(super) q: &'a mut [f32],
    /// Scores, then weights: `[queries, STRIDE]`.
    pub(super) scores: &'a mut [f32],
    /// A block of keys, or the values of a tile, as f32.
    pub(super) block: &'a mut [f32],
    /// The groups of queries, for the tile at hand.
    pub(super) groups: &'a mut Groups,
}

/// Queries of the next group when `rest` are left.
#[inline(always)]
fn group<I: Isa>(rest: usize) -> usize {
    const { assert!(I::SHARED_QUERIES <= GROUP) };
    match rest {
        _ if rest >= I::SHARED_QUERIES => I::SHARED_QUERIES,
        6.. => 6,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

/// The components of eight queries from `row` on, `[head_dim, 8]`.
#[inline(always)]
fn transpose<I: Isa>(isa: I, queries: &Queries<'_>, row: usize, out: &mut [[f32; GROUP]]) {
    for (start, out) in (0..).step_by(8).zip(out.chunks_mut(8)) {
        let mut members = [[0; 8]; GROUP];
        for (index, member) in members.iter_mut().enumerate() {
            let query = &queries.query(row + index)[start..];
            for (x, query) in member.iter_mut().zip(query) {
                *x = query.to_bits().cast_signed();
            }
        }
        for (out, members) in out.iter_mut().zip(isa.transpose8(members)) {
            *out = members.map(|x| f32::from_bits(x.cast_unsigned()));
        }
    }
}

impl Scratch<'_> {
    /// Takes the queries of a job, in groups.
    #[inline(always)]
    pub(super) fn load<I: Isa>(&mut self, isa: I, queries: &Queries<'_>) {
        let (rows, dim) = (queries.rows(), queries.shape.head_dim);
        let mut row = 0;
        while row < rows {
            let size = group::<I>(rows - row);
            let out = &mut self.q[row * dim..][..size * dim];
            match out.as_chunks_mut() {
                (out, []) if size == GROUP => transpose(isa, queries, row, out),
                _ => {
                    for member in 0..size {
                        let places = out[member..].iter_mut().step_by(size);
                        for (place, &x) in places.zip(queries.query(row + member)) {
                            *place = x;
                        }
                    }
                }
            }
            row += size;
        }
    }
}

/// Positions of the tile that begins at `start` which a query sees, counted from there.
#[inline(always)]
pub(super) fn seen(queries: &Queries<'_>, start: usize, row: usize) -> Range<usize> {
    within(queries.visible(row), start, KV_TILE)
}

/// Divides the queries into groups, for the tile that begins at `start`.
pub(super) fn divide<I: Isa>(queries: &Queries<'_>, start: usize, groups: &mut Groups) {
    let rows = queries.rows();
    groups.clear();
    let mut row = 0;
    while row < rows {
        let size = group::<I>(rows - row);
        let mut group = Group { row, size, seen: [0; GROUP], hidden: [0; GROUP] };
        for member in 0..size {
            let positions = seen(queries, start, row + member);
            (group.hidden[member], group.seen[member]) = (positions.start, positions.end);
        }
        groups.push(group);
        row += size;
    }
}

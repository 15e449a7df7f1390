//! One tile of keys and values against the queries of a job.
//!
//! Sixteen lanes are sixteen positions of the scores, then sixteen components of the values, so every sum runs along
//! one lane in the order of components or positions: the number of queries that share a pass does not change it.

use super::division::{Queries, TILE_PAGES};
use super::partial::split;
use super::scratch::{Group, STRIDE, Scratch, divide, seen};
use crate::isa::{Isa, LANES, Op, prefetch};
use crate::ops::dot::{F16, F32, Int8, Plain, Stored, fold};
use crate::ops::exp::exp;
use bitnet_core::kv::{KV_PAGE, KV_TILE, KvHead, KvType};

/// Most queries for which keys and values are converted as they are read; for more, a block is converted once.
const FEW: usize = 6;

/// The partial result of a tile for queries that the scratch holds. A function of its own, which is large.
pub(super) struct Partial<'a, 'b> {
    pub(super) queries: &'b Queries<'a>,
    pub(super) tile: usize,
    pub(super) scratch: &'b mut Scratch<'a>,
    pub(super) partial: &'b mut [f32],
}

impl Op for Partial<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { queries, tile, scratch, partial } = self;
        let pages = &queries.pages(tile);
        let start = tile * KV_TILE;
        match queries.cache.kind() {
            KvType::F32 => {
                let (k, v) = (
                    pages.map(|page| page.k.as_chunks().0),
                    pages.map(|page| page.v.as_chunks().0),
                );
                Tile::<F32> { queries, start, pages, k, v }.run(isa, scratch, partial);
            }
            KvType::F16 => {
                let (k, v) = (
                    pages.map(|page| page.k.as_chunks().0),
                    pages.map(|page| page.v.as_chunks().0),
                );
                Tile::<F16> { queries, start, pages, k, v }.run(isa, scratch, partial);
            }
            KvType::Int8 => {
                let (k, v) = (pages.map(|page| page.k), pages.map(|page| page.v));
                Tile::<Int8> { queries, start, pages, k, v }.run(isa, scratch, partial);
            }
        }
    }
}

/// A tile of keys and values.
struct Tile<'a, S: Stored> {
    queries: &'a Queries<'a>,
    /// The first position.
    start: usize,
    pages: &'a [KvHead<'a>; TILE_PAGES],
    k: [&'a [S::Raw]; TILE_PAGES],
    v: [&'a [S::Raw]; TILE_PAGES],
}

/// The blocks of a tile, each `[width, 16]` numbers.
#[inline(always)]
fn blocks<'a, T>(pages: &'a [&'a [T]; TILE_PAGES], width: usize) -> impl Iterator<Item = &'a [T]> {
    pages.iter().flat_map(move |page| page.chunks_exact(width * LANES))
}

impl<S: Stored> Tile<'_, S> {
    /// What depends on the type of the numbers stands here; the rest is shared by all types.
    #[inline(always)]
    fn run<I: Isa>(&self, isa: I, scratch: &mut Scratch<'_>, partial: &mut [f32]) {
        let Scratch { q, scores, block, groups } = scratch;
        let Self { queries, start, pages, .. } = *self;
        divide::<I>(queries, start, groups);
        let (rows, width, dim) = (queries.rows(), queries.cache.width(), queries.shape.head_dim);
        let seen = seen(queries, start, rows - 1);
        let convert = rows > FEW;
        let used = seen.div_ceil(LANES);
        // The block after each one: those of neighbouring pages are far apart, so the processor does not foresee them.
        let mut next = blocks(&self.k, width).take(used).chain(blocks(&self.v, width).take(used));
        next.next();
        for (index, k) in blocks(&self.k, width).take(used).enumerate() {
            let next = next.next().unwrap_or_default();
            if convert {
                let block = &mut block[..width * LANES];
                as_f32::<S, I>(isa, k, block);
                isa.run(Scores::<Plain> { k: block, next: &[], dim, index, groups, q, scores });
            } else {
                Scores::<S> { k, next, dim, index, groups, q, scores }.eval(isa);
            }
        }
        let (values, largest, sums) = split(partial, queries);
        isa.run(Weigh { queries, start, pages, scores, used: seen, largest, sums });
        values.fill(0.0);
        for (index, v) in blocks(&self.v, width).take(used).enumerate() {
            let next = next.next().unwrap_or_default();
            if convert {
                let columns = block.chunks_exact_mut(KV_TILE * LANES);
                for (column, v) in columns.zip(v.chunks_exact(LANES * LANES)) {
                    as_f32::<S, I>(isa, v, &mut column[index * LANES * LANES..]);
                }
            } else {
                mix_block::<S, I>(isa, [v, next], index, groups, scores, width, values);
            }
        }
        if convert {
            isa.run(MixTile { v: block, groups, weights: scores, width, values });
        }
    }
}

/// Scores of block `index` for every group that sees some of it.
struct Scores<'a, S: Stored> {
    k: &'a [S::Raw],
    /// The block that will be read next.
    next: &'a [S::Raw],
    /// Components of a key.
    dim: usize,
    index: usize,
    groups: &'a [Group],
    q: &'a [f32],
    scores: &'a mut [f32],
}

impl<S: Stored> Op for Scores<'_, S> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { k, next, dim, index, groups, q, scores } = self;
        for group in groups {
            let &Group { row, size, .. } = group;
            if group.most(index * LANES) > 0 {
                let q = &q[row * dim..(row + size) * dim];
                let scores = &mut scores[row * STRIDE..(row + size) * STRIDE];
                match size {
                    16 if I::SHARED_QUERIES == 16 => {
                        score::<S, I, 16>(isa, [k, next], q, index, scores)
                    }
                    6 => score::<S, I, 6>(isa, [k, next], q, index, scores),
                    4 => score::<S, I, 4>(isa, [k, next], q, index, scores),
                    2 => score::<S, I, 2>(isa, [k, next], q, index, scores),
                    _ => score::<S, I, 1>(isa, [k, next], q, index, scores),
                }
            }
        }
    }
}

/// Scores into weights, zero beyond what a query sees; the largest score and the sum of the weights of each.
struct Weigh<'a> {
    queries: &'a Queries<'a>,
    /// The first position.
    start: usize,
    pages: &'a [KvHead<'a>; TILE_PAGES],
    scores: &'a mut [f32],
    /// Positions that the last query sees.
    used: usize,
    largest: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Op for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let Self { queries, start, pages, scores, used, largest, sums } = self;
        let results = largest.iter_mut().zip(sums);
        for (row, (scores, (largest, sum))) in
            scores.chunks_exact_mut(STRIDE).zip(results).enumerate()
        {
            (*largest, *sum) = weigh(queries, start, pages, row, scores, used);
        }
    }
}

/// [`Weigh`] for one query.
#[inline(always)]
fn weigh(
    queries: &Queries<'_>,
    start: usize,
    pages: &[KvHead<'_>; TILE_PAGES],
    row: usize,
    scores: &mut [f32],
    used: usize,
) -> (f32, f32) {
    /// The scales of block `index` of the tile, if its type has any.
    fn scales_of(scales: &[f32], index: usize) -> Option<&[f32; LANES]> {
        scales.as_chunks().0.get(index % (KV_PAGE / LANES))
    }
    let seen = seen(queries, start, row);
    let scale = queries.shape.scale;
    scores[seen..used.next_multiple_of(LANES)].fill(f32::NEG_INFINITY);
    let (blocks, _) = scores[..used.next_multiple_of(LANES)].as_chunks_mut::<LANES>();
    let (own, others) = blocks.split_at_mut(seen.div_ceil(LANES));
    others.as_flattened_mut().fill(0.0);
    let mut top = [f32::NEG_INFINITY; LANES];
    for (index, block) in own.iter_mut().enumerate() {
        match scales_of(pages[index * LANES / KV_PAGE].k_scales, index) {
            Some(k_scales) => {
                for (x, k_scale) in block.iter_mut().zip(k_scales) {
                    *x *= k_scale * scale;
                }
            }
            None => block.iter_mut().for_each(|x| *x *= scale),
        }
        if (index + 1) * LANES > seen {
            block[seen - index * LANES..].fill(f32::NEG_INFINITY);
        }
        for (top, &x) in top.iter_mut().zip(&*block) {
            *top = if x > *top { x } else { *top };
        }
    }
    let largest = top.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0; LANES];
    for (index, block) in own.iter_mut().enumerate() {
        for (sum, x) in sums.iter_mut().zip(&mut *block) {
            *x = exp(*x - largest);
            *sum += *x;
        }
        if let Some(v_scales) = scales_of(pages[index * LANES / KV_PAGE].v_scales, index) {
            for (x, v_scale) in block.iter_mut().zip(v_scales) {
                *x *= v_scale;
            }
            if (index + 1) * LANES > seen {
                block[seen - index * LANES..].fill(0.0);
            }
        }
    }
    (largest, fold(&sums))
}

/// Adds the weighted values of block `index` for every group that sees some of it.
#[inline(always)]
fn mix_block<S: Stored, I: Isa>(
    isa: I,
    [v, next]: [&[S::Raw]; 2],
    index: usize,
    groups: &[Group],
    weights: &[f32],
    width: usize,
    values: &mut [f32],
) {
    let (lines, _) = v.as_chunks::<LANES>();
    let (chunks, _) = lines.as_chunks::<LANES>();
    let mut next = ahead(next, v);
    for (chunk, v) in chunks.iter().enumerate() {
        for _ in v {
            prefetch(next);
            next = next.wrapping_add(LANES);
        }
        for group in groups {
            if group.most(index * LANES) > 0 {
                let weights = &weights[group.row * STRIDE + index * LANES..];
                let values = &mut values[group.row * width + chunk * LANES..];
                mix_group::<S, I>(isa, v, index * LANES, group, weights, width, values);
            }
        }
    }
}

/// Adds the weighted values of a whole tile, `[width / LANES, KV_TILE, LANES]`, for every group: the sums of a group
/// stay in registers from the first position to the last.
struct MixTile<'a> {
    v: &'a [f32],
    groups: &'a [Group],
    weights: &'a [f32],
    width: usize,
    values: &'a mut [f32],
}

impl Op for MixTile<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { v, groups, weights, width, values } = self;
        for (chunk, v) in v.chunks_exact(KV_TILE * LANES).enumerate() {
            let (v, _) = v.as_chunks::<LANES>();
            for group in groups {
                let weights = &weights[group.row * STRIDE..];
                let values = &mut values[group.row * width + chunk * LANES..];
                mix_group::<Plain, I>(isa, v, 0, group, weights, width, values);
            }
        }
    }
}

/// Adds sixteen components of some values, those at `from` and the positions after it, for one group.
#[inline(always)]
fn mix_group<S: Stored, I: Isa>(
    isa: I,
    v: &[[S::Raw; LANES]],
    from: usize,
    group: &Group,
    weights: &[f32],
    width: usize,
    values: &mut [f32],
) {
    let v = &v[..group.most(from).min(v.len())];
    // A weight of 0 hides a value from a query that doesn't see it only if the value is finite.
    let partly_seen = &v[group.least(from).min(v.len())..];
    if partly_seen.iter().any(|v| isa.store(S::load(isa, v)).iter().any(|x| !x.is_finite())) {
        return isa.run(MixEach::<S> { v, from, group, weights, width, values });
    }
    match group.size {
        16 if I::SHARED_QUERIES == 16 => mix::<S, I, 16>(isa, v, weights, width, values),
        6 => mix::<S, I, 6>(isa, v, weights, width, values),
        4 => mix::<S, I, 4>(isa, v, weights, width, values),
        2 => mix::<S, I, 2>(isa, v, weights, width, values),
        _ => mix::<S, I, 1>(isa, v, weights, width, values),
    }
}

/// As [`mix_group`], query by query, with the values that each one sees.
struct MixEach<'a, S: Stored> {
    v: &'a [[S::Raw; LANES]],
    from: usize,
    group: &'a Group,
    weights: &'a [f32],
    width: usize,
    values: &'a mut [f32],
}

impl<S: Stored> Op for MixEach<'_, S> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { v, from, group, weights, width, values } = self;
        for (member, seen) in group.seen[..group.size].iter().enumerate() {
            let v = &v[..seen.saturating_sub(from).min(v.len())];
            let values = &mut values[member * width..];
            mix::<S, I, 1>(isa, v, &weights[member * STRIDE..], width, values);
        }
    }
}

/// A block as f32.
#[inline(always)]
fn as_f32<S: Stored, I: Isa>(isa: I, x: &[S::Raw], out: &mut [f32]) {
    for (out, x) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(x.as_chunks::<LANES>().0) {
        *out = isa.store(S::load(isa, x));
    }
}

/// Where to prefetch: the next block, or this one if there is none.
/// An address outside all pages costs a page walk a line.
#[inline(always)]
fn ahead<T>(next: &[T], this: &[T]) -> *const T {
    if next.is_empty() { this.as_ptr() } else { next.as_ptr() }
}

/// Dot products of `R` queries (`[head_dim, R]`) with the sixteen keys of a block.
#[inline(always)]
fn score<S: Stored, I: Isa, const R: usize>(
    isa: I,
    [k, next]: [&[S::Raw]; 2],
    q: &[f32],
    index: usize,
    scores: &mut [f32],
) {
    let mut sums = [isa.splat(0.0); R];
    let mut next = ahead(next, k);
    for (k, q) in k.as_chunks::<LANES>().0.iter().zip(q.as_chunks::<R>().0) {
        prefetch(next);
        next = next.wrapping_add(LANES);
        let k = S::load(isa, k);
        for (sum, &q) in sums.iter_mut().zip(q) {
            *sum = isa.mul_add(isa.splat(q), k, *sum);
        }
    }
    for (scores, sum) in scores.chunks_exact_mut(STRIDE).zip(sums) {
        scores[index * LANES..][..LANES].copy_from_slice(&isa.store(sum));
    }
}

/// Adds sixteen components of some values, weighted for `R` queries. Weights of a query are [`STRIDE`] apart from those
/// of the next, results `width`.
#[inline(always)]
fn mix<S: Stored, I: Isa, const R: usize>(
    isa: I,
    v: &[[S::Raw; LANES]],
    weights: &[f32],
    width: usize,
    values: &mut [f32],
) {
    let mut sums = [isa.splat(0.0); R];
    for (row, sum) in sums.iter_mut().enumerate() {
        if let Some(values) = values[row * width..].first_chunk() {
            *sum = isa.load(values);
        }
    }
    for (index, v) in v.chunks(LANES).enumerate() {
        // One length for all rows, so that every weight is at a fixed distance from the first.
        let weights = &weights[index * LANES..][..(R - 1) * STRIDE + LANES];
        for (position, v) in v.iter().enumerate().take(LANES) {
            let v = S::load(isa, v);
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = isa.mul_add(isa.splat(weights[row * STRIDE + position]), v, *sum);
            }
        }
    }
    for (row, sum) in sums.into_iter().enumerate() {
        values[row * width..][..LANES].copy_from_slice(&isa.store(sum));
    }
}

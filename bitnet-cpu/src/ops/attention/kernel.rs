//! One tile of keys and values against the queries of a job.
//!
//! Sixteen lanes are sixteen positions of the scores, then sixteen components of the values, so every sum runs along
//! one lane in the order of components or positions: the number of queries that share a pass does not change it.

use std::ops::Range;

use super::division::{Queries, TILE_PAGES};
use super::mix::{MixTile, mix_block};
use super::partial::split;
use super::pass::{ahead, per_line, together};
use super::scratch::{Group, STRIDE, Scratch, divide, seen};
use crate::isa::{Isa, LANES, Op, prefetch};
use crate::ops::dot::{F16, F32, Int8, Plain, Stored, fold};
use crate::ops::exp::exp;
use crate::ops::pieces::pieces;
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

impl<S: Stored> Tile<'_, S> {
    /// What depends on the type of the numbers stands here; the rest is shared by all types.
    #[inline(always)]
    fn run<I: Isa>(&self, isa: I, scratch: &mut Scratch<'_>, partial: &mut [f32]) {
        let Scratch { q, scores, block, groups } = scratch;
        let Self { queries, start, pages, .. } = *self;
        divide::<I>(queries, start, groups);
        let (rows, width) = (queries.rows(), queries.cache.width());
        let blocks = seen(queries, start, 0).start / LANES;
        let used = seen(queries, start, rows - 1).end.div_ceil(LANES);
        let convert = rows > FEW;
        for step in pieces(blocks..used, together::<I>()) {
            let first = (step.start, used);
            let (q, block) = (&**q, convert.then_some(&mut **block));
            match step.len() {
                2 => self.score_blocks::<I, 2>(isa, first, groups, q, block, scores),
                _ => self.score_blocks::<I, 1>(isa, first, groups, q, block, scores),
            }
        }
        let (values, largest, sums) = split(partial, queries);
        isa.run(Weigh { queries, start, pages, scores, used: used * LANES, largest, sums });
        values.fill(0.0);
        for index in blocks..used {
            let [v, next] = [index, index + 1].map(|index| self.block(used + index, used));
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

    /// Scores of `B` blocks from `index` on, of `used`; with `converted` they are converted to f32 there first.
    #[inline(always)]
    fn score_blocks<I: Isa, const B: usize>(
        &self,
        isa: I,
        (index, used): (usize, usize),
        groups: &[Group],
        q: &[f32],
        converted: Option<&mut [f32]>,
        scores: &mut [f32],
    ) {
        let (dim, len) = (self.queries.shape.head_dim, self.queries.cache.width() * LANES);
        if let Some(converted) = converted {
            let mut k: [&[f32]; B] = [&[]; B];
            for (at, (k, out)) in k.iter_mut().zip(converted.chunks_exact_mut(len)).enumerate() {
                as_f32::<S, I>(isa, self.block(index + at, used), out);
                *k = out;
            }
            let next = [&[][..]; B];
            return isa.run(Scores::<Plain, B> { k, next, dim, index, groups, q, scores });
        }
        let mut k: [&[S::Raw]; B] = [&[]; B];
        let mut next = k;
        for (at, (k, next)) in k.iter_mut().zip(&mut next).enumerate() {
            (*k, *next) = (self.block(index + at, used), self.block(index + at + B, used));
        }
        Scores::<S, B> { k, next, dim, index, groups, q, scores }.eval(isa);
    }

    /// Block `index`, `[width, 16]` numbers, of the `used` blocks of keys and the values that follow them; none behind
    /// the last one. Blocks of neighbouring pages are far apart, so the processor does not foresee the next one.
    #[inline(always)]
    fn block(&self, index: usize, used: usize) -> &[S::Raw] {
        const PER_PAGE: usize = KV_PAGE / LANES;
        let len = self.queries.cache.width() * LANES;
        let (pages, index) = if index < used { (&self.k, index) } else { (&self.v, index - used) };
        if index >= used {
            return &[];
        }
        &pages[index / PER_PAGE][index % PER_PAGE * len..][..len]
    }
}

/// Scores of `B` blocks from `index` on for every group that sees some of the first.
struct Scores<'a, S: Stored, const B: usize> {
    k: [&'a [S::Raw]; B],
    /// The blocks that will be read next.
    next: [&'a [S::Raw]; B],
    /// Components of a key.
    dim: usize,
    index: usize,
    groups: &'a [Group],
    q: &'a [f32],
    scores: &'a mut [f32],
}

impl<S: Stored, const B: usize> Op for Scores<'_, S, B> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { k, next, dim, index, groups, q, scores } = self;
        for group in groups {
            let &Group { row, size, .. } = group;
            if !group.some(index * LANES, B * LANES).is_empty() {
                let q = &q[row * dim..(row + size) * dim];
                let scores = &mut scores[row * STRIDE..(row + size) * STRIDE];
                let k = [k, next];
                match size {
                    8 if I::SHARED_QUERIES == 8 => score::<S, I, 8, B>(isa, k, q, index, scores),
                    6 => score::<S, I, 6, B>(isa, k, q, index, scores),
                    4 => score::<S, I, 4, B>(isa, k, q, index, scores),
                    2 => score::<S, I, 2, B>(isa, k, q, index, scores),
                    _ => score::<S, I, 1, B>(isa, k, q, index, scores),
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
    /// The end of the positions that the last query sees, rounded up to whole blocks.
    used: usize,
    largest: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Op for Weigh<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { queries, start, pages, scores, used, largest, sums } = self;
        let results = largest.iter_mut().zip(sums);
        for (row, (scores, (largest, sum))) in
            scores.chunks_exact_mut(STRIDE).zip(results).enumerate()
        {
            (*largest, *sum) = weigh(isa, queries, start, pages, row, scores, used);
        }
    }
}

/// [`Weigh`] for one query.
#[inline(always)]
fn weigh<I: Isa>(
    isa: I,
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
    /// Fills what of block `index` the query does not see.
    #[inline(always)]
    fn hide(block: &mut [f32; LANES], index: usize, seen: &Range<usize>, with: f32) {
        let first = index * LANES;
        if seen.start > first {
            block[..seen.start - first].fill(with);
        }
        if seen.end < first + LANES {
            block[seen.end - first..].fill(with);
        }
    }
    let seen = seen(queries, start, row);
    let scale = queries.shape.scale;
    let (blocks, _) = scores[..used].as_chunks_mut::<LANES>();
    let own = seen.start / LANES..seen.end.div_ceil(LANES);
    let own = if seen.is_empty() { 0..0 } else { own };
    let (seen_blocks, after) = blocks.split_at_mut(own.end);
    let (before, seen_blocks) = seen_blocks.split_at_mut(own.start);
    before.as_flattened_mut().fill(0.0);
    after.as_flattened_mut().fill(0.0);
    let mut top = isa.splat(f32::NEG_INFINITY);
    for (index, block) in own.clone().zip(&mut *seen_blocks) {
        match scales_of(pages[index * LANES / KV_PAGE].k_scales, index) {
            Some(k_scales) => {
                for (x, k_scale) in block.iter_mut().zip(k_scales) {
                    *x *= k_scale * scale;
                }
            }
            None => block.iter_mut().for_each(|x| *x *= scale),
        }
        hide(block, index, &seen, f32::NEG_INFINITY);
        top = isa.max(isa.load(block), top);
    }
    let largest = largest_of(isa.store(top));
    let mut sums = [0.0; LANES];
    for (index, block) in own.zip(seen_blocks) {
        for (sum, x) in sums.iter_mut().zip(&mut *block) {
            *x = exp(*x - largest);
            *sum += *x;
        }
        if let Some(v_scales) = scales_of(pages[index * LANES / KV_PAGE].v_scales, index) {
            for (x, v_scale) in block.iter_mut().zip(v_scales) {
                *x *= v_scale;
            }
            hide(block, index, &seen, 0.0);
        }
    }
    (largest, fold(&sums))
}

/// The largest of some numbers, none of which is NaN.
#[inline(always)]
fn largest_of(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        let (low, high) = lanes.split_at_mut(half);
        for (low, &high) in low.iter_mut().zip(&*high) {
            *low = if high > *low { high } else { *low };
        }
    }
    lanes[0]
}

/// A block as f32.
#[inline(always)]
fn as_f32<S: Stored, I: Isa>(isa: I, x: &[S::Raw], out: &mut [f32]) {
    for (out, x) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(x.as_chunks::<LANES>().0) {
        *out = isa.store(S::load(isa, x));
    }
}

/// Dot products of `R` queries (`[head_dim, R]`) with the sixteen keys of each of `B` blocks.
#[inline(always)]
fn score<S: Stored, I: Isa, const R: usize, const B: usize>(
    isa: I,
    [k, next]: [[&[S::Raw]; B]; 2],
    q: &[f32],
    index: usize,
    scores: &mut [f32],
) {
    let mut sums = [[isa.splat(0.0); B]; R];
    let mut firsts = [std::ptr::null(); B];
    let mut lines: [&[[S::Raw; LANES]]; B] = [&[]; B];
    let len = q.len() / R;
    for (block, (lines, first)) in lines.iter_mut().zip(&mut firsts).enumerate() {
        (*lines, *first) = (&k[block].as_chunks().0[..len], ahead(next[block], k[block]));
    }
    for (component, q) in q.as_chunks::<R>().0.iter().enumerate() {
        let mut keys = [isa.splat(0.0); B];
        for ((key, lines), first) in keys.iter_mut().zip(&lines).zip(&firsts) {
            if !S::CACHED && component % per_line::<S>() == 0 {
                prefetch(first.wrapping_add(component * LANES));
            }
            *key = S::load(isa, &lines[component]);
        }
        for (sums, &q) in sums.iter_mut().zip(q) {
            let q = isa.splat(q);
            for (sum, &key) in sums.iter_mut().zip(&keys) {
                *sum = isa.mul_add(q, key, *sum);
            }
        }
    }
    for (scores, sums) in scores.chunks_exact_mut(STRIDE).zip(sums) {
        for (scores, sum) in scores[index * LANES..].chunks_exact_mut(LANES).zip(sums) {
            scores.copy_from_slice(&isa.store(sum));
        }
    }
}

//! Values of a tile, weighted and added for the queries of a job.

use super::pass::{ahead, per_line, together};
use super::scratch::{Group, STRIDE};
use crate::isa::{Isa, LANES, Op, prefetch};
use crate::ops::dot::{Plain, Stored};
use crate::ops::pieces::pieces;
use bitnet_core::kv::KV_TILE;

/// Adds the weighted values of block `index` for every group that sees some of it.
#[inline(always)]
pub(super) fn mix_block<S: Stored, I: Isa>(
    isa: I,
    [v, next]: [&[S::Raw]; 2],
    index: usize,
    groups: &[Group],
    weights: &[f32],
    width: usize,
    values: &mut [f32],
) {
    let (lines, _) = v.as_chunks::<LANES>();
    let (columns, _) = lines.as_chunks::<LANES>();
    let mut next = ahead(next, v);
    for step in pieces(0..columns.len(), together::<I>()) {
        for _ in 0..step.len() * LANES / per_line::<S>() {
            prefetch(next);
            next = next.wrapping_add(LANES * per_line::<S>());
        }
        let values = &mut values[step.start * LANES..];
        let weights = &weights[index * LANES..];
        match &columns[step] {
            [a, b] => {
                let v: [&[_]; 2] = [a, b];
                mix_groups::<S, I, 2>(isa, v, index * LANES, groups, weights, width, values);
            }
            [a] => mix_groups::<S, I, 1>(isa, [a], index * LANES, groups, weights, width, values),
            _ => {}
        }
    }
}

/// Adds the weighted values of a whole tile, `[width / LANES, KV_TILE, LANES]`, for every group: the sums of a group
/// stay in registers from the first position to the last.
pub(super) struct MixTile<'a> {
    pub(super) v: &'a [f32],
    pub(super) groups: &'a [Group],
    pub(super) weights: &'a [f32],
    pub(super) width: usize,
    pub(super) values: &'a mut [f32],
}

impl Op for MixTile<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { v, groups, weights, width, values } = self;
        let column = |column: usize| v[column * KV_TILE * LANES..][..KV_TILE * LANES].as_chunks().0;
        for step in pieces(0..v.len() / (KV_TILE * LANES), together::<I>()) {
            let (first, values) = (step.start, &mut values[step.start * LANES..]);
            if step.len() == 2 {
                let v = [column(first), column(first + 1)];
                mix_groups::<Plain, I, 2>(isa, v, 0, groups, weights, width, values);
            } else {
                mix_groups::<Plain, I, 1>(isa, [column(first)], 0, groups, weights, width, values);
            }
        }
    }
}

/// Adds `B` columns of sixteen components of some values, those at `from` and the positions after it, for every group
/// that sees some of them.
#[inline(always)]
fn mix_groups<S: Stored, I: Isa, const B: usize>(
    isa: I,
    v: [&[[S::Raw; LANES]]; B],
    from: usize,
    groups: &[Group],
    weights: &[f32],
    width: usize,
    values: &mut [f32],
) {
    for group in groups {
        if !group.some(from, v[0].len()).is_empty() {
            let (weights, values) =
                (&weights[group.row * STRIDE..], &mut values[group.row * width..]);
            mix_group::<S, I, B>(isa, v, from, group, weights, width, values);
        }
    }
}

/// [`mix_groups`] for one group.
#[inline(always)]
fn mix_group<S: Stored, I: Isa, const B: usize>(
    isa: I,
    v: [&[[S::Raw; LANES]]; B],
    from: usize,
    group: &Group,
    weights: &[f32],
    width: usize,
    values: &mut [f32],
) {
    let len = v[0].len();
    let (some, every) = (group.some(from, len), group.every(from, len));
    // A weight of 0 hides a value from a query that doesn't see it only if the value is finite.
    let is_finite = |v: &_| isa.store(S::load(isa, v)).iter().all(|x| x.is_finite());
    if some != every {
        let first = some.start..every.start.clamp(some.start, some.end);
        let last = every.end.clamp(first.end, some.end)..some.end;
        if !v.iter().all(|v| v[first.clone()].iter().chain(&v[last.clone()]).all(is_finite)) {
            return isa.run(MixEach::<S, B> { v, from, group, weights, width, values });
        }
    }
    let weights = &weights[some.start..];
    let mut v = v;
    for v in &mut v {
        *v = &v[some.clone()];
    }
    match group.size {
        8 if I::SHARED_QUERIES == 8 => mix::<S, I, 8, B>(isa, v, weights, width, values),
        6 => mix::<S, I, 6, B>(isa, v, weights, width, values),
        4 => mix::<S, I, 4, B>(isa, v, weights, width, values),
        2 => mix::<S, I, 2, B>(isa, v, weights, width, values),
        _ => mix::<S, I, 1, B>(isa, v, weights, width, values),
    }
}

/// As [`mix_group`], query by query, with the values that each one sees.
struct MixEach<'a, S: Stored, const B: usize> {
    v: [&'a [[S::Raw; LANES]]; B],
    from: usize,
    group: &'a Group,
    weights: &'a [f32],
    width: usize,
    values: &'a mut [f32],
}

impl<S: Stored, const B: usize> Op for MixEach<'_, S, B> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { v, from, group, weights, width, values } = self;
        for member in 0..group.size {
            let seen = group.of(member, from, v[0].len());
            let weights = &weights[member * STRIDE + seen.start..];
            let mut v = v;
            for v in &mut v {
                *v = &v[seen.clone()];
            }
            let values = &mut values[member * width..];
            mix::<S, I, 1, B>(isa, v, weights, width, values);
        }
    }
}

/// Adds sixteen components of each of `B` columns of some values, weighted for `R` queries. Weights of a query are
/// [`STRIDE`] apart from those of the next, results `width`.
#[inline(always)]
fn mix<S: Stored, I: Isa, const R: usize, const B: usize>(
    isa: I,
    v: [&[[S::Raw; LANES]]; B],
    weights: &[f32],
    width: usize,
    values: &mut [f32],
) {
    const { assert!(B == 1 || B == 2) };
    // Arrays of constant size: sums in arrays of which a part is copied would not stay in registers.
    let mut sums = [[isa.splat(0.0); B]; R];
    for (row, sums) in sums.iter_mut().enumerate() {
        let Some(values) = values[row * width..].as_chunks().0.first_chunk::<B>() else { return };
        for (sum, values) in sums.iter_mut().zip(values) {
            *sum = isa.load(values);
        }
    }
    let seen = v[0].len();
    // A window holds the weight of a position for each query, at distances that are constants.
    let weights = &weights[..(R - 1) * STRIDE + seen];
    let windows = weights.windows((R - 1) * STRIDE + 1);
    for ((weights, first), last) in windows.zip(v[0]).zip(&v[B - 1][..seen]) {
        let mut components = [isa.splat(0.0); B];
        for (component, line) in components.iter_mut().zip([first, last]) {
            *component = S::load(isa, line);
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            let weight = isa.splat(weights[row * STRIDE]);
            for (sum, &component) in sums.iter_mut().zip(&components) {
                *sum = isa.mul_add(weight, component, *sum);
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        let values = values[row * width..].as_chunks_mut().0.first_chunk_mut::<B>();
        let Some(values) = values else { return };
        for (values, sum) in values.iter_mut().zip(sums) {
            *values = isa.store(sum);
        }
    }
}

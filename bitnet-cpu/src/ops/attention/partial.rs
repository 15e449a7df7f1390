//! Partial results of attention: what some tiles contribute to some queries.
//!
//! A partial result of `n` queries is `[n, width]` weighted values, `[n]` largest scores, `[n]` sums of weights.

use super::division::{Job, Queries};
use crate::ops::exp::exp;

/// Length of a partial result.
pub(super) fn partial_len(queries: &Queries<'_>) -> usize {
    queries.rows() * (queries.cache.width() + 2)
}

/// A partial result that has seen nothing.
pub(super) fn reset(state: &mut [f32], queries: &Queries<'_>) {
    state.fill(0.0);
    let rows = queries.rows();
    let from = rows * queries.cache.width();
    state[from..from + rows].fill(f32::NEG_INFINITY);
}

/// Values, largest scores and sums of a partial result.
#[inline(always)]
pub(super) fn split<'a>(
    partial: &'a mut [f32],
    queries: &Queries<'_>,
) -> (&'a mut [f32], &'a mut [f32], &'a mut [f32]) {
    let (values, rest) = partial.split_at_mut(queries.rows() * queries.cache.width());
    let (largest, sums) = rest.split_at_mut(queries.rows());
    (values, largest, sums)
}

/// Adds the partial result of a tile.
#[inline(always)]
pub(super) fn add_tile(state: &mut [f32], partial: &[f32], queries: &Queries<'_>) {
    let (rows, width) = (queries.rows(), queries.cache.width());
    let (values, largest, sums) = split(state, queries);
    let (new_values, rest) = partial.split_at(rows * width);
    let (new_largest, new_sums) = rest.split_at(rows);
    for (row, (values, new)) in
        values.chunks_exact_mut(width).zip(new_values.chunks_exact(width)).enumerate()
    {
        if new_sums[row] == 0.0 {
            // This query sees nothing of the tile.
            continue;
        }
        let top = largest[row].max(new_largest[row]);
        let (old_factor, new_factor) = (
            if sums[row] == 0.0 { 0.0 } else { exp(largest[row] - top) },
            exp(new_largest[row] - top),
        );
        for (value, new) in values.iter_mut().zip(new) {
            *value = *value * old_factor + new * new_factor;
        }
        sums[row] = sums[row] * old_factor + new_sums[row] * new_factor;
        largest[row] = top;
    }
}

/// The result: weighted values by their weight.
#[inline(always)]
pub(super) fn finish(state: &[f32], job: &mut Job<'_>) {
    let (rows, width, dim) =
        (job.queries.rows(), job.queries.cache.width(), job.queries.shape.head_dim);
    let sums = &state[rows * (width + 1)..];
    let places = job.out.iter_mut().flat_map(|out| out.chunks_exact_mut(dim));
    for ((out, values), sum) in places.zip(state.chunks_exact(width)).zip(sums) {
        let factor = 1.0 / sum;
        for (out, value) in out.iter_mut().zip(values) {
            *out = value * factor;
        }
    }
}

//! The passes over the planes and over the approximate logits.

use std::ops::Range;

use super::int4_dots::int4_dots;
use super::int4_planes::Int4Planes;
use super::query::QuantizedState;
use crate::exec::ExecContext;
use crate::isa::{Isa, LANES, NibbleBlock, Op};
use crate::threads::Pieces;
use bitnet_core::Result;

/// Rows between the codes in use and those that are prefetched.
const PREFETCH_DISTANCE: usize = 2;

/// Computes the approximate logits of all rows for each query into its slice
/// (`[rows]`), in one pass over the first plane.
pub(super) fn first(
    planes: &Int4Planes,
    mut queries: Vec<(&QuantizedState, &mut [f32])>,
    exec: ExecContext<'_>,
) -> Result<()> {
    let mut pieces = Pieces::new();
    for rows in exec.threads.ranges(planes.rows(), planes.blocks() * 16 * queries.len()) {
        let mut of_rows = Vec::with_capacity(queries.len());
        for (query, rest) in &mut queries {
            let (out, tail) = std::mem::take(rest).split_at_mut(rows.len());
            *rest = tail;
            of_rows.push((*query, out));
        }
        pieces.push(First { planes, queries: of_rows, rows });
    }
    exec.threads.each(pieces, |piece| {
        exec.isa.run(piece);
        Ok(())
    })
}

/// Returns nearer approximations of the logits of `rows`, by the second plane.
pub(super) fn second(
    planes: &Int4Planes,
    query: &QuantizedState,
    approximate: &[f32],
    rows: &[u32],
    exec: ExecContext<'_>,
) -> Result<Vec<f32>> {
    let mut nearer = vec![0f32; rows.len()];
    exec.for_each_rows(&mut nearer, 1, planes.blocks() * 16, &|range, out| {
        exec.isa.run(Second { planes, query, approximate, rows: &rows[range], out });
        Ok(())
    })?;
    Ok(nearer)
}

/// Computes `Σ code · q` of `count` rows for each query, and calls `each`
/// with the indices of row and query, and the sum.
#[inline(always)]
fn dots<I: Isa>(
    isa: I,
    plane: &[NibbleBlock],
    blocks: usize,
    queries: &[&QuantizedState],
    count: usize,
    row: impl Fn(usize) -> usize,
    mut each: impl FnMut(usize, usize, i64),
) {
    for index in 0..count {
        // Row after row: the processor's own prefetcher follows one stream.
        let at = row(index) * blocks;
        let ahead = row((index + PREFETCH_DISTANCE).min(count - 1)) * blocks;
        let (codes, mut ahead) = (&plane[at..at + blocks], &plane[ahead..ahead + blocks]);
        for (number, query) in queries.iter().enumerate() {
            let [high, low] = int4_dots(isa, codes, &query.blocks, ahead);
            // Once is enough: the lines of this row are in the cache.
            ahead = codes;
            each(index, number, 256 * i64::from(high) + i64::from(low));
        }
    }
}

/// Some rows of the first plane.
struct First<'a> {
    planes: &'a Int4Planes,
    queries: Vec<(&'a QuantizedState, &'a mut [f32])>,
    rows: Range<usize>,
}

impl Op for First<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { planes, queries, rows } = self;
        let scales = &planes.scales()[rows.clone()];
        let (plane, row) = (planes.first(), |index| rows.start + index);
        let (queries, mut out): (Vec<_>, Vec<_>) = queries.into_iter().unzip();
        dots(isa, plane, planes.blocks(), &queries, rows.len(), row, |index, number, sum| {
            let steps = (65536 * sum - queries[number].centre) as f64;
            let logit = f64::from(scales[index]) * (queries[number].unit * steps);
            out[number][index] = logit as f32;
        });
    }
}

/// Some rows of the second plane.
struct Second<'a> {
    planes: &'a Int4Planes,
    query: &'a QuantizedState,
    approximate: &'a [f32],
    rows: &'a [u32],
    out: &'a mut [f32],
}

impl Op for Second<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { planes, query, approximate, rows, out } = self;
        let row = |index: usize| rows[index] as usize;
        let plane = planes.second();
        dots(isa, plane, planes.blocks(), &[query], out.len(), row, |index, _, sum| {
            let steps = 4096 * sum - 30720 * query.sum;
            let scale = f64::from(planes.scales()[row(index)]);
            let more = scale * (query.unit * steps as f64);
            out[index] = (f64::from(approximate[row(index)]) + more) as f32;
        });
    }
}

/// The rows of the `count` largest of some numbers, in no order.
pub(super) struct Largest<'a> {
    pub(super) of: &'a [f32],
    pub(super) count: usize,
}

impl Op for Largest<'_> {
    type Output = Vec<u32>;

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) -> Vec<u32> {
        let room = 2 * self.count + LANES;
        let mut found: Vec<(f32, u32)> = Vec::with_capacity(room);
        let mut least = f32::NEG_INFINITY;
        for (chunk, numbers) in self.of.chunks(LANES).enumerate() {
            if !numbers.iter().fold(false, |any, &n| any | (n > least)) {
                continue;
            }
            for (index, &number) in numbers.iter().enumerate() {
                if number > least {
                    found.push((number, (chunk * LANES + index) as u32));
                }
            }
            if found.len() + LANES > room {
                least = self.cut(&mut found);
            }
        }
        if found.len() > self.count {
            self.cut(&mut found);
        }
        found.into_iter().map(|(_, row)| row).collect()
    }
}

impl Largest<'_> {
    /// Drops all but the largest; returns the least of them.
    fn cut(&self, found: &mut Vec<(f32, u32)>) -> f32 {
        found.select_nth_unstable_by(self.count - 1, |a, b| b.0.total_cmp(&a.0));
        found.truncate(self.count);
        found[self.count - 1].0
    }
}

/// The rows, in order, whose logits may reach `floor`: `number + scale · margin` does.
pub(super) struct Reaching<'a> {
    pub(super) of: &'a [f32],
    pub(super) scales: &'a [f32],
    pub(super) margin: f32,
    pub(super) floor: f32,
}

impl Op for Reaching<'_> {
    type Output = Vec<u32>;

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) -> Vec<u32> {
        let Self { of, scales, margin, floor } = self;
        let mut rows = Vec::new();
        for (chunk, (numbers, scales)) in of.chunks(LANES).zip(scales.chunks(LANES)).enumerate() {
            let reaches = |(&number, &scale): (&f32, &f32)| number + scale * margin >= floor;
            if !numbers.iter().zip(scales).fold(false, |any, of| any | reaches(of)) {
                continue;
            }
            for (index, of) in numbers.iter().zip(scales).enumerate() {
                if reaches(of) {
                    rows.push((chunk * LANES + index) as u32);
                }
            }
        }
        rows
    }
}

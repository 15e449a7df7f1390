//! The passes over the planes and over the approximate logits.

use std::ops::Range;

use super::super::Machine;
use super::int4_planes::Int4Planes;
use super::query::Query;
use crate::isa::{Isa, LANES, NibbleBlock, Op, nibble_dots};
use crate::threads::Pieces;
use bitnet_core::Result;

/// Rows by which codes are asked for before they are needed.
const AHEAD: usize = 2;

/// The approximate logits of all rows into `out` (`[rows]`), by the first plane.
pub(super) fn first(
    planes: &Int4Planes,
    query: &Query,
    out: &mut [f32],
    machine: Machine<'_>,
) -> Result<()> {
    let mut rest = out;
    let mut pieces = Pieces::new();
    for rows in machine.threads.ranges(planes.rows(), planes.blocks() * 16) {
        let (out, tail) = rest.split_at_mut(rows.len());
        rest = tail;
        pieces.push(First { planes, query, rows, out });
    }
    machine.threads.each(pieces, |piece| {
        machine.isa.run(piece);
        Ok(())
    })
}

/// Nearer approximations of the logits of `rows`, by the second plane.
pub(super) fn second(
    planes: &Int4Planes,
    query: &Query,
    approximate: &[f32],
    rows: &[u32],
    machine: Machine<'_>,
) -> Result<Vec<f32>> {
    let mut nearer = vec![0f32; rows.len()];
    let mut rest = &mut nearer[..];
    let mut pieces = Pieces::new();
    for range in machine.threads.ranges(rows.len(), planes.blocks() * 16) {
        let (out, tail) = rest.split_at_mut(range.len());
        rest = tail;
        pieces.push(Second { planes, query, approximate, rows: &rows[range], out });
    }
    machine.threads.each(pieces, |piece| {
        machine.isa.run(piece);
        Ok(())
    })?;
    Ok(nearer)
}

/// `Σ code · q` of `rows`, given to `each` with the index of the row.
#[inline(always)]
fn dots<I: Isa>(
    isa: I,
    plane: &[NibbleBlock],
    query: &Query,
    count: usize,
    row: impl Fn(usize) -> usize,
    mut each: impl FnMut(usize, i64),
) {
    let blocks = query.blocks.len();
    for index in 0..count {
        // One row after another, and the one after the next asked for: the processor's own prefetching follows one stream.
        let at = row(index) * blocks;
        let ahead = row((index + AHEAD).min(count - 1)) * blocks;
        let (codes, ahead) = (&plane[at..at + blocks], &plane[ahead..ahead + blocks]);
        let [high, low] = nibble_dots(isa, codes, &query.blocks, ahead);
        each(index, 256 * i64::from(high) + i64::from(low));
    }
}

/// Some rows of the first plane.
struct First<'a> {
    planes: &'a Int4Planes,
    query: &'a Query,
    rows: Range<usize>,
    out: &'a mut [f32],
}

impl Op for First<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { planes, query, rows, out } = self;
        let scales = &planes.scales()[rows.clone()];
        let (plane, row) = (planes.first(), |index| rows.start + index);
        dots(isa, plane, query, out.len(), row, |index, sum| {
            let steps = 65536 * sum - query.centre;
            out[index] = (f64::from(scales[index]) * (query.unit * steps as f64)) as f32;
        });
    }
}

/// Some rows of the second plane.
struct Second<'a> {
    planes: &'a Int4Planes,
    query: &'a Query,
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
        dots(isa, planes.second(), query, out.len(), row, |index, sum| {
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
        let mut kept: Vec<(f32, u32)> = Vec::with_capacity(room);
        let mut least = f32::NEG_INFINITY;
        for (chunk, numbers) in self.of.chunks(LANES).enumerate() {
            if !numbers.iter().fold(false, |any, &n| any | (n > least)) {
                continue;
            }
            for (index, &number) in numbers.iter().enumerate() {
                if number > least {
                    kept.push((number, (chunk * LANES + index) as u32));
                }
            }
            if kept.len() + LANES > room {
                least = self.cut(&mut kept);
            }
        }
        if kept.len() > self.count {
            self.cut(&mut kept);
        }
        kept.into_iter().map(|(_, row)| row).collect()
    }
}

impl Largest<'_> {
    /// Leaves the largest; the least of them.
    fn cut(&self, kept: &mut Vec<(f32, u32)>) -> f32 {
        kept.select_nth_unstable_by(self.count - 1, |a, b| b.0.total_cmp(&a.0));
        kept.truncate(self.count);
        kept[self.count - 1].0
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

//! The passes over the planes and over the approximate logits.

use std::ops::Range;

use super::int4_dots::int4_dots;
use super::int4_planes::Int4Planes;
use super::query::QuantizedState;
use crate::exec::ExecContext;
use crate::isa::{Isa, LANES, Op, WideBlock};
use crate::ops::pieces::pieces;
use crate::threads::Pieces;
use bitnet_core::Result;
use bitnet_core::memory::PoolBuffer;

/// Rows between the codes in use and those that are prefetched.
const PREFETCH_DISTANCE: usize = 2;

/// Queries that a row of codes meets at once.
const TOGETHER: usize = 4;

/// Rows that meet some queries before the next queries are taken: their codes stay in the nearest caches.
const ROWS: usize = 64;

/// Computes the approximate logits of all rows for each query into its slice (`[rows]`), in one pass over the first
/// plane.
///
/// # Errors
/// [`bitnet_core::Error::OutOfMemory`].
pub(super) fn first(
    planes: &Int4Planes,
    queries: Vec<(&QuantizedState, &mut [f32])>,
    exec: ExecContext<'_>,
) -> Result<()> {
    let work = planes.blocks() * 16 * queries.len();
    let (queries, mut rest): (Vec<_>, Vec<_>) = queries.into_iter().unzip();
    let group = |queries| QueryGroup::new(queries, exec);
    let groups = queries.chunks(TOGETHER).map(group).collect::<Result<Vec<_>>>()?;
    let mut pieces = Pieces::new();
    for rows in exec.threads.ranges(planes.rows(), work) {
        let mut out = Vec::with_capacity(rest.len());
        for rest in &mut rest {
            let (own, tail) = std::mem::take(rest).split_at_mut(rows.len());
            *rest = tail;
            out.push(own);
        }
        pieces.push(First { planes, groups: &groups, out, rows });
    }
    exec.threads.each(pieces, |piece| {
        exec.isa.run(piece);
        Ok(())
    })
}

/// Up to [`TOGETHER`] queries.
struct QueryGroup<'a> {
    queries: &'a [&'a QuantizedState],
    /// Block 0 of each query, then block 1, ...
    blocks: PoolBuffer<WideBlock>,
}

impl<'a> QueryGroup<'a> {
    fn new(queries: &'a [&'a QuantizedState], exec: ExecContext<'_>) -> Result<Self> {
        let count = queries.len();
        let len = queries.iter().map(|query| query.blocks.len()).sum();
        // Every block is written below.
        let mut blocks = PoolBuffer::scratch(len, exec.scratch_pool)?;
        for (index, query) in queries.iter().enumerate() {
            let places = blocks.iter_mut().skip(index).step_by(count);
            places.zip(&*query.blocks).for_each(|(place, block)| *place = *block);
        }
        Ok(Self { queries, blocks })
    }

    /// Computes the approximate logits of rows `rows.start + part` for all `Q` queries into `out[query][part]`.
    #[inline(always)]
    fn logits<I: Isa, const Q: usize>(
        &self,
        isa: I,
        planes: &Int4Planes,
        rows: &Range<usize>,
        part: Range<usize>,
        out: &mut [&mut [f32]],
    ) {
        let (plane, blocks) = (planes.first(), planes.blocks());
        let x = self.blocks.as_chunks::<Q>().0;
        for index in part {
            // Row after row: the processor's own prefetcher follows one stream.
            let row = rows.start + index;
            let ahead = (row + PREFETCH_DISTANCE).min(rows.end - 1) * blocks;
            let codes = &plane[row * blocks..][..blocks];
            let sums = int4_dots::<I, Q>(isa, codes, x, &plane[ahead..ahead + blocks]);
            let scale = f64::from(planes.scales()[row]);
            for ((out, query), sums) in out.iter_mut().zip(self.queries).zip(sums) {
                let steps = (65536 * joined(sums) - query.centre) as f64;
                out[index] = (scale * (query.unit * steps)) as f32;
            }
        }
    }
}

/// `Σ code · q` from its sums over both parts of `q`.
#[inline(always)]
fn joined([high, low]: [i32; 2]) -> i64 {
    256 * i64::from(high) + i64::from(low)
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

/// Some rows of the first plane.
struct First<'a> {
    planes: &'a Int4Planes,
    groups: &'a [QueryGroup<'a>],
    /// Of each query.
    out: Vec<&'a mut [f32]>,
    rows: Range<usize>,
}

impl Op for First<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { planes, groups, mut out, rows } = self;
        for part in pieces(0..rows.len(), ROWS) {
            for (group, out) in groups.iter().zip(out.chunks_mut(TOGETHER)) {
                let part = part.clone();
                match out.len() {
                    1 => group.logits::<I, 1>(isa, planes, &rows, part, out),
                    2 => group.logits::<I, 2>(isa, planes, &rows, part, out),
                    3 => group.logits::<I, 3>(isa, planes, &rows, part, out),
                    _ => group.logits::<I, TOGETHER>(isa, planes, &rows, part, out),
                }
            }
        }
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
        let (plane, blocks) = (planes.second(), planes.blocks());
        let codes = |index: usize| &plane[rows[index] as usize * blocks..][..blocks];
        let (x, last) = (query.blocks.as_chunks::<1>().0, rows.len().saturating_sub(1));
        for (index, (out, &row)) in out.iter_mut().zip(rows).enumerate() {
            let ahead = codes((index + PREFETCH_DISTANCE).min(last));
            let [sums] = int4_dots(isa, codes(index), x, ahead);
            let steps = 4096 * joined(sums) - 30720 * query.sum;
            let scale = f64::from(planes.scales()[row as usize]);
            let more = scale * (query.unit * steps as f64);
            *out = (f64::from(approximate[row as usize]) + more) as f32;
        }
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

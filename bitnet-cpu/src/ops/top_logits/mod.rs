//! The largest logits of a dense head from few bytes: 4-bit codes of all rows, 4 bits more of the candidates, and the
//! stored rows of those that remain.
//!
//! ```text
//! 1  all rows, first plane        approximate logits
//! 2  the best of them, stored     exact logits; the count-th largest is a floor
//! 3  rows that may reach it       both planes: better approximations
//! 4  rows that still may          exact logits, by the kernel of `linear`
//! ```
//!
//! The bound on the error of an approximation is derived in `query.rs`, from the encoding in `int4_planes.rs`.

mod int4_dots;
mod int4_planes;
mod parts;
mod query;
mod scan;
mod stored;

#[cfg(test)]
mod tests;

pub(crate) use int4_dots::int4_dots;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::exec::ExecContext;
use crate::isa::MOST_ELEMENTS;
use crate::threads::lock;
use bitnet_core::backend::prepared_parts::PreparedParts;
use bitnet_core::backend::shape_check;
use bitnet_core::backend::top_logits::{
    Guarantee, HeadStats, HeadWeight, LogitQuery, TokenLogit, TopLogits, largest, lowest_non_finite,
};
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use bitnet_core::{Error, Result};
use int4_planes::Int4Planes;
use query::{Level, QuantizedState};

/// Bits of a stored number from which a second plane saves bytes: it is 4 bits against these.
const BITS_FOR_TWO_PLANES: f64 = 7.0;

/// Bits of a stored number below which the first plane saves nothing worth its memory.
const LEAST_BITS: f64 = 4.25;

/// Rows whose exact logits are computed for the floor, beyond those requested.
const SPARE: usize = 15;

/// Candidates after the first plane above which the second is read.
const FEW: usize = 16;

/// The most queries whose approximate logits, 4 bytes a row and query, are computed in one pass over the codes.
const QUERIES_AT_ONCE: usize = 16;

/// Bytes that the system may map for each stored row that is read: it maps the pages around it as well.
const MAPPED_FOR_A_ROW: usize = 64 << 10;

/// A head with its planes.
#[derive(Debug)]
pub(crate) struct CpuHead {
    rows: Arc<dyn DenseRows>,
    planes: Int4Planes,
    guarantee: Guarantee,
    /// Stored rows read since their pages were released.
    since_release: AtomicUsize,
}

impl HeadWeight for CpuHead {
    fn stored(&self) -> &dyn DenseRows {
        &*self.rows
    }

    fn bytes(&self) -> usize {
        self.planes.bytes()
    }

    fn guarantee(&self) -> Guarantee {
        self.guarantee
    }

    fn parts(&self) -> PreparedParts {
        self.planes.parts()
    }

    fn rarely_read(&self) -> &'static [&'static str] {
        &[parts::SECOND]
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// See [`bitnet_core::backend::Preparation::prepare_head`].
pub(crate) fn prepare_head(
    rows: Arc<dyn DenseRows>,
    guarantee: Guarantee,
    exec: ExecContext<'_>,
    weights: &HybridMemoryPool,
) -> Result<Option<Box<dyn HeadWeight>>> {
    let (count, cols) = (rows.rows(), rows.cols());
    if count == 0 || cols == 0 || cols > MOST_ELEMENTS || u32::try_from(count).is_err() {
        return Ok(None);
    }
    let bits = rows.bytes() as f64 * 8.0 / (count as f64 * cols as f64);
    let two = bits >= BITS_FOR_TWO_PLANES;
    // With the exact guarantee, the first plane alone excludes no row.
    if bits < LEAST_BITS || (guarantee == Guarantee::Exact && !two) {
        return Ok(None);
    }
    let Some(planes) = Int4Planes::build(&*rows, two, exec, weights)? else { return Ok(None) };
    rows.release();
    Ok(Some(CpuHead::boxed(rows, planes, guarantee)))
}

/// See [`bitnet_core::backend::Preparation::prepare_head_from_parts`].
pub(crate) fn head_from_parts(
    rows: Arc<dyn DenseRows>,
    guarantee: Guarantee,
    parts: &PreparedParts,
) -> Result<Box<dyn HeadWeight>> {
    let planes = Int4Planes::from_parts(rows.rows(), rows.cols(), parts)?;
    Ok(CpuHead::boxed(rows, planes, guarantee))
}

impl CpuHead {
    fn boxed(
        rows: Arc<dyn DenseRows>,
        planes: Int4Planes,
        guarantee: Guarantee,
    ) -> Box<dyn HeadWeight> {
        Box::new(Self { rows, planes, guarantee, since_release: AtomicUsize::new(0) })
    }
}

/// See [`bitnet_core::backend::Operations::top_logits`].
pub(crate) fn top_logits(
    x: &BitNetTensor,
    head: &dyn HeadWeight,
    queries: &[LogitQuery],
    exec: ExecContext<'_>,
) -> Result<Vec<TopLogits>> {
    let foreign = Error::ForeignWeight { op: "top_logits", backend: "cpu" };
    let head = head.as_any().downcast_ref::<CpuHead>().ok_or(foreign)?;
    shape_check::top_logits(x, &*head.rows, queries)?;
    let mut states = x.f32()?.chunks_exact(head.rows.cols().max(1));
    let mut answers = Vec::with_capacity(queries.len());
    for queries in queries.chunks(QUERIES_AT_ONCE) {
        let mut searches = queries
            .iter()
            .zip(&mut states)
            .map(|(wanted, x)| Search::new(head, x, wanted, exec))
            .collect::<Result<Vec<_>>>()?;
        approximate(head, &mut searches, exec)?;
        for search in searches {
            answers.push(search.finish()?);
        }
    }
    Ok(answers)
}

/// Computes the approximate logits of all rows, for all searches that use them, in one pass over the first plane.
fn approximate(head: &CpuHead, searches: &mut [Search<'_>], exec: ExecContext<'_>) -> Result<()> {
    let mut planned = searches.iter_mut().filter_map(|search| {
        let (query, out) = search.plan.as_mut()?;
        Some((&*query, &mut out[..], &mut search.read))
    });
    let Some((query, out, read)) = planned.next() else { return Ok(()) };
    read.first_plane_bytes = head.planes.first_bytes() as u64;
    let rest = planned.map(|(query, out, _)| (query, out));
    scan::first(&head.planes, std::iter::once((query, out)).chain(rest).collect(), exec)
}

/// The search for the answer to one query.
struct Search<'a> {
    head: &'a CpuHead,
    x: &'a [f32],
    wanted: &'a LogitQuery,
    /// The hidden state in 16 bits with its approximate logits `[rows]`;
    /// `None` if every row is read, or none is wanted.
    plan: Option<(QuantizedState, PoolBuffer<f32>)>,
    exec: ExecContext<'a>,
    read: HeadStats,
}

impl<'a> Search<'a> {
    fn new(
        head: &'a CpuHead,
        x: &'a [f32],
        wanted: &'a LogitQuery,
        exec: ExecContext<'a>,
    ) -> Result<Self> {
        let rows = head.rows.rows();
        let mut plan = None;
        if wanted.count > 0 && wanted.count.saturating_add(SPARE) < rows {
            let query = QuantizedState::new(x, &head.planes, head.guarantee, exec.scratch_pool)?;
            let buffer = || PoolBuffer::scratch(rows, exec.scratch_pool);
            plan = query.map(|query| buffer().map(|buffer| (query, buffer))).transpose()?;
        }
        let read = HeadStats { queries: 1, ..HeadStats::default() };
        Ok(Self { head, x, wanted, plan, exec, read })
    }

    /// Returns the answer, once the approximate logits are there.
    fn finish(mut self) -> Result<TopLogits> {
        let extra_tokens = self.exact(&self.wanted.extra_tokens)?;
        let found = match self.plan.take() {
            _ if self.wanted.count == 0 => Vec::new(),
            Some((query, approximate)) => self.find(&query, &approximate)?,
            None => {
                self.read.full_scans = 1;
                let all: Vec<u32> = (0..self.head.rows.rows() as u32).collect();
                self.exact(&all)?
            }
        };
        // Rows that a search skips have finite logits: otherwise there are no planes, or every row is read.
        let non_finite = lowest_non_finite(&found).or_else(|| lowest_non_finite(&extra_tokens));
        let mut counted = lock(&self.exec.traffic.head);
        *counted = counted.plus(self.read);
        let top = largest(found, self.wanted.count);
        Ok(TopLogits { top, extra_tokens, non_finite, read: self.read })
    }

    /// Returns rows among which are the largest that are wanted, and all that equal the last of these.
    fn find(&mut self, query: &QuantizedState, approximate: &[f32]) -> Result<Vec<TokenLogit>> {
        let (planes, count) = (&self.head.planes, self.wanted.count);
        let seeds = scan::Largest { of: approximate, count: count + SPARE };
        let mut best = self.exec.isa.run_shared(seeds);
        best.sort_unstable();
        let mut found = self.exact(&best)?;
        let floor = largest(found.clone(), count).last().map_or(f32::NEG_INFINITY, |t| t.logit)
            - query.underflow();

        let mut survivors = self.exec.isa.run_shared(scan::Reaching {
            of: approximate,
            scales: planes.scales(),
            margin: query.margin(planes, Level::First),
            floor,
        });
        survivors.retain(|row| best.binary_search(row).is_err());
        if survivors.len() > FEW {
            self.refine(query, approximate, floor, &mut survivors)?;
        }
        found.extend(self.exact(&survivors)?);
        Ok(found)
    }

    /// Drops rows that cannot reach `floor` according to both planes, if there are two.
    fn refine(
        &mut self,
        query: &QuantizedState,
        approximate: &[f32],
        floor: f32,
        rows: &mut Vec<u32>,
    ) -> Result<()> {
        let planes = &self.head.planes;
        let Some(row_bytes) = planes.second_row_bytes() else { return Ok(()) };
        self.read.second_plane_rows += rows.len() as u64;
        self.read.second_plane_bytes += (rows.len() * row_bytes) as u64;
        let nearer = scan::second(planes, query, approximate, rows, self.exec)?;
        let margin = query.margin(planes, Level::Both);
        let mut nearer = nearer.into_iter();
        rows.retain(|&row| {
            let reach = nearer.next().map(|near| near + planes.scales()[row as usize] * margin);
            reach.is_none_or(|reach| reach >= floor)
        });
        Ok(())
    }

    /// Returns the exact logits of `rows`.
    fn exact(&mut self, rows: &[u32]) -> Result<Vec<TokenLogit>> {
        let stored = &*self.head.rows;
        self.read.rows += rows.len() as u64;
        self.read.row_bytes += (stored.bytes() / stored.rows().max(1) * rows.len()) as u64;
        let mut out = vec![0f32; rows.len()];
        stored::dots_of_rows(stored, self.x, rows, &mut out, self.exec)?;
        self.release_pages(rows.len());
        let all = rows.iter().zip(out).map(|(&token, logit)| TokenLogit { token, logit });
        Ok(all.collect())
    }

    /// Releases the pages of stored rows before they are a quarter of the matrix.
    fn release_pages(&self, rows: usize) {
        let read = self.head.since_release.fetch_add(rows, Ordering::Relaxed) + rows;
        if read.saturating_mul(MAPPED_FOR_A_ROW) > self.head.rows.bytes() / 4 {
            self.head.since_release.store(0, Ordering::Relaxed);
            self.head.rows.release();
        }
    }
}

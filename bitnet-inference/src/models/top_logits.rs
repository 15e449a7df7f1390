//! The largest logits alone, from a head that is prepared when they are wanted.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use bitnet_core::backend::top_logits::{Guarantee, HeadWeight, LogitQuery, TopLogits};
use bitnet_core::backend::{Backend, shape_check};
use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_formats::MappedFile;

use super::compute::Compute;
use crate::Result;
use crate::weight_cache::{CacheWriter, CachedHead};

/// How the head is read where the sampler needs the largest logits only (greedy, or top-k). The logits that are
/// computed are the same in every mode, bit for bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeadMode {
    /// Through 4-bit codes, leaving out rows that are among the largest with a probability below 2⁻⁶⁴ a token: the
    /// fewest bytes. See [`Guarantee::Probabilistic`].
    #[default]
    Refined,
    /// Through 8-bit codes, leaving out only rows that cannot be among the largest. See [`Guarantee::Exact`].
    Certain,
    /// Every row, always.
    Full,
}

impl HeadMode {
    /// The name that users type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refined => "refined",
            Self::Certain => "certain",
            Self::Full => "full",
        }
    }

    fn guarantee(self) -> Option<Guarantee> {
        match self {
            Self::Refined => Some(Guarantee::Probabilistic),
            Self::Certain => Some(Guarantee::Exact),
            Self::Full => None,
        }
    }
}

impl fmt::Display for HeadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for HeadMode {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let all = [Self::Refined, Self::Certain, Self::Full];
        let found = all.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| {
            format!("{name:?} is no way to read the head; refined, certain and full are")
        })
    }
}

/// Bytes of a head that is read faster whole than through codes: it stays in the processor's caches.
const SMALL: usize = 4 << 20;

/// Bytes of a head that is read once which are resident together.
const RESIDENT: usize = 64 << 20;

/// Where the answer to a query comes from.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    /// A prepared head.
    Prepared(&'a dyn HeadWeight),
    /// All rows, this once.
    AllRows(&'a Arc<dyn DenseRows>),
}

impl Source<'_> {
    /// Returns what [`top_logits`](bitnet_core::backend::Operations::top_logits) returns.
    pub(crate) fn top(
        &self,
        x: &BitNetTensor,
        queries: &[LogitQuery],
        compute: &Compute,
    ) -> Result<Vec<TopLogits>> {
        let rows = match self {
            Self::Prepared(head) => {
                return Ok(compute.backend.top_logits(x, *head, queries)?);
            }
            Self::AllRows(rows) => rows,
        };
        shape_check::top_logits(x, &***rows, queries)?;
        let mut logits = vec![Vec::with_capacity(rows.rows()); queries.len()];
        for piece in RowRange::pieces(rows, RESIDENT) {
            let out = compute.to_host(compute.dense(x, &piece)?)?;
            for (logits, out) in logits.iter_mut().zip(out.f32()?.chunks_exact(piece.rows())) {
                logits.extend_from_slice(out);
            }
            piece.release();
        }
        let answers = logits.iter().zip(queries);
        Ok(answers.map(|(logits, query)| TopLogits::of_all(logits, query)).collect())
    }
}

/// Prepares the head lazily, on the second call, so that one-token generation skips the cost.
#[derive(Debug)]
pub(crate) struct LazyTopLogits {
    pub(crate) mode: HeadMode,
    queried: AtomicBool,
    prepared: OnceLock<Option<Box<dyn HeadWeight>>>,
    /// Held while the head is prepared, and empty afterwards.
    cached: Mutex<Option<CachedHead>>,
    writer: OnceLock<CacheWriter>,
    /// The file that the prepared head was found in, for as long as it is mapped.
    file: OnceLock<Weak<MappedFile>>,
}

impl LazyTopLogits {
    /// A head that is looked for in `cached`, and written there.
    pub(crate) fn new(mode: HeadMode, cached: Option<CachedHead>) -> Self {
        Self {
            mode,
            queried: AtomicBool::new(false),
            prepared: OnceLock::new(),
            cached: Mutex::new(cached),
            writer: OnceLock::new(),
            file: OnceLock::new(),
        }
    }

    /// Returns an error if the file of the prepared head is no longer what was mapped.
    pub(crate) fn check_file(&self) -> Result<()> {
        match self.file.get().and_then(Weak::upgrade) {
            Some(file) => Ok(file.check()?),
            None => Ok(()),
        }
    }

    /// Returns the source for a query, or `None` where all logits are computed as fast. The first query does not wait
    /// for the head to be prepared.
    pub(crate) fn plan_query<'a>(
        &'a self,
        rows: Option<&'a Arc<dyn DenseRows>>,
        backend: &dyn Backend,
    ) -> Result<Option<Source<'a>>> {
        let again = self.queried.swap(true, Ordering::Relaxed);
        let head = self.prepared(rows, backend, again)?;
        Ok(match (head, rows) {
            (Some(head), _) => Some(Source::Prepared(head)),
            (None, Some(rows)) if self.prepared.get().is_none() => Some(Source::AllRows(rows)),
            _ => None,
        })
    }

    /// The prepared head, if the mode, the back end and the rows allow one; it is prepared only if `make` says so.
    pub(crate) fn prepared(
        &self,
        rows: Option<&Arc<dyn DenseRows>>,
        backend: &dyn Backend,
        make: bool,
    ) -> Result<Option<&dyn HeadWeight>> {
        if self.prepared.get().is_none() {
            let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
            if self.prepared.get().is_none() {
                let Some((guarantee, rows)) = self.mode.guarantee().zip(rows).filter(is_large)
                else {
                    drop((cached.take(), self.prepared.set(None)));
                    return Ok(None);
                };
                let found =
                    cached.as_mut().and_then(|cached| cached.find(rows, guarantee, backend));
                let head = match found {
                    Some((found, file)) => {
                        drop(self.file.set(Arc::downgrade(&file)));
                        Some(found)
                    }
                    None if make => self.make(rows, guarantee, backend, &mut cached)?,
                    None => return Ok(None),
                };
                // What is left of it holds the model's files. Nobody else sets the head: this thread has the lock.
                drop((cached.take(), self.prepared.set(head)));
            }
        }
        Ok(self.prepared.get().and_then(|head| head.as_deref()))
    }

    /// Prepares the head, and what writes it to the cache if that is worth it.
    fn make(
        &self,
        rows: &Arc<dyn DenseRows>,
        guarantee: Guarantee,
        backend: &dyn Backend,
        cached: &mut Option<CachedHead>,
    ) -> Result<Option<Box<dyn HeadWeight>>> {
        let start = Instant::now();
        let head = backend.prepare_head(Arc::clone(rows), guarantee)?;
        let took = start.elapsed();
        let writer = head.as_ref().and_then(|head| cached.take()?.writer(&**head, took));
        if let Some(writer) = writer {
            drop(self.writer.set(writer));
        }
        Ok(head)
    }

    /// Begins to write what was prepared to the cache; the file is complete when this is dropped.
    pub(crate) fn write_cache(&self) {
        if let Some(writer) = self.writer.get() {
            writer.start();
        }
    }
}

/// Whether a head is read faster through codes than whole.
fn is_large((_, rows): &(Guarantee, &Arc<dyn DenseRows>)) -> bool {
    rows.bytes() >= SMALL
}

/// Rows `range` of a matrix that has them.
#[derive(Debug)]
struct RowRange<'a> {
    whole: &'a Arc<dyn DenseRows>,
    range: Range<usize>,
}

impl<'a> RowRange<'a> {
    /// All rows in pieces of about `bytes` bytes, in order.
    fn pieces(whole: &'a Arc<dyn DenseRows>, bytes: usize) -> impl Iterator<Item = Self> {
        let rows = whole.rows();
        let row = whole.bytes() / rows.max(1);
        let step = (bytes / row.max(1)).max(1);
        (0..rows)
            .step_by(step)
            .map(move |from| Self { whole, range: from..rows.min(from.saturating_add(step)) })
    }
}

impl DenseRows for RowRange<'_> {
    fn rows(&self) -> usize {
        self.range.len()
    }

    fn cols(&self) -> usize {
        self.whole.cols()
    }

    fn type_name(&self) -> &'static str {
        self.whole.type_name()
    }

    fn bytes(&self) -> usize {
        self.whole.bytes() / self.whole.rows().max(1) * self.range.len()
    }

    fn decode_row(&self, row: usize, out: &mut [f32]) -> bitnet_core::Result<()> {
        if row >= self.range.len() {
            return Err(bitnet_core::Error::OutOfRange {
                op: "decode_row",
                index: row,
                len: self.range.len(),
            });
        }
        self.whole.decode_row(self.range.start + row, out)
    }

    fn plain(&self) -> Option<(PlainType, &[u8])> {
        let (plain, bytes) = self.whole.plain()?;
        let row = bytes.len() / self.whole.rows().max(1);
        Some((plain, bytes.get(self.range.start * row..self.range.end * row)?))
    }

    fn release(&self) {
        self.whole.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_modes_parse_back() {
        for mode in [HeadMode::Refined, HeadMode::Certain, HeadMode::Full] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("half".parse::<HeadMode>().unwrap_err().contains("certain"));
    }
}

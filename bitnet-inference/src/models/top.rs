//! The head where only the largest logits are wanted: prepared when they are asked for a second time, or found kept.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use bitnet_core::backend::Backend;
use bitnet_core::backend::shape_check;
use bitnet_core::backend::top_logits::{Guarantee, HeadWeight, TopLogits};
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_formats::MappedFile;

use super::row_range::RowRange;
use crate::Result;
use crate::loader::{Keeping, KeptHead};

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

/// Where the largest logits come from.
#[derive(Debug)]
pub(crate) enum Answer<'a> {
    /// From a prepared head.
    Prepared(&'a dyn HeadWeight),
    /// From all rows, this once.
    AllRows(&'a Arc<dyn DenseRows>),
}

impl Answer<'_> {
    /// As [`top_logits`](bitnet_core::backend::Operations::top_logits).
    pub(crate) fn top(
        &self,
        x: &BitNetTensor,
        count: usize,
        also: &[u32],
        backend: &dyn Backend,
        pool: &HybridMemoryPool,
    ) -> Result<TopLogits> {
        let rows = match self {
            Self::Prepared(head) => return Ok(backend.top_logits(x, *head, count, also)?),
            Self::AllRows(rows) => rows,
        };
        shape_check::top_logits(x, &***rows, also)?;
        let mut logits = Vec::with_capacity(rows.rows());
        for piece in RowRange::pieces(rows, RESIDENT) {
            let mut out = BitNetTensor::scratch(&[1, piece.rows()], pool)?;
            backend.linear(x, &piece, None, &mut out)?;
            logits.extend_from_slice(out.f32()?);
            piece.release();
        }
        Ok(TopLogits::of_all(&logits, count, also))
    }
}

/// A head that is prepared when it is asked a second time: a text of one token does not wait for it.
#[derive(Debug)]
pub(crate) struct TopHead {
    mode: HeadMode,
    asked: AtomicBool,
    prepared: OnceLock<Option<Box<dyn HeadWeight>>>,
    /// Held while the head is prepared, and empty afterwards.
    kept: Mutex<Option<KeptHead>>,
    keeping: OnceLock<Keeping>,
    /// The file that the prepared head was found in, for as long as it is mapped.
    file: OnceLock<Weak<MappedFile>>,
}

impl TopHead {
    /// A head that is looked for in `kept`, and kept there.
    pub(crate) fn new(mode: HeadMode, kept: Option<KeptHead>) -> Self {
        Self {
            mode,
            asked: AtomicBool::new(false),
            prepared: OnceLock::new(),
            kept: Mutex::new(kept),
            keeping: OnceLock::new(),
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

    pub(crate) fn mode(&self) -> HeadMode {
        self.mode
    }

    /// The prepared head, if the mode, the back end and the rows allow one.
    pub(crate) fn prepared(
        &self,
        rows: Option<&Arc<dyn DenseRows>>,
        backend: &dyn Backend,
    ) -> Result<Option<&dyn HeadWeight>> {
        self.prepared_by(rows, backend, true)
    }

    /// How a question is to be answered, if not by computing all logits: the first one does not wait for a head to be
    /// prepared.
    pub(crate) fn for_question<'a>(
        &'a self,
        rows: Option<&'a Arc<dyn DenseRows>>,
        backend: &dyn Backend,
    ) -> Result<Option<Answer<'a>>> {
        let again = self.asked.swap(true, Ordering::Relaxed);
        let head = self.prepared_by(rows, backend, again)?;
        Ok(match (head, rows) {
            (Some(head), _) => Some(Answer::Prepared(head)),
            (None, Some(rows)) if self.prepared.get().is_none() => Some(Answer::AllRows(rows)),
            _ => None,
        })
    }

    fn prepared_by(
        &self,
        rows: Option<&Arc<dyn DenseRows>>,
        backend: &dyn Backend,
        make: bool,
    ) -> Result<Option<&dyn HeadWeight>> {
        if self.prepared.get().is_none() {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if self.prepared.get().is_none() {
                let Some((guarantee, rows)) = self.mode.guarantee().zip(rows).filter(is_large)
                else {
                    drop((kept.take(), self.prepared.set(None)));
                    return Ok(None);
                };
                let found = kept.as_mut().and_then(|kept| kept.find(rows, guarantee, backend));
                let head = match found {
                    Some((found, file)) => {
                        drop(self.file.set(Arc::downgrade(&file)));
                        Some(found)
                    }
                    None if make => self.make(rows, guarantee, backend, &mut kept)?,
                    None => return Ok(None),
                };
                // What is left of it holds the model's files. Nobody else sets the head: this thread has the lock.
                drop((kept.take(), self.prepared.set(head)));
            }
        }
        Ok(self.prepared.get().and_then(|head| head.as_deref()))
    }

    /// Prepares the head, to be kept if that is worth it.
    fn make(
        &self,
        rows: &Arc<dyn DenseRows>,
        guarantee: Guarantee,
        backend: &dyn Backend,
        kept: &mut Option<KeptHead>,
    ) -> Result<Option<Box<dyn HeadWeight>>> {
        let start = Instant::now();
        let head = backend.prepare_head(Arc::clone(rows), guarantee)?;
        let took = start.elapsed();
        let keeping = head.as_ref().and_then(|head| kept.take()?.keep(&**head, took));
        if let Some(keeping) = keeping {
            drop(self.keeping.set(keeping));
        }
        Ok(head)
    }

    /// Begins to write what was prepared to disk, if it is to be kept; at the latest it is done when this is dropped.
    pub(crate) fn keep(&self) {
        if let Some(keeping) = self.keeping.get() {
            keeping.start();
        }
    }
}

/// Whether a head is read faster through codes than whole.
fn is_large((_, rows): &(Guarantee, &Arc<dyn DenseRows>)) -> bool {
    rows.bytes() >= SMALL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_names() {
        for mode in [HeadMode::Refined, HeadMode::Certain, HeadMode::Full] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("half".parse::<HeadMode>().unwrap_err().contains("certain"));
    }
}

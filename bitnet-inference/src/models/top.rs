//! The head where only the largest logits are wanted: prepared when they are first asked for.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bitnet_core::backend::Backend;
use bitnet_core::dense::DenseRows;
use bitnet_core::head::{Certainty, HeadTop, HeadWeight};
use bitnet_core::memory::tensor::BitNetTensor;

use crate::Result;

/// How the head is read where the sampler needs the largest logits only (greedy, or top-k). The logits that are
/// computed are the same in every mode, bit for bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeadMode {
    /// Through 4-bit codes, leaving out rows that are among the largest with a probability below 2⁻⁶⁴ a token: the
    /// fewest bytes. See [`Certainty::Probable`].
    #[default]
    Refined,
    /// Through 8-bit codes, leaving out only rows that cannot be among the largest. See [`Certainty::Certain`].
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

    fn certainty(self) -> Option<Certainty> {
        match self {
            Self::Refined => Some(Certainty::Probable),
            Self::Certain => Some(Certainty::Certain),
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

/// A head that is prepared when it is first asked.
#[derive(Debug)]
pub(crate) struct TopHead {
    mode: HeadMode,
    prepared: OnceLock<Option<Box<dyn HeadWeight>>>,
    /// Held while the head is prepared.
    turn: Mutex<()>,
}

impl TopHead {
    pub(crate) fn new(mode: HeadMode) -> Self {
        Self { mode, prepared: OnceLock::new(), turn: Mutex::new(()) }
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
        if self.prepared.get().is_none() {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            if self.prepared.get().is_none() {
                let head = match (self.mode.certainty(), rows) {
                    (Some(certainty), Some(rows)) if rows.bytes() >= SMALL => {
                        backend.prepare_head(Arc::clone(rows), certainty)?
                    }
                    _ => None,
                };
                // Nobody else sets it: this thread has the turn.
                drop(self.prepared.set(head));
            }
        }
        Ok(self.prepared.get().and_then(|head| head.as_deref()))
    }

    /// The largest logits, or `None` if all of them must be computed.
    pub(crate) fn top(
        &self,
        x: &BitNetTensor,
        rows: Option<&Arc<dyn DenseRows>>,
        backend: &dyn Backend,
        count: usize,
        also: &[u32],
    ) -> Result<Option<HeadTop>> {
        match self.prepared(rows, backend)? {
            Some(head) => Ok(Some(backend.head_top(x, head, count, also)?)),
            None => Ok(None),
        }
    }
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

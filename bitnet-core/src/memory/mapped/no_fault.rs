//! Systems on which a mapped file cannot be cut short: there is nothing to guard.

use crate::Result;

/// Stands for a slot in a registry that is not needed.
pub(in crate::memory) struct Guard;

impl Guard {
    pub(in crate::memory) fn register(_: &str, _: usize, _: usize, _: bool) -> Result<Self> {
        Ok(Self)
    }

    pub(in crate::memory) fn is_damaged(&self) -> bool {
        false
    }
}

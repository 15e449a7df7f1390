//! Room for the keys and values of a sequence.

use bitnet_core::kv::KvCache;

use crate::{InferenceError, Result};

/// Allocates what `tokens` more positions of `cache` need.
///
/// # Errors
/// [`InferenceError::Resource`] beyond the capacity, [`InferenceError::Core`] if the memory can't be had.
pub(crate) fn reserve(cache: &mut KvCache, tokens: usize) -> Result<()> {
    let (used, limit) = (cache.len().saturating_add(tokens), cache.capacity());
    check_fits(used, limit)?;
    Ok(cache.reserve(tokens)?)
}

/// Returns an error if a sequence of `used` tokens is longer than `limit`.
pub(crate) fn check_fits(used: usize, limit: usize) -> Result<()> {
    if used <= limit {
        return Ok(());
    }
    let advice = "shorten the prompt or raise the context size";
    Err(InferenceError::Resource { what: "context", used, limit, advice })
}

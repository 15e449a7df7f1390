//! Several sessions in one pass through the model: the weights are read once for all.

use std::ops::Range;
use std::sync::Arc;

use bitnet_core::memory::tensor::BitNetTensor;

use crate::models::Sequence;
use crate::session::{Session, no_tokens};
use crate::{InferenceError, Result};

/// Tokens that one session reads in a batch.
#[derive(Debug)]
pub struct BatchItem<'a> {
    /// The session.
    pub session: &'a mut Session,
    /// Its next tokens; at least one.
    pub tokens: &'a [u32],
    /// The tokens after which logits are wanted.
    pub logits: LogitRows<'a>,
}

/// The tokens of a [`BatchItem`] after which logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows<'a> {
    /// After none, as in all parts of a prompt but the last.
    None,
    /// After the last one, as in writing.
    Last,
    /// After each, as in scoring a text or checking a draft.
    All,
    /// After the tokens at these indices.
    At(&'a [usize]),
}

impl LogitRows<'_> {
    /// Appends the rows of the batch that are wanted of an item whose tokens are the rows `item`.
    fn append(self, item: Range<usize>, rows: &mut Vec<usize>) -> Result<()> {
        match self {
            Self::None => {}
            Self::Last => rows.push(item.end - 1),
            Self::All => rows.extend(item),
            Self::At(indices) => {
                if let Some(index) = indices.iter().find(|&&index| index >= item.len()) {
                    return Err(InferenceError::Parameter {
                        parameter: "logits",
                        value: format!("token {index} of {}", item.len()),
                        problem: "indices of the item's tokens",
                    });
                }
                rows.extend(indices.iter().map(|index| item.start + index));
            }
        }
        Ok(())
    }
}

/// The logits of a batch.
#[derive(Debug)]
pub struct BatchLogits {
    /// `[rows wanted, vocabulary]`, if any are.
    logits: Option<BitNetTensor>,
    vocab_size: usize,
    /// The rows of each item.
    items: Vec<Range<usize>>,
}

impl BatchLogits {
    /// Returns the rows of logits `[vocabulary]` requested by the item at `index`, in the order of the request.
    ///
    /// # Errors
    /// [`InferenceError::Core`] for an index beyond the batch.
    pub fn of(&self, index: usize) -> Result<impl ExactSizeIterator<Item = &[f32]>> {
        let len = self.items.len();
        let out_of_range = || bitnet_core::Error::OutOfRange { op: "BatchLogits::of", index, len };
        let rows = self.items.get(index).ok_or_else(out_of_range)?;
        let all = match &self.logits {
            Some(logits) => logits.f32()?,
            None => &[],
        };
        let width = self.vocab_size;
        Ok(all[rows.start * width..rows.end * width].chunks_exact(width))
    }
}

/// Reads the tokens of all items in one pass, and computes the logits that they ask for; other rows do not reach the head.
/// Each session is left, and each row of logits is, bit for bit as if the session had read its tokens alone.
///
/// All tokens go through the model together: a long prompt is best divided over several calls.
///
/// # Errors
/// [`InferenceError::Parameter`] for an item without tokens, an index beyond them, or sessions of several models;
/// [`InferenceError::Resource`] if a session is full; those of [`Session::logits`]. No session has changed then.
pub fn extend_batch(items: &mut [BatchItem<'_>]) -> Result<BatchLogits> {
    let (mut rows, mut wanted, mut first) = (Vec::new(), Vec::new(), 0);
    for item in items.iter() {
        if item.tokens.is_empty() {
            return Err(no_tokens());
        }
        let before = rows.len();
        item.logits.append(first..first + item.tokens.len(), &mut rows)?;
        wanted.push(before..rows.len());
        first += item.tokens.len();
    }
    let Some(decoder) = items.first().map(|item| Arc::clone(&item.session.decoder)) else {
        return Ok(BatchLogits { logits: None, vocab_size: 0, items: wanted });
    };
    if items.iter().any(|item| !Arc::ptr_eq(&item.session.decoder, &decoder)) {
        return Err(InferenceError::Parameter {
            parameter: "sequences",
            value: "of several models".into(),
            problem: "all of one model",
        });
    }
    let vocab_size = decoder.config.vocab_size;
    let mut sequences: Vec<_> = items
        .iter_mut()
        .map(|item| Sequence { tokens: item.tokens, cache: &mut item.session.cache })
        .collect();
    let h = decoder.forward_batch(&mut sequences, None)?;
    let computed = match rows.is_empty() {
        true => Ok(None),
        false => decoder.compute.rows(&h, &rows).and_then(|h| decoder.logits(&h)).map(Some),
    };
    let logits = computed.and_then(|logits| {
        let logits = BatchLogits { logits, vocab_size, items: wanted };
        check(items, &logits)?;
        Ok(logits)
    });
    if logits.is_err() {
        items.iter_mut().for_each(|item| item.session.cache.truncate(item.session.tokens.len()));
        return logits;
    }
    let mut end = 0;
    for item in items {
        end += item.tokens.len();
        item.session.tokens.extend_from_slice(item.tokens);
        item.session.last = Some(h.narrow(0, end - 1..end)?);
    }
    logits
}

/// Returns an error if a logit of sessions that have not taken their tokens yet is not finite.
fn check(items: &[BatchItem<'_>], logits: &BatchLogits) -> Result<()> {
    for (index, item) in items.iter().enumerate() {
        for row in logits.of(index)? {
            item.session.check_logits(row, item.session.tokens.len() + item.tokens.len())?;
        }
    }
    Ok(())
}

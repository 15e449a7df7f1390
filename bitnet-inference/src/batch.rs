//! Several sessions in one pass through the model or its head: the weights are read once for all.

use std::ops::Range;
use std::sync::Arc;

use bitnet_core::backend::top_logits::TopLogits;
use bitnet_core::memory::tensor::BitNetTensor;

use crate::models::{Decoder, Sequence};
use crate::sampler::Sampler;
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
    /// Appends the rows of the batch that are wanted of an item whose tokens are the rows `token_rows`.
    fn append(self, token_rows: Range<usize>, rows: &mut Vec<usize>) -> Result<()> {
        match self {
            Self::None => {}
            Self::Last => rows.push(token_rows.end - 1),
            Self::All => rows.extend(token_rows),
            Self::At(indices) => {
                if let Some(index) = indices.iter().find(|&&index| index >= token_rows.len()) {
                    return Err(InferenceError::Parameter {
                        parameter: "logits",
                        value: format!("token {index} of {}", token_rows.len()),
                        problem: "indices of the item's tokens",
                    });
                }
                rows.extend(indices.iter().map(|index| token_rows.start + index));
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

/// Reads the tokens of all items in one pass, and computes the logits that they ask for; other rows do not reach the
/// head. Each session is left, and each row of logits is, bit for bit as if the session had read its tokens alone.
///
/// All tokens go through the model together: a long prompt is best divided over several calls.
///
/// # Errors
/// [`InferenceError::Parameter`] for an item without tokens, an index beyond them, or sessions of several models;
/// [`InferenceError::Resource`] if a session is full; those of [`Session::logits`]. No session has changed then, but for
/// those of models with recurrent layers, which may have been [cut](Session::truncate).
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
    let Some(decoder) = shared_decoder(items.iter().map(|item| &*item.session))? else {
        return Ok(BatchLogits { logits: None, vocab_size: 0, items: wanted });
    };
    let vocab_size = decoder.config.vocab_size;
    items.iter_mut().for_each(|item| item.session.drop_ahead());
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
        check_finite(items, &logits, &rows)?;
        Ok(logits)
    });
    if logits.is_err() {
        for item in items {
            let before = item.session.tokens.len();
            item.session.truncate(before);
        }
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

/// Returns the decoder that all sessions share; `None` if there are no sessions.
fn shared_decoder<'a>(
    mut sessions: impl Iterator<Item = &'a Session>,
) -> Result<Option<Arc<Decoder>>> {
    let Some(first) = sessions.next() else { return Ok(None) };
    if sessions.all(|session| Arc::ptr_eq(&session.decoder, &first.decoder)) {
        return Ok(Some(Arc::clone(&first.decoder)));
    }
    Err(InferenceError::Parameter {
        parameter: "sessions",
        value: "of several models".into(),
        problem: "all of one model",
    })
}

/// Returns an error if a logit of sessions that have not taken their tokens yet is not finite. `rows` are those of the
/// batch that the logits belong to.
fn check_finite(items: &[BatchItem<'_>], logits: &BatchLogits, rows: &[usize]) -> Result<()> {
    let mut first = 0;
    for (index, item) in items.iter().enumerate() {
        let before = item.session.tokens.len();
        for (row, logits) in rows[logits.items[index].clone()].iter().zip(logits.of(index)?) {
            item.session.check_logits(logits, before + row - first + 1)?;
        }
        first += item.tokens.len();
    }
    Ok(())
}

/// Returns the token that each sampler chooses after the last one of its session, as [`Session::choose`] does for each
/// alone. Sessions share passes over the head. A session whose logits are not
/// finite, or allow no token, has an error of its own.
///
/// # Errors
/// [`InferenceError::Parameter`] for a session that has read nothing, or sessions of several models; those of
/// [`Decoder::top_logits`] and [`Decoder::logits`].
pub fn choose_batch(items: &mut [(&Session, &mut Sampler)]) -> Result<Vec<Result<u32>>> {
    /// Items whose logits are in memory together.
    const ITEMS: usize = 32;
    let Some(decoder) = shared_decoder(items.iter().map(|(session, _)| *session))? else {
        return Ok(Vec::new());
    };
    let states = items.iter().map(|(session, _)| session.last()).collect::<Result<Vec<_>>>()?;
    let mut choices = Vec::with_capacity(items.len());
    for (items, states) in items.chunks_mut(ITEMS).zip(states.chunks(ITEMS)) {
        choose_some(&decoder, items, states, &mut choices)?;
    }
    Ok(choices)
}

/// Appends the choices of some items, after hidden states `[1, hidden]`.
fn choose_some(
    decoder: &Decoder,
    items: &mut [(&Session, &mut Sampler)],
    states: &[&BitNetTensor],
    choices: &mut Vec<Result<u32>>,
) -> Result<()> {
    let stack = |indices: &[usize]| {
        let states: Vec<_> = indices.iter().map(|&index| states[index]).collect();
        decoder.compute.stack(&states)
    };
    let mut tops: Vec<Option<TopLogits>> = vec![None; items.len()];
    let plans = items.iter().map(|(session, sampler)| sampler.plan_query(&session.tokens));
    let planned = plans.enumerate().filter_map(|(index, plan)| Some((index, plan?)));
    let (queried, queries): (Vec<_>, Vec<_>) = planned.unzip();
    if !queried.is_empty()
        && let Some(found) = decoder.top_logits(&stack(&queried)?, &queries)?
    {
        queried.iter().zip(found).for_each(|(&index, top)| tops[index] = Some(top));
    }
    let full: Vec<usize> = (0..items.len()).filter(|&index| tops[index].is_none()).collect();
    let logits = match &full[..] {
        [] => None,
        rows => Some(decoder.logits(&stack(rows)?)?),
    };
    let logits = logits.as_ref().map_or(Ok(&[][..]), BitNetTensor::f32)?;
    let mut rows = logits.chunks_exact(decoder.config.vocab_size);
    choices.extend(items.iter_mut().zip(tops).map(|((session, sampler), top)| match top {
        Some(top) => sampler.sample_top(&session.check_top(top)?, &session.tokens),
        None => {
            let logits = rows.next().unwrap_or_default();
            session.check_logits(logits, session.tokens.len())?;
            sampler.sample(&mut logits.to_vec(), &session.tokens)
        }
    }));
    Ok(())
}

//! One step through the model: tokens of several texts in, the next token of some of them out.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::logprobs::logprobs;
use super::request::{EngineError, Logprobs};
use super::sequence::Sequence;
use crate::batch::{BatchItem, LogitRows, choose_batch, extend_batch};
use crate::sampler::Sampler;
use crate::session::Session;

/// Rows of a prompt whose logits are in memory together.
pub(super) const SCORED_ROWS: usize = 32;

/// A text of a step.
pub(super) struct Part<'a> {
    pub(super) sequence: &'a mut Sequence,
    /// Tokens that it reads.
    pub(super) tokens: usize,
    /// Log probabilities of the token that it writes, with so many others.
    pub(super) logprobs: Option<usize>,
    /// Log probabilities of the prompt tokens that it reads, with so many others.
    pub(super) prompt_logprobs: Option<usize>,
}

/// What came of a text in a step.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The token that was chosen, if all of the text was read.
    pub(super) token: Option<u32>,
    /// Its log probability, if that was asked for.
    pub(super) logprobs: Option<Logprobs>,
    /// The log probabilities of the prompt tokens that were read.
    pub(super) prompt_logprobs: Vec<Option<Logprobs>>,
}

/// Runs a step. A fault of one text is that text's own: the others are run without it.
pub(super) fn run(parts: &mut [Part<'_>]) -> Vec<Result<Outcome, EngineError>> {
    let lengths: Vec<usize> =
        parts.iter().map(|part| part.sequence.session.tokens().len()).collect();
    if let Ok(Ok(outcomes)) = unwind(|| run_together(parts)) {
        return outcomes;
    }
    let alone = parts.iter_mut().zip(lengths).map(|(part, len)| {
        part.sequence.session.truncate(len);
        // What a recurrent model has lost, or the first attempt has read, is read next time.
        part.tokens = part.tokens.min(part.sequence.left());
        match unwind(|| run_together(std::slice::from_mut(part))) {
            Ok(Ok(mut outcomes)) => outcomes.pop().unwrap_or_else(|| Ok(Outcome::default())),
            Ok(Err(error)) => Err(error),
            Err(panic) => Err(EngineError::Panicked(panic)),
        }
    });
    alone.collect()
}

/// Returns what `work` returns, or the message with which it panicked.
pub(super) fn unwind<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // What a panic leaves behind is cut back or dropped by the caller.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a message".into())
}

fn run_together(parts: &mut [Part<'_>]) -> Result<Vec<Result<Outcome, EngineError>>, EngineError> {
    let mut outcomes: Vec<Result<Outcome, EngineError>> =
        parts.iter().map(|_| Ok(Outcome::default())).collect();
    read(parts, &mut outcomes)?;
    choose(parts, &mut outcomes)?;
    Ok(outcomes)
}

/// Whether a step reads one token of one text, and may read a draft of what follows it.
pub(super) fn may_draft(parts: &[Part<'_>]) -> bool {
    let [Part { sequence, prompt_logprobs: None, .. }] = parts else { return false };
    sequence.drafter.is_on() && sequence.left() == 1
}

/// Reads the tokens of all texts in one pass.
fn read(
    parts: &mut [Part<'_>],
    outcomes: &mut [Result<Outcome, EngineError>],
) -> Result<(), EngineError> {
    if may_draft(parts) {
        return Ok(parts[0].sequence.read_with_draft()?);
    }
    // What was read ahead of a text alone is forgotten.
    parts.iter_mut().for_each(|part| part.sequence.drafter.finished());
    let starts: Vec<usize> =
        parts.iter().map(|part| part.sequence.session.tokens().len()).collect();
    let mut items: Vec<BatchItem<'_>> = Vec::with_capacity(parts.len());
    for (part, &start) in parts.iter_mut().zip(&starts) {
        let Sequence { session, tokens, .. } = &mut *part.sequence;
        let tokens = &tokens[start..start + part.tokens];
        let scores = part.prompt_logprobs.is_some();
        let logits = if scores { LogitRows::All } else { LogitRows::None };
        items.push(BatchItem { session, tokens, logits });
    }
    let logits = extend_batch(&mut items)?;
    for (index, (part, start)) in parts.iter().zip(starts).enumerate() {
        let (Some(count), Ok(outcome)) = (part.prompt_logprobs, &mut outcomes[index]) else {
            continue;
        };
        if start == 0 {
            outcome.prompt_logprobs.push(None);
        }
        // The logits after a token score the one that follows it.
        let following = &part.sequence.tokens[start + 1..];
        for (row, &next) in logits.of(index)?.zip(following) {
            outcome.prompt_logprobs.push(Some(logprobs(row, next, count)));
        }
    }
    Ok(())
}

/// Chooses the next token of each text of which all was read.
fn choose(
    parts: &mut [Part<'_>],
    outcomes: &mut [Result<Outcome, EngineError>],
) -> Result<(), EngineError> {
    let mut together: Vec<(usize, (&Session, &mut Sampler))> = Vec::new();
    for (index, part) in parts.iter_mut().enumerate() {
        if part.sequence.left() > 0 || part.sequence.is_full() {
            continue;
        }
        let Sequence { session, sampler, .. } = &mut *part.sequence;
        if part.logprobs.is_none() && session.ahead.is_none() {
            together.push((index, (&*session, sampler)));
            continue;
        }
        take(&mut outcomes[index], choose_alone(session, sampler, part.logprobs));
    }
    let (indices, mut items): (Vec<usize>, Vec<_>) = together.into_iter().unzip();
    for (index, token) in indices.into_iter().zip(choose_batch(&mut items)?) {
        take(&mut outcomes[index], token.map(|token| (token, None)));
    }
    Ok(())
}

/// Chooses the next token of one text, with its log probability if that is asked for.
pub(super) fn choose_alone(
    session: &Session,
    sampler: &mut Sampler,
    count: Option<usize>,
) -> crate::Result<(u32, Option<Logprobs>)> {
    let Some(count) = count else { return Ok((session.choose(sampler)?, None)) };
    let logits = session.logits()?;
    let token = sampler.sample(&mut logits.clone(), session.tokens())?;
    Ok((token, Some(logprobs(&logits, token, count))))
}

fn take(
    outcome: &mut Result<Outcome, EngineError>,
    chosen: crate::Result<(u32, Option<Logprobs>)>,
) {
    match (chosen, &mut *outcome) {
        (Ok((token, scores)), Ok(outcome)) => {
            (outcome.token, outcome.logprobs) = (Some(token), scores);
        }
        (Err(error), _) => *outcome = Err(error.into()),
        (Ok(_), Err(_)) => {}
    }
}

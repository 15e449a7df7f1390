//! Reading ahead of a sequence: tokens that are likely to follow go through the model together with the last one that
//! was chosen, and join the sequence when they are chosen too.
//!
//! A token's hidden state does not depend on which tokens are read with it, so the logits after a token that was read
//! ahead are, bit for bit, those of a session that reads one token at a time. Nothing is accepted on a likelihood: a
//! token read ahead counts only if the sampler chooses it from those logits.

use bitnet_core::backend::top_logits::{LogitQuery, TopLogits};
use bitnet_core::kv::STATE_CHUNK;
use bitnet_core::memory::tensor::BitNetTensor;

use crate::cache::reserve;
use crate::draft::DraftState;
use crate::sampler::Sampler;
use crate::session::Session;
use crate::{InferenceError, Result};

/// The most tokens that are read ahead: a recurrent state can be taken back by that many positions.
pub const MAX_DRAFT: usize = STATE_CHUNK - 1;

/// Tokens that the cache holds beyond the end of its session, with what follows from them.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    tokens: Vec<u32>,
    /// How many of them have joined the sequence.
    accepted: usize,
    /// The hidden states of the token before them and of each of them, `[1 + tokens, hidden]`.
    states: BitNetTensor,
    logits: RowLogits,
}

/// Logits after each row of hidden states.
#[derive(Debug)]
enum RowLogits {
    /// Those that the sampler asked for in each row.
    Top(Vec<(LogitQuery, TopLogits)>),
    /// All, `[rows, vocabulary]`.
    All(BitNetTensor),
}

impl ReadAhead {
    /// The logits after the session's last token, if they were computed for `query`.
    pub(crate) fn top(&self, query: &LogitQuery) -> Option<&TopLogits> {
        let RowLogits::Top(rows) = &self.logits else { return None };
        let (computed_for, found) = rows.get(self.accepted)?;
        (computed_for == query).then_some(found)
    }

    /// All logits after the session's last token, if they were computed.
    pub(crate) fn all(&self) -> Option<&[f32]> {
        let RowLogits::All(logits) = &self.logits else { return None };
        let width = *logits.shape().last()?;
        logits.f32().ok()?.chunks_exact(width).nth(self.accepted)
    }
}

impl Session {
    /// Reads `token`, and `draft` ahead: tokens that may follow it. [`Session::accept`] then takes each of them that is
    /// chosen, without running the model again. The logits that `sampler` needs after each of them are computed at
    /// once, so that weights and head are read once for all. With an empty draft this is [`Session::extend`] of one
    /// token.
    ///
    /// # Errors
    /// [`InferenceError::Parameter`] for more than [`MAX_DRAFT`] tokens; [`InferenceError::Resource`] if they do not fit;
    /// those of [`Session::extend`] and [`Session::logits`], but for logits that are not finite: they are an error once
    /// they are chosen from.
    pub fn extend_with_draft(
        &mut self,
        token: u32,
        draft: &[u32],
        sampler: &Sampler,
    ) -> Result<&mut Self> {
        if draft.len() > MAX_DRAFT {
            return Err(InferenceError::Parameter {
                parameter: "draft",
                value: format!("{} tokens", draft.len()),
                problem: "at most 15 tokens",
            });
        }
        self.drop_ahead();
        let read: Vec<u32> = std::iter::once(token).chain(draft.iter().copied()).collect();
        reserve(&mut self.cache, read.len())?;
        self.last = None;
        let states = self.decoder.forward(&read, &mut self.cache)?;
        let logits = self.logits_of_rows(&states, &read, sampler);
        let logits = match (logits, states.narrow(0, 0..1)) {
            (Ok(logits), Ok(last)) => {
                self.last = Some(last);
                logits
            }
            (Err(error), _) => {
                self.cache.truncate(self.tokens.len());
                return Err(error);
            }
            (_, Err(error)) => {
                self.cache.truncate(self.tokens.len());
                return Err(error.into());
            }
        };
        self.tokens.push(token);
        self.ahead = Some(ReadAhead { tokens: draft.to_vec(), accepted: 0, states, logits });
        Ok(self)
    }

    /// Adds `token` to the sequence if it is the next one that was read ahead. Returns whether it was; what was read
    /// ahead is forgotten if it was not.
    ///
    /// # Errors
    /// [`InferenceError::Core`], for want of memory.
    pub fn accept(&mut self, token: u32) -> Result<bool> {
        let Some(ahead) = &mut self.ahead else { return Ok(false) };
        if ahead.tokens.get(ahead.accepted) != Some(&token) {
            self.drop_ahead();
            return Ok(false);
        }
        let row = ahead.accepted + 1;
        self.last = Some(ahead.states.narrow(0, row..row + 1)?);
        ahead.accepted = row;
        self.tokens.push(token);
        Ok(true)
    }

    /// Forgets what was read ahead and did not join the sequence.
    pub(crate) fn drop_ahead(&mut self) {
        let Some(ahead) = self.ahead.take() else { return };
        self.cache.truncate(self.tokens.len());
        let rows = ahead.accepted + 1;
        let joined = self.tokens[self.tokens.len() - rows..].to_vec();
        if let Ok(states) = ahead.states.narrow(0, 0..rows) {
            self.follow(&joined, &states);
        }
    }

    /// Makes the layer that drafts tokens follow the sequence from here on, if the model has one.
    pub(crate) fn follow_with_draft_layer(&mut self) -> Result<()> {
        if self.draft.is_none() && self.decoder.draft.is_some() {
            let cache = self.decoder.new_draft_cache(self.capacity(), self.cache.kind())?;
            self.draft = Some(Box::new(DraftState::new(cache)));
        }
        Ok(())
    }

    /// Shows the layer that drafts tokens what was read, with the hidden states after it. Without memory for that,
    /// there are no drafts by it any more.
    pub(crate) fn follow(&mut self, tokens: &[u32], h: &BitNetTensor) {
        if let Some(draft) = &mut self.draft
            && draft.follow(&self.decoder, tokens, h).is_err()
        {
            self.draft = None;
        }
    }

    /// Computes the logits after each of `read`, tokens after this sequence, whose hidden states are `states`.
    fn logits_of_rows(
        &self,
        states: &BitNetTensor,
        read: &[u32],
        sampler: &Sampler,
    ) -> Result<RowLogits> {
        let mut history = self.tokens.clone();
        let queries = read.iter().map(|&token| {
            history.push(token);
            sampler.plan_query(&history)
        });
        if let Some(queries) = queries.collect::<Option<Vec<_>>>()
            && let Some(found) = self.decoder.top_logits(states, &queries)?
        {
            return Ok(RowLogits::Top(queries.into_iter().zip(found).collect()));
        }
        Ok(RowLogits::All(self.decoder.logits(states)?))
    }
}

//! One sequence being read and written: tokens, their cache, and the logits of the next one.

use std::collections::BTreeSet;
use std::sync::Arc;

use bitnet_core::backend::top_logits::{LogitQuery, TokenLogit, TopLogits};
use bitnet_core::kv::{KvCache, KvType};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::simd::largest_magnitude;

use crate::cache::{check_fits, reserve};
use crate::draft::DraftState;
use crate::models::{Decoder, LimitReason, ObserveFn, Sequence};
use crate::read_ahead::ReadAhead;
use crate::sampler::Sampler;
use crate::tokenizer::Tokenizer;
use crate::{InferenceError, Result};

/// Tokens that go through the model together when a prompt is read.
pub const PREFILL_CHUNK: usize = 256;

/// Positions for which a rotation table is made before the first token.
const ROPE_POSITIONS: usize = 1024;

/// One sequence of tokens with its key-value cache.
///
/// A session shares its model with others and borrows nothing: it can move to another thread or live in a task.
///
/// ```
/// use bitnet_inference::Model;
///
/// let model = Model::embedded()?;
/// let prompt = model.encode_prompt("Once upon a time")?;
/// let mut session = model.session(None)?;
/// let logits = std::thread::spawn(move || session.extend(&prompt)?.logits());
/// assert_eq!(logits.join().unwrap()?.len(), model.config().vocab_size);
/// # Ok::<(), bitnet_inference::InferenceError>(())
/// ```
#[derive(Debug)]
pub struct Session {
    pub(crate) decoder: Arc<Decoder>,
    pub(crate) tokenizer: Option<Arc<Tokenizer>>,
    pub(crate) end_tokens: Arc<BTreeSet<u32>>,
    pub(crate) cache: KvCache,
    pub(crate) tokens: Vec<u32>,
    /// The hidden state after the last token, `[1, hidden]`, if it was the last that was read.
    pub(crate) last: Option<BitNetTensor>,
    /// What the cache holds beyond `tokens`.
    pub(crate) ahead: Option<ReadAhead>,
    /// What the layer that drafts tokens knows of `tokens`, where it is used.
    pub(crate) draft: Option<Box<DraftState>>,
}

impl Session {
    /// Returns an empty sequence with room for `capacity` tokens, whose keys and values are stored as `kind`.
    ///
    /// # Errors
    /// [`InferenceError::Resource`] for more than the model's [`ContextLimit`](crate::models::ContextLimit), and if the
    /// memory can't be had.
    pub fn new(decoder: &Arc<Decoder>, capacity: usize, kind: KvType) -> Result<Self> {
        if capacity == 0 {
            return Err(InferenceError::Parameter {
                parameter: "context",
                value: "0".into(),
                problem: "at least 1 token",
            });
        }
        if let Some(limit) = decoder.config.context_limit.filter(|l| l.positions < capacity) {
            return Err(InferenceError::Resource {
                what: "context",
                used: capacity,
                limit: limit.positions,
                advice: match limit.reason {
                    LimitReason::DynamicRope => {
                        "the model's RoPE is dynamic, which is supported up to the trained length"
                    }
                    LimitReason::LongRope => {
                        "the model's LongRoPE has other frequencies beyond its original context, which are not supported"
                    }
                    LimitReason::SlidingWindow => {
                        "the model has sliding-window attention, which is supported within one window"
                    }
                },
            });
        }
        let cache = decoder.new_cache(capacity, kind)?;
        decoder.ropes(capacity.min(ROPE_POSITIONS))?;
        Ok(Self {
            decoder: Arc::clone(decoder),
            tokenizer: None,
            end_tokens: Arc::default(),
            cache,
            tokens: Vec::new(),
            last: None,
            ahead: None,
            draft: None,
        })
    }

    /// Sets what [`Session::generate`] writes text with, and the tokens that end a text.
    #[must_use]
    pub fn with_tokenizer(
        self,
        tokenizer: Option<Arc<Tokenizer>>,
        end_tokens: Arc<BTreeSet<u32>>,
    ) -> Self {
        Self { tokenizer, end_tokens, ..self }
    }

    /// Returns a session that has read the same tokens. Both share what memory they can: keys and values are copied, 64
    /// positions at a time, where one of them writes. What was read ahead stays with this one.
    #[must_use]
    pub fn fork(&self) -> Self {
        let fork = self.with_cache(&self.tokens, self.cache.fork(self.tokens.len()));
        let last = self.last.clone().filter(|_| fork.tokens.len() == self.tokens.len());
        Self { last, ..fork }
    }

    /// Returns a session of the same model whose cache holds the keys and values of the first of `tokens`.
    pub(crate) fn with_cache(&self, tokens: &[u32], cache: KvCache) -> Self {
        Self {
            decoder: Arc::clone(&self.decoder),
            tokenizer: self.tokenizer.clone(),
            end_tokens: Arc::clone(&self.end_tokens),
            tokens: tokens[..cache.len().min(tokens.len())].to_vec(),
            cache,
            last: None,
            ahead: None,
            draft: None,
        }
    }

    /// The tokens read so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> usize {
        self.cache.capacity()
    }

    /// The cache.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Reads more tokens. Returns the session, so that `session.extend(&tokens)?.logits()?` goes on.
    ///
    /// # Errors
    /// [`InferenceError::Resource`] if they do not fit, [`InferenceError::Parameter`] if there are none: the sequence
    /// is unchanged then. Those of [`Decoder::forward`].
    pub fn extend(&mut self, tokens: &[u32]) -> Result<&mut Self> {
        for chunk in self.prefill(tokens)? {
            chunk?;
        }
        Ok(self)
    }

    /// Reads more tokens chunk by chunk, one chunk for each item of the iterator: between items the caller can show
    /// progress, or stop. What was read by then remains.
    ///
    /// # Errors
    /// Those of [`Session::extend`].
    pub fn prefill<'s>(&'s mut self, tokens: &'s [u32]) -> Result<Prefill<'s>> {
        if tokens.is_empty() {
            return Err(no_tokens());
        }
        self.drop_ahead();
        reserve(&mut self.cache, tokens.len())?;
        self.last = None;
        Ok(Prefill { session: self, tokens, done: 0 })
    }

    /// Makes the sequence `tokens`: keeps the beginning that it has in common with what was read, and reads the rest.
    /// At least the last token is read again.
    ///
    /// # Errors
    /// Those of [`Session::extend`].
    pub fn set_tokens(&mut self, tokens: &[u32]) -> Result<&mut Self> {
        let common = self.truncate_to_prefix(tokens)?;
        self.extend(&tokens[common..])
    }

    /// Forgets what differs from `tokens`, and the last of them. Returns how many tokens stay.
    ///
    /// # Errors
    /// [`InferenceError::Resource`] if `tokens` do not fit; the sequence is unchanged then.
    pub fn truncate_to_prefix(&mut self, tokens: &[u32]) -> Result<usize> {
        check_fits(tokens.len(), self.capacity())?;
        let common = common_len(&self.tokens, tokens).min(tokens.len().saturating_sub(1));
        Ok(self.truncate(common))
    }

    /// Forgets everything from token `len` on. Returns how many tokens stay: fewer than `len` where the model has
    /// recurrent layers whose state at `len` is not known any more, as
    /// [`KvCache::truncate`](bitnet_core::kv::KvCache::truncate) says.
    pub fn truncate(&mut self, len: usize) -> usize {
        self.drop_ahead();
        let len = self.cache.truncate(len);
        let cut = self.tokens.len().saturating_sub(len);
        if cut > 0 {
            self.last = None;
        }
        if let Some(draft) = &mut self.draft {
            draft.cut(cut);
        }
        self.tokens.truncate(len);
        len
    }

    /// Reads more tokens and gives the logits after each of them to `on_row` (index, `[vocabulary]`), so that they are
    /// never all in memory.
    ///
    /// # Errors
    /// Those of [`Session::extend`] and [`Session::logits`]; `on_row` has
    /// received the rows before one that is not finite.
    pub fn extend_with_logits(
        &mut self,
        tokens: &[u32],
        mut on_row: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        /// Rows of logits that are in memory together.
        const ROWS: usize = 32;
        self.drop_ahead();
        reserve(&mut self.cache, tokens.len())?;
        self.last = None;
        let mut index = 0;
        for chunk in tokens.chunks(PREFILL_CHUNK) {
            let before = self.tokens.len();
            let h = self.decoder.forward(chunk, &mut self.cache)?;
            self.tokens.extend_from_slice(chunk);
            for start in (0..chunk.len()).step_by(ROWS) {
                let rows = h.narrow(0, start..chunk.len().min(start + ROWS))?;
                let logits = self.decoder.logits(&rows)?;
                let rows = logits.f32()?.chunks_exact(self.decoder.config.vocab_size);
                for (row, logits) in rows.enumerate() {
                    self.check_logits(logits, before + start + row + 1)?;
                    on_row(index, logits);
                    index += 1;
                }
            }
            self.last = Some(h.narrow(0, chunk.len() - 1..chunk.len())?);
        }
        Ok(())
    }

    /// Reads more tokens and shows `observe` what each linear layer reads:
    /// `[tokens of a chunk, features]` in each call.
    ///
    /// # Errors
    /// Those of [`Session::extend`] and of `observe`.
    pub fn extend_observed(&mut self, tokens: &[u32], observe: &mut ObserveFn<'_>) -> Result<()> {
        self.drop_ahead();
        reserve(&mut self.cache, tokens.len())?;
        for chunk in tokens.chunks(PREFILL_CHUNK) {
            self.last = None;
            let sequence = Sequence { tokens: chunk, cache: &mut self.cache };
            let h = self.decoder.forward_batch(&mut [sequence], Some(&mut *observe))?;
            self.tokens.extend_from_slice(chunk);
            self.last = Some(h.narrow(0, chunk.len() - 1..chunk.len())?);
        }
        Ok(())
    }

    /// Computes the logits after the last token, `[vocabulary]`.
    ///
    /// # Errors
    /// [`InferenceError::Parameter`] if nothing was read since the sequence was made or truncated,
    /// [`InferenceError::NonFiniteLogit`], and those of [`Decoder::logits`].
    pub fn logits(&self) -> Result<Vec<f32>> {
        let logits = self.decoder.logits(self.last()?)?.f32()?.to_vec();
        self.check_logits(&logits, self.tokens.len())?;
        Ok(logits)
    }

    /// Computes the logits after the last token that `query` asks for; `None` where all of them are computed as fast.
    /// See [`Decoder::top_logits`].
    ///
    /// # Errors
    /// Those of [`Session::logits`] and [`Decoder::top_logits`].
    pub fn top_logits(&self, query: LogitQuery) -> Result<Option<TopLogits>> {
        let found = self.decoder.top_logits(self.last()?, &[query])?;
        match found.and_then(|mut found| found.pop()) {
            Some(top) => self.check_top(top).map(Some),
            None => Ok(None),
        }
    }

    /// Returns the token that `sampler` chooses after the last one, from as few logits as it needs. For several
    /// sessions see [`choose_batch`](crate::choose_batch).
    ///
    /// # Errors
    /// Those of [`Session::top_logits`] and [`Sampler::sample`].
    pub fn choose(&self, sampler: &mut Sampler) -> Result<u32> {
        let ahead = self.ahead.as_ref();
        if let Some(query) = sampler.plan_query(&self.tokens) {
            let known = ahead.and_then(|ahead| ahead.top(&query)).cloned();
            let top = match known {
                Some(top) => Some(self.check_top(top)?),
                None if ahead.is_some_and(|ahead| ahead.all().is_some()) => None,
                None => self.top_logits(query)?,
            };
            if let Some(top) = top {
                return sampler.sample_top(&top, &self.tokens);
            }
        }
        let mut logits = match ahead.and_then(ReadAhead::all) {
            Some(known) => {
                self.check_logits(known, self.tokens.len())?;
                known.to_vec()
            }
            None => self.logits()?,
        };
        sampler.sample(&mut logits, &self.tokens)
    }

    pub(crate) fn last(&self) -> Result<&BitNetTensor> {
        self.last.as_ref().ok_or_else(no_tokens)
    }

    /// Returns an error if a logit after the last token is not finite.
    pub(crate) fn check_top(&self, top: TopLogits) -> Result<TopLogits> {
        match top.non_finite {
            Some(found) => Err(self.non_finite(found, self.tokens.len())),
            None => Ok(top),
        }
    }

    /// Returns an error if one of the logits after `position` tokens is not finite.
    pub(crate) fn check_logits(&self, logits: &[f32], position: usize) -> Result<()> {
        if largest_magnitude(logits).is_finite() {
            return Ok(());
        }
        let first = logits.iter().position(|logit| !logit.is_finite()).unwrap_or(0);
        let found = TokenLogit { token: first as u32, logit: logits[first] };
        Err(self.non_finite(found, position))
    }

    fn non_finite(&self, found: TokenLogit, position: usize) -> InferenceError {
        InferenceError::NonFiniteLogit {
            file: self.decoder.files.name.clone(),
            position,
            token: found.token,
            value: found.logit,
        }
    }
}

/// Reads tokens chunk by chunk. See [`Session::prefill`].
#[derive(Debug)]
pub struct Prefill<'s> {
    session: &'s mut Session,
    tokens: &'s [u32],
    done: usize,
}

/// How far a [`Prefill`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Tokens read.
    pub done: usize,
    /// Tokens in all.
    pub total: usize,
}

impl Iterator for Prefill<'_> {
    type Item = Result<Progress>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { session, tokens, done } = self;
        let chunk = tokens[*done..].chunks(PREFILL_CHUNK).next()?;
        let read = session.decoder.forward(chunk, &mut session.cache).and_then(|h| {
            session.tokens.extend_from_slice(chunk);
            session.follow(chunk, &h);
            *done += chunk.len();
            if *done == tokens.len() {
                // The end of a prompt is where the next one often departs; that of a written token is not.
                if tokens.len() > 1 {
                    session.cache.checkpoint();
                }
                session.last = Some(h.narrow(0, chunk.len() - 1..chunk.len())?);
            }
            Ok(Progress { done: *done, total: tokens.len() })
        });
        if read.is_err() {
            *done = tokens.len();
        }
        Some(read)
    }
}

/// Returns how many tokens two texts have in common before they differ.
pub(crate) fn common_len<'a>(
    a: impl IntoIterator<Item = &'a u32>,
    b: impl IntoIterator<Item = &'a u32>,
) -> usize {
    a.into_iter().zip(b).take_while(|(a, b)| a == b).count()
}

pub(crate) fn no_tokens() -> InferenceError {
    InferenceError::Parameter {
        parameter: "prompt",
        value: "no tokens".into(),
        problem: "at least one token; give some text",
    }
}

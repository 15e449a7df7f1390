//! One sequence being read and written: tokens, their cache, and the logits of the next one.

use bitnet_core::backend::top_logits::{TopLogits, TokenLogit};
use bitnet_core::kv::KvType;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::simd::largest_magnitude;

use crate::cache::SequenceCache;
use crate::models::{Decoder, LimitReason, ObserveFn, Sequence};
use crate::sampler::{Query, Sampler};
use crate::{InferenceError, Result};

/// Tokens that go through the model together when a prompt is read.
pub const PREFILL_CHUNK: usize = 256;

/// Positions for which a rotation table is made before the first token.
const ROPE_POSITIONS: usize = 1024;

/// One sequence. What was read once is not read again: [`Session::prime`] keeps the common beginning.
#[derive(Debug)]
pub struct Session<'m> {
    decoder: &'m Decoder,
    cache: SequenceCache,
    tokens: Vec<u32>,
    /// The hidden state after the last token, `[1, hidden]`, if it was the last that was read.
    last: Option<BitNetTensor>,
}

impl<'m> Session<'m> {
    /// An empty sequence with room for `capacity` tokens, whose keys and values are stored as `kind`.
    ///
    /// # Errors
    /// [`InferenceError::Resource`] for more than the model's [`ContextLimit`](crate::models::ContextLimit), and if the
    /// memory can't be had.
    pub fn new(decoder: &'m Decoder, capacity: usize, kind: KvType) -> Result<Self> {
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
                    LimitReason::SlidingWindow => {
                        "the model has sliding-window attention, which is supported within one window"
                    }
                },
            });
        }
        let cache = decoder.new_cache(capacity, kind)?;
        decoder.rope(capacity.min(ROPE_POSITIONS))?;
        Ok(Self { decoder, cache, tokens: Vec::new(), last: None })
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
    pub fn cache(&self) -> &SequenceCache {
        &self.cache
    }

    /// Reads more tokens; the logits after the last one, `[vocabulary]`.
    ///
    /// # Errors
    /// [`InferenceError::Resource`] if they do not fit, [`InferenceError::Parameter`] if there are none. The
    /// sequence is unchanged then.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.feed_until(tokens, &mut |_, _| true)?.ok_or_else(no_tokens)
    }

    /// As [`Session::feed`], calling `go_on` with (tokens read, tokens in all) after each chunk; `None` if it
    /// answered no. What was read by then stays.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn feed_until(
        &mut self,
        tokens: &[u32],
        go_on: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<Vec<f32>>> {
        if self.read(tokens, go_on)? { self.logits().map(Some) } else { Ok(None) }
    }

    /// Reads more tokens without their logits, calling `go_on` with (tokens read, tokens in all) after each chunk but
    /// the last; whether all were read. What was read when `go_on` answered no stays.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn read(
        &mut self,
        tokens: &[u32],
        go_on: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<bool> {
        if tokens.is_empty() {
            return Err(no_tokens());
        }
        self.cache.reserve(tokens.len())?;
        self.last = None;
        let mut read = 0;
        for chunk in tokens.chunks(PREFILL_CHUNK) {
            let h = self.decoder.forward(chunk, &mut self.cache)?;
            self.tokens.extend_from_slice(chunk);
            read += chunk.len();
            if read == tokens.len() {
                self.last = Some(h.narrow(0, chunk.len() - 1..chunk.len())?);
            } else if !go_on(read, tokens.len()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads more tokens, showing `observe` what each linear layer reads: `[tokens of a chunk, features]` in each call.
    ///
    /// # Errors
    /// As [`Session::feed`], and those of `observe`.
    pub fn read_observed(&mut self, tokens: &[u32], observe: &mut ObserveFn<'_>) -> Result<()> {
        self.cache.reserve(tokens.len())?;
        for chunk in tokens.chunks(PREFILL_CHUNK) {
            let sequence = Sequence { tokens: chunk, cache: &mut self.cache };
            let h = self.decoder.forward_batch(&mut [sequence], Some(&mut *observe))?;
            self.tokens.extend_from_slice(chunk);
            self.last = Some(h.narrow(0, chunk.len() - 1..chunk.len())?);
        }
        Ok(())
    }

    /// The logits after the last token, `[vocabulary]`.
    ///
    /// # Errors
    /// [`InferenceError::Parameter`] if nothing was read since the sequence was made or truncated,
    /// [`InferenceError::NonFiniteLogit`], and those of [`Decoder::logits`].
    pub fn logits(&self) -> Result<Vec<f32>> {
        let logits = self.decoder.logits(self.last()?)?.f32()?.to_vec();
        self.check_logits(&logits, self.tokens.len())?;
        Ok(logits)
    }

    /// That all logits after `position` tokens are finite.
    fn check_logits(&self, logits: &[f32], position: usize) -> Result<()> {
        if largest_magnitude(logits).is_finite() {
            return Ok(());
        }
        let first = logits.iter().position(|logit| !logit.is_finite()).unwrap_or(0);
        let found = TokenLogit { token: first as u32, logit: logits[first] };
        Err(self.non_finite(found, position))
    }

    fn non_finite(&self, found: TokenLogit, position: usize) -> InferenceError {
        InferenceError::NonFiniteLogit {
            file: self.decoder.files.name().to_owned(),
            position,
            token: found.token,
            value: found.logit,
        }
    }

    /// The `count` largest logits after the last token, and those of `extra_tokens`; `None` where all of them are
    /// computed as fast. See [`Decoder::top_logits`].
    ///
    /// # Errors
    /// As [`Session::logits`], and those of [`Decoder::top_logits`].
    pub fn top_logits(&self, count: usize, extra_tokens: &[u32]) -> Result<Option<TopLogits>> {
        let top = self.decoder.top_logits(self.last()?, count, extra_tokens)?;
        match top.as_ref().and_then(|top| top.non_finite) {
            Some(found) => Err(self.non_finite(found, self.tokens.len())),
            None => Ok(top),
        }
    }

    /// The token that `sampler` chooses after the last one, from as few logits as it needs.
    ///
    /// # Errors
    /// As [`Session::top_logits`], and those of [`Sampler::sample`].
    pub fn choose(&self, sampler: &mut Sampler) -> Result<u32> {
        if let Some(Query { count, extra_tokens }) = sampler.plan_query(&self.tokens)
            && let Some(top) = self.top_logits(count, &extra_tokens)?
        {
            return sampler.sample_top(&top, &self.tokens);
        }
        sampler.sample(&mut self.logits()?, &self.tokens)
    }

    fn last(&self) -> Result<&BitNetTensor> {
        self.last.as_ref().ok_or_else(no_tokens)
    }

    /// Reads more tokens; the logits after each of them, `[tokens, vocabulary]` row by row through `on_row`
    /// (index, logits), so that they are never all in memory.
    ///
    /// # Errors
    /// As [`Session::feed`]; rows before the first one that is not finite have been given by then.
    pub fn feed_all(
        &mut self,
        tokens: &[u32],
        on_row: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.last = None;
        /// Rows of logits that are in memory together.
        const ROWS: usize = 32;
        self.cache.reserve(tokens.len())?;
        let mut index = 0;
        for chunk in tokens.chunks(PREFILL_CHUNK) {
            let h = self.decoder.forward(chunk, &mut self.cache)?;
            self.tokens.extend_from_slice(chunk);
            for start in (0..chunk.len()).step_by(ROWS) {
                let logits =
                    self.decoder.logits(&h.narrow(0, start..chunk.len().min(start + ROWS))?)?;
                for row in logits.f32()?.chunks_exact(self.decoder.config.vocab_size) {
                    self.check_logits(
                        row,
                        self.tokens.len() - chunk.len() + index % PREFILL_CHUNK + 1,
                    )?;
                    on_row(index, row);
                    index += 1;
                }
            }
        }
        Ok(())
    }

    /// Makes the sequence `tokens`, keeping what it has in common with what was read, and reads the rest; the
    /// logits after the last token. At least the last token is read again. `None` if `go_on` answered no.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn prime(
        &mut self,
        tokens: &[u32],
        go_on: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<Option<Vec<f32>>> {
        if self.prime_only(tokens, go_on)? { self.logits().map(Some) } else { Ok(None) }
    }

    /// As [`Session::prime`] without the logits; whether all was read.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn prime_only(
        &mut self,
        tokens: &[u32],
        go_on: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Result<bool> {
        let common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let keep = common.min(tokens.len().saturating_sub(1));
        if tokens.len() > self.capacity() {
            return Err(InferenceError::Resource {
                what: "context",
                used: tokens.len(),
                limit: self.capacity(),
                advice: "shorten the prompt or raise the context size",
            });
        }
        self.truncate(keep);
        self.read(&tokens[keep..], go_on)
    }

    /// Forgets everything from token `len` on.
    pub fn truncate(&mut self, len: usize) {
        if len < self.tokens.len() {
            self.last = None;
        }
        self.tokens.truncate(len);
        self.cache.truncate(len);
    }
}

/// Reads one more token into each of several sequences of one model, together: the logits after each,
/// `[vocabulary]`. They are what [`Session::feed`] gives for each alone; the weights are read once for all.
///
/// # Errors
/// [`InferenceError::Parameter`] if there is not one token for each sequence, or if the sequences are not of one
/// model; [`InferenceError::Resource`] if one is full; those of [`Session::logits`]. No sequence has changed then.
pub fn advance_together(
    sessions: &mut [&mut Session<'_>],
    tokens: &[u32],
) -> Result<Vec<Vec<f32>>> {
    if tokens.len() != sessions.len() {
        return Err(InferenceError::Parameter {
            parameter: "tokens",
            value: tokens.len().to_string(),
            problem: "one token for each sequence",
        });
    }
    let Some(decoder) = sessions.first().map(|session| session.decoder) else {
        return Ok(Vec::new());
    };
    if sessions.iter().any(|session| !std::ptr::eq(session.decoder, decoder)) {
        return Err(InferenceError::Parameter {
            parameter: "sequences",
            value: "of several models".into(),
            problem: "all of one model",
        });
    }
    for session in &mut *sessions {
        session.cache.reserve(1)?;
    }
    let mut sequences: Vec<_> = sessions
        .iter_mut()
        .zip(tokens)
        .map(|(session, token)| Sequence {
            tokens: std::slice::from_ref(token),
            cache: &mut session.cache,
        })
        .collect();
    let h = decoder.forward_batch(&mut sequences, None)?;
    let logits = decoder.logits(&h).and_then(|logits| {
        let rows = logits.f32()?.chunks_exact(decoder.config.vocab_size);
        for (session, row) in sessions.iter().zip(rows.clone()) {
            session.check_logits(row, session.tokens.len() + 1)?;
        }
        Ok(rows.map(<[f32]>::to_vec).collect())
    });
    for (index, (session, token)) in sessions.iter_mut().zip(tokens).enumerate() {
        if logits.is_err() {
            session.cache.truncate(session.tokens.len());
            continue;
        }
        session.tokens.push(*token);
        session.last = Some(h.narrow(0, index..index + 1)?);
    }
    logits
}

fn no_tokens() -> InferenceError {
    InferenceError::Parameter {
        parameter: "prompt",
        value: "no tokens".into(),
        problem: "at least one token; give some text",
    }
}

//! One sequence being read and written: tokens, their cache, and the logits of the next one.

use bitnet_core::backend::RopeTable;

use crate::cache::KvCache;
use crate::models::Decoder;
use crate::{InferenceError, Result};

/// Tokens that go through the model together when a prompt is read.
pub const PREFILL_CHUNK: usize = 256;

/// One sequence. What was read once is not read again: [`Session::prime`] keeps the common beginning.
#[derive(Debug)]
pub struct Session<'m> {
    decoder: &'m Decoder,
    cache: KvCache,
    rope: RopeTable,
    tokens: Vec<u32>,
}

impl<'m> Session<'m> {
    /// An empty sequence with room for `capacity` tokens.
    ///
    /// # Errors
    /// If the memory can't be had.
    pub fn new(decoder: &'m Decoder, capacity: usize) -> Result<Self> {
        if capacity == 0 {
            return Err(InferenceError::Parameter {
                parameter: "context",
                value: "0".into(),
                problem: "at least 1 token",
            });
        }
        let cache = decoder.new_cache(capacity)?;
        let rope = decoder.rope_table(capacity)?;
        Ok(Self { decoder, cache, rope, tokens: Vec::new() })
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
        if tokens.is_empty() {
            return Err(no_tokens());
        }
        self.cache.ensure_room(tokens.len())?;
        let mut read = 0;
        for chunk in tokens.chunks(PREFILL_CHUNK) {
            let h = self.decoder.forward(chunk, &mut self.cache, &self.rope)?;
            self.tokens.extend_from_slice(chunk);
            read += chunk.len();
            if read == tokens.len() {
                let last = h.narrow(0, chunk.len() - 1..chunk.len())?;
                return Ok(Some(self.decoder.logits(&last)?.f32()?.to_vec()));
            }
            if !go_on(read, tokens.len()) {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Reads more tokens; the logits after each of them, `[tokens, vocabulary]` row by row through `on_row`
    /// (index, logits), so that they are never all in memory.
    ///
    /// # Errors
    /// As [`Session::feed`].
    pub fn feed_all(
        &mut self,
        tokens: &[u32],
        on_row: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        /// Rows of logits that are in memory together.
        const ROWS: usize = 32;
        self.cache.ensure_room(tokens.len())?;
        let mut index = 0;
        for chunk in tokens.chunks(PREFILL_CHUNK) {
            let h = self.decoder.forward(chunk, &mut self.cache, &self.rope)?;
            self.tokens.extend_from_slice(chunk);
            for start in (0..chunk.len()).step_by(ROWS) {
                let logits =
                    self.decoder.logits(&h.narrow(0, start..chunk.len().min(start + ROWS))?)?;
                for row in logits.f32()?.chunks_exact(self.decoder.config.vocab_size) {
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
        self.feed_until(&tokens[keep..], go_on)
    }

    /// Forgets everything from token `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.cache.truncate(len);
    }
}

fn no_tokens() -> InferenceError {
    InferenceError::Parameter {
        parameter: "prompt",
        value: "no tokens".into(),
        problem: "at least one token; give some text",
    }
}

//! From written tokens to text: whole characters, stop strings, and tokens that end a text.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{FinishReason, GenerateOptions, StopFilter};
use crate::session::Session;
use crate::tokenizer::{TextStream, Tokenizer};
use crate::{InferenceError, Result};

/// Takes the tokens of one text as they are chosen.
#[derive(Debug)]
pub(crate) struct TextWriter {
    stream: TextStream<Arc<Tokenizer>>,
    filter: StopFilter,
    end_tokens: Arc<BTreeSet<u32>>,
    stop_tokens: Vec<u32>,
}

/// What came of a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Whole characters; empty while a character or a stop string may still be completed.
    Text(String),
    /// The text before a stop string that the token completed; the text ends with it.
    Last(String),
    /// Nothing: the text ends before the token.
    End(FinishReason),
}

impl TextWriter {
    /// Returns a writer for text after a prompt.
    ///
    /// # Errors
    /// [`InferenceError::UnsupportedOperation`] for a session without a tokenizer.
    pub(crate) fn new(session: &Session, options: &GenerateOptions) -> Result<Self> {
        let tokenizer = session.tokenizer.as_ref();
        let tokenizer = tokenizer.ok_or_else(|| InferenceError::no_tokenizer("writing text"))?;
        let end_tokens = &session.end_tokens;
        Ok(Self {
            stream: TextStream::continuing(Arc::clone(tokenizer)),
            filter: StopFilter::new(&options.stop),
            end_tokens: if options.ignore_end { Arc::default() } else { Arc::clone(end_tokens) },
            stop_tokens: options.stop_tokens.clone(),
        })
    }

    /// Takes the token that was chosen.
    ///
    /// # Errors
    /// Those of [`TextStream::push`].
    pub(crate) fn take(&mut self, token: u32) -> Result<Written> {
        if self.end_tokens.contains(&token) {
            return Ok(Written::End(FinishReason::EndOfText));
        }
        if self.stop_tokens.contains(&token) {
            return Ok(Written::End(FinishReason::Stop));
        }
        Ok(match self.filter.push(&self.stream.push(token)?) {
            (text, true) => Written::Last(text),
            (text, false) => Written::Text(text),
        })
    }

    /// The stop string that came.
    pub(crate) fn stop(&self) -> Option<&str> {
        self.filter.found()
    }

    /// Returns what was held back, once no more tokens come: the beginning of a stop string, or of a character.
    pub(crate) fn finish(&mut self) -> String {
        let (mut text, _) = self.filter.push(&self.stream.finish());
        text.push_str(&self.filter.finish());
        text
    }
}

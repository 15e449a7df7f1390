//! From written tokens to text: whole characters, stop strings, and why writing ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{FinishReason, GenerateOptions, StopFilter, Token};
use crate::Result;
use crate::tokenizer::{TextStream, Tokenizer};

/// Takes the tokens of one text as they are chosen.
#[derive(Debug)]
pub(crate) struct TextWriter {
    stream: TextStream<Arc<Tokenizer>>,
    filter: StopFilter,
    end_tokens: Arc<BTreeSet<u32>>,
    stop_tokens: Vec<u32>,
    left: usize,
}

impl TextWriter {
    /// A writer for text after a prompt.
    pub(crate) fn new(
        tokenizer: Arc<Tokenizer>,
        end_tokens: &Arc<BTreeSet<u32>>,
        options: &GenerateOptions,
    ) -> Self {
        Self {
            stream: TextStream::continuing(tokenizer),
            filter: StopFilter::new(&options.stop),
            end_tokens: if options.ignore_end { Arc::default() } else { Arc::clone(end_tokens) },
            stop_tokens: options.stop_tokens.clone(),
            left: options.max_tokens,
        }
    }

    /// Whether no token may be written.
    pub(crate) fn is_full(&self) -> bool {
        self.left == 0
    }

    /// Takes the token that was chosen. Returns what is written by it, if anything, and why writing ends with it, if it
    /// does.
    ///
    /// # Errors
    /// Those of [`TextStream::push`].
    pub(crate) fn take(&mut self, token: u32) -> Result<(Option<Token>, Option<FinishReason>)> {
        if self.end_tokens.contains(&token) {
            return Ok((self.held(), Some(FinishReason::EndOfText)));
        }
        if self.stop_tokens.contains(&token) {
            return Ok((self.held(), Some(FinishReason::Stop)));
        }
        let (mut text, is_stopped) = self.filter.push(&self.stream.push(token)?);
        self.left = self.left.saturating_sub(1);
        let finish = match (is_stopped, self.left) {
            (true, _) => Some(FinishReason::Stop),
            (false, 0) => Some(FinishReason::Length),
            (false, _) => None,
        };
        if finish == Some(FinishReason::Length) {
            text.extend(self.held().map(|held| held.text));
        }
        Ok((Some(Token { id: Some(token), text }), finish))
    }

    /// Returns the text that was held back, if there is any: the beginning of a stop string, or of a character.
    pub(crate) fn held(&mut self) -> Option<Token> {
        let (mut text, _) = self.filter.push(&self.stream.finish());
        text.push_str(&self.filter.finish());
        (!text.is_empty()).then_some(Token { id: None, text })
    }
}

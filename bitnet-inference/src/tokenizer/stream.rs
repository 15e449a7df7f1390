//! Text from tokens as they come: only whole characters leave, broken ones are held back.

use std::ops::Deref;

use super::{Tokenizer, error::Result};

/// Turns tokens into text one at a time, never splitting a character.
///
/// What [`push`](Self::push) returned in all, followed by [`finish`](Self::finish), equals [`Tokenizer::decode`] of all
/// tokens at once (for [`TextStream::continuing`]: without the removal of the first space).
#[derive(Debug)]
pub struct TextStream<T> {
    tokenizer: T,
    skip_special: bool,
    /// A leading space is still to be dropped.
    drop_space: bool,
    /// Bytes that do not yet make a character: at most three.
    held: Vec<u8>,
}

impl<T: Deref<Target = Tokenizer>> TextStream<T> {
    /// A stream for the beginning of a text; control tokens are left out.
    pub fn new(tokenizer: T) -> Self {
        Self {
            drop_space: tokenizer.drops_first_space(),
            tokenizer,
            skip_special: true,
            held: Vec::new(),
        }
    }

    /// A stream for text that goes on where other text ended,
    /// as an answer after a prompt: a space at the beginning stays.
    pub fn continuing(tokenizer: T) -> Self {
        Self { drop_space: false, ..Self::new(tokenizer) }
    }

    /// Whether control tokens are left out of the text; they are unless this says otherwise.
    pub fn skip_special(mut self, skip: bool) -> Self {
        self.skip_special = skip;
        self
    }

    /// Takes the next token and returns the text that is complete now; it may be empty.
    ///
    /// # Errors
    /// [`UnknownId`](super::TokenizerError::UnknownId) for an id beyond the vocabulary and the rows of the embedding;
    /// the stream is unchanged.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let piece = self.tokenizer.piece(id)?;
        if self.skip_special && self.tokenizer.is_special(id) {
            return Ok(String::new());
        }
        let mut bytes: &[u8] = piece.bytes;
        if self.drop_space && !bytes.is_empty() {
            self.drop_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.held.extend_from_slice(bytes);
        Ok(self.take_complete())
    }

    /// Ends the text: an unfinished character becomes U+FFFD. The stream starts again from nothing.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        rest
    }

    /// Moves out everything but an unfinished character at the end; bytes that can begin no character become U+FFFD.
    fn take_complete(&mut self) -> String {
        let mut text = String::with_capacity(self.held.len());
        let mut done = 0;
        for chunk in self.held.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let broken = chunk.invalid();
            let is_last = done + broken.len() == self.held.len();
            let may_go_on = |error: std::str::Utf8Error| error.error_len().is_none();
            if is_last && (broken.is_empty() || std::str::from_utf8(broken).is_err_and(may_go_on)) {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            done += broken.len();
        }
        self.held.drain(..done);
        text
    }
}

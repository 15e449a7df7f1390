//! Parts shared by both JSON parsers: borrowed names, typed errors inside a parse, byte offsets.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};

use crate::error::{Error, shown};

/// Maximum number of tensors of a file or index; the largest mixtures of experts have tens of thousands.
pub(super) const TENSOR_LIMIT: u64 = 1 << 20;
/// Maximum size of a header or index in bytes (the format's limit for headers).
pub(super) const JSON_BYTES: u64 = 100_000_000;

/// The state of a parse, and the typed error that ended it, if any.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The current tensor.
    pub(super) tensor: Option<String>,
    /// The current field.
    pub(super) field: &'static str,
    pub(super) failure: Option<Error>,
}

impl Progress {
    /// Ends the parse with a typed error.
    pub(super) fn fail<E: serde::de::Error>(&mut self, error: Error) -> E {
        self.failure = Some(error);
        E::custom("see the typed error")
    }

    /// Returns the error to report for one of `serde_json`; `text` is the parsed text at byte `base` of the file.
    pub(super) fn explain(
        self,
        error: &serde_json::Error,
        file: &str,
        text: &[u8],
        base: u64,
    ) -> Error {
        if let Some(failure) = self.failure {
            return failure;
        }
        let offset = base + offset_of(text, error.line(), error.column());
        let problem = message_of(error);
        match self.tensor {
            Some(tensor) => Error::tensor(file, &tensor, self.field, offset, problem),
            None => Error::header(file, self.field, offset, problem),
        }
    }
}

/// Returns the byte offset of a line and column (both from 1; column 0 is the end of the previous line).
fn offset_of(text: &[u8], line: usize, column: usize) -> u64 {
    let newlines =
        text.iter().enumerate().filter(|&(_, &byte)| byte == b'\n').map(|(at, _)| at + 1);
    let start = std::iter::once(0).chain(newlines).nth(line.saturating_sub(1)).unwrap_or(0);
    (start + column.saturating_sub(1)).min(text.len()) as u64
}

/// Returns the message without its line and column; it may quote text of the file.
fn message_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let bare = text.rsplit_once(" at line ").map_or(text.as_str(), |(bare, _)| bare);
    // Quotes come from the parser; all other characters are escaped.
    shown(bare).replace("\\\"", "\"").replace("\\'", "'")
}

/// A JSON object that is read entry by entry.
pub(super) trait Object<'de> {
    /// What error messages call it.
    const EXPECTED: &'static str;

    /// Reads the value of `key` from `map`.
    fn entry<A: MapAccess<'de>>(&mut self, key: Cow<'de, str>, map: &mut A)
    -> Result<(), A::Error>;
}

/// Reads all entries of an object.
pub(super) struct Entries<'o, O>(pub(super) &'o mut O);

impl<'de, O: Object<'de>> DeserializeSeed<'de> for Entries<'_, O> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, O: Object<'de>> Visitor<'de> for Entries<'_, O> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(O::EXPECTED)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Text)? {
            self.0.entry(key, &mut map)?;
        }
        Ok(())
    }
}

/// Reads a string, borrowed where it has no escapes.
pub(super) struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

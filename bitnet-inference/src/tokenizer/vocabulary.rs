//! The tokens of a vocabulary: id, written form, bytes and class.

use std::collections::HashMap;

use super::error::{Result, TokenizerError};

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Ordinary text.
    Normal,
    /// Stands for text that the vocabulary cannot write.
    Unknown,
    /// Steers the model and is no text: beginning, end, turn marks.
    Control,
    /// Added by hand; matched in the text before everything else.
    UserDefined,
    /// Reserved; never written.
    Unused,
    /// One byte, written `<0xHH>`.
    Byte,
}

/// One token.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    /// As the file writes it.
    pub(crate) text: Box<str>,
    /// The bytes that it adds to a text.
    pub(crate) bytes: Box<[u8]>,
    /// What it is for.
    pub(crate) class: Class,
}

/// All tokens; an id without a token is a gap.
#[derive(Debug, Default)]
pub(crate) struct Vocabulary {
    pieces: Vec<Option<Piece>>,
    ids: HashMap<Box<str>, u32>,
}

impl Vocabulary {
    /// Takes the tokens by id. Of tokens with the same text the lowest id is found by text.
    pub(crate) fn new(pieces: Vec<Option<Piece>>) -> Self {
        let mut ids = HashMap::with_capacity(pieces.len());
        for (id, piece) in (0u32..).zip(&pieces) {
            if let Some(piece) = piece {
                ids.entry(piece.text.clone()).or_insert(id);
            }
        }
        Self { pieces, ids }
    }

    /// One past the highest id.
    pub(crate) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The token of an id.
    pub(crate) fn piece(&self, id: u32) -> Result<&Piece> {
        self.get(id).ok_or(TokenizerError::UnknownId { id, size: self.pieces.len() })
    }

    /// The token of an id, if there is one.
    pub(crate) fn get(&self, id: u32) -> Option<&Piece> {
        self.pieces.get(usize::try_from(id).ok()?)?.as_ref()
    }

    /// The id of a token by its written form.
    pub(crate) fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Ids and tokens in order of id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Piece)> {
        (0u32..).zip(&self.pieces).filter_map(|(id, piece)| Some((id, piece.as_ref()?)))
    }
}

/// The byte that `<0xHH>` stands for; `None` for any other spelling.
pub(crate) fn byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let well_formed = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    well_formed.then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::byte_token;

    #[test]
    fn only_two_hex_digits_make_a_byte() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        assert_eq!(byte_token("<0xff>"), Some(255));
        for wrong in ["<0x-1>", "<0xZZ>", "<0x+1>", "<0x1>", "<0x100>", "0x41", "<0x41", ""] {
            assert_eq!(byte_token(wrong), None, "{wrong}");
        }
    }
}

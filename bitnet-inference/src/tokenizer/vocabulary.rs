//! The tokens of a vocabulary: id, written form, bytes and class.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use hashbrown::HashTable;

/// What a token is for, with its number in `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Ordinary text.
    Normal = 1,
    /// Stands for text that the vocabulary cannot write.
    Unknown = 2,
    /// Steers the model and is no text: beginning, end, turn marks.
    Control = 3,
    /// Added by hand; matched in the text before everything else.
    UserDefined = 4,
    /// Reserved; never written.
    Unused = 5,
    /// One byte, written `<0xHH>`.
    Byte = 6,
}

impl Class {
    /// The class with that number in `tokenizer.ggml.token_type`; files without one write 0 for ordinary text.
    pub(crate) fn of_token_type(number: i32) -> Option<Self> {
        Some(match number {
            0 | 1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// Its number in `tokenizer.ggml.token_type`.
    pub(crate) fn token_type(self) -> i32 {
        self as i32
    }
}

/// One token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    /// As the file writes it.
    pub(crate) text: &'a str,
    /// The bytes that it adds to a text.
    pub(crate) bytes: &'a [u8],
    /// What it is for.
    pub(crate) class: Class,
}

impl Piece<'static> {
    /// What an id without a token adds to a text: nothing.
    pub(crate) const EMPTY: Self = Self { text: "", bytes: b"", class: Class::Unused };
}

/// Where a token stands in what a vocabulary holds together.
#[derive(Debug)]
struct Place {
    text: Range<usize>,
    bytes: Range<usize>,
    class: Class,
}

/// All tokens; an id without a token is a gap. There are hundreds of thousands, and none has memory of its own.
#[derive(Debug, Default)]
pub(crate) struct Vocabulary {
    places: Vec<Option<Place>>,
    texts: String,
    bytes: Vec<u8>,
    /// By the hash of the text.
    ids: HashTable<u32>,
    hashes: RandomState,
}

impl Vocabulary {
    /// Room for `count` tokens.
    pub(crate) fn with_capacity(count: usize) -> Self {
        let (places, ids) = (Vec::with_capacity(count), HashTable::with_capacity(count));
        Self { places, ids, ..Self::default() }
    }

    /// Takes the token of the next id. Of tokens with the same text the lowest id is found by text.
    pub(crate) fn push(&mut self, piece: Option<Piece<'_>>) {
        let place = piece.map(|Piece { text, bytes, class }| {
            let (text_at, bytes_at) = (self.texts.len(), self.bytes.len());
            self.texts.push_str(text);
            self.bytes.extend_from_slice(bytes);
            Place { text: text_at..self.texts.len(), bytes: bytes_at..self.bytes.len(), class }
        });
        self.places.push(place);
        if let (Some(piece), Ok(id)) = (piece, u32::try_from(self.places.len() - 1)) {
            let Self { places, texts, ids, hashes, .. } = self;
            let text_of = |id: u32| {
                let place = places.get(id as usize).and_then(Option::as_ref);
                place.and_then(|place| texts.get(place.text.clone())).unwrap_or_default()
            };
            let (same, hash_of) =
                (|id: &u32| text_of(*id) == piece.text, |id: &u32| hashes.hash_one(text_of(*id)));
            ids.entry(hashes.hash_one(piece.text), same, hash_of).or_insert(id);
        }
    }

    /// One past the highest id.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The token of an id, if there is one.
    pub(crate) fn get(&self, id: u32) -> Option<Piece<'_>> {
        self.at(self.places.get(usize::try_from(id).ok()?)?.as_ref()?)
    }

    fn at(&self, Place { text, bytes, class }: &Place) -> Option<Piece<'_>> {
        let (text, bytes) = (self.texts.get(text.clone())?, self.bytes.get(bytes.clone())?);
        Some(Piece { text, bytes, class: *class })
    }

    /// The id of a token by its written form.
    pub(crate) fn id(&self, text: &str) -> Option<u32> {
        let same = |id: &u32| self.get(*id).is_some_and(|piece| piece.text == text);
        self.ids.find(self.hashes.hash_one(text), same).copied()
    }

    /// Ids and tokens in order of id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, Piece<'_>)> {
        let all = (0u32..).zip(&self.places);
        all.filter_map(|(id, place)| Some((id, self.at(place.as_ref()?)?)))
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
    use super::*;

    #[test]
    fn tokens_are_found_by_id_and_by_text() {
        let mut vocabulary = Vocabulary::with_capacity(1);
        let piece = |text, bytes| Some(Piece { text, bytes, class: Class::Normal });
        for token in [piece("Ġa", b" a".as_slice()), None, piece("", b""), piece("Ġa", b"other")]
        {
            vocabulary.push(token);
        }
        assert_eq!(vocabulary.len(), 4);
        assert_eq!(
            (vocabulary.id("Ġa"), vocabulary.id(""), vocabulary.id("a")),
            (Some(0), Some(2), None)
        );
        assert_eq!(vocabulary.get(3).unwrap().bytes, b"other");
        assert!(vocabulary.get(1).is_none() && vocabulary.get(4).is_none());
        let ids: Vec<u32> = vocabulary.iter().map(|(id, _)| id).collect();
        assert_eq!(ids, [0, 2, 3]);
    }

    #[test]
    fn only_two_hex_digits_make_a_byte() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        assert_eq!(byte_token("<0xff>"), Some(255));
        for wrong in ["<0x-1>", "<0xZZ>", "<0x+1>", "<0x1>", "<0x100>", "0x41", "<0x41", ""] {
            assert_eq!(byte_token(wrong), None, "{wrong}");
        }
    }
}

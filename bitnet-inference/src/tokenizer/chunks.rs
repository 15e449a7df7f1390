//! Cutting a long text into chunks whose ids, one after the other, are those of the whole text.
//!
//! Two rules tell where a text can be cut. Pre-tokenizers of GPT-2's kind end a word after every letter that neither a
//! letter nor a mark follows, and look no further: see [`Words`]. Models that merge across words never merge across two
//! characters that no token holds side by side: see [`Pairs`].

use std::collections::HashSet;
use std::sync::LazyLock;

use fancy_regex::Regex;

use super::error::{Result, TokenizerError, shortened};
use super::vocabulary::Vocabulary;

/// Bytes after which a text is cut at the next place where that is safe.
pub(crate) const CHUNK: usize = 64 * 1024;
/// Longest chunk in bytes of a text that can be cut: a word or a run of characters without a safe place.
const LONGEST_CHUNK: usize = 256 * 1024;
/// Longest text in bytes for tokenizers whose texts can't be cut. Encoding takes about 100 bytes of memory for each.
const LONGEST_WHOLE: usize = 2 << 20;

/// A rule for safe places.
pub(crate) trait SafePlaces {
    /// The first safe place in `text` at or after byte `from`, a character boundary.
    fn next(&self, text: &str, from: usize) -> Option<usize>;
}

/// Between a letter and a character that is neither a letter nor a mark, where `is_kept` says that what is done to the
/// text before it is cut into words leaves both characters as they are.
pub(crate) struct Words<F>(pub(crate) F);

/// The Unicode classes are those of the patterns that cut text into words.
static WORD_END: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\p{L}[^\p{L}\p{M}]").ok());

impl<F: Fn(&str) -> bool> SafePlaces for Words<F> {
    fn next(&self, text: &str, from: usize) -> Option<usize> {
        let mut from = from;
        loop {
            let found = WORD_END.as_ref()?.find_from_pos(text, from).ok()??;
            from = found.start() + found.as_str().chars().next()?.len_utf8();
            if (self.0)(found.as_str()) {
                return Some(from);
            }
        }
    }
}

/// The pairs of characters that stand side by side in some token.
#[derive(Debug, Default)]
pub(crate) struct Pairs(HashSet<(char, char)>);

impl Pairs {
    /// Collects the pairs of these tokens.
    pub(crate) fn in_tokens<'t>(tokens: impl Iterator<Item = &'t str>) -> Self {
        Self(tokens.flat_map(|token| token.chars().zip(token.chars().skip(1))).collect())
    }

    /// Whether some token holds `left` directly before `right`.
    pub(crate) fn contain(&self, left: char, right: char) -> bool {
        self.0.contains(&(left, right))
    }
}

/// Whether every byte is a token and no other token holds the name of one: then nothing joins the bytes of characters
/// that are no tokens.
pub(crate) fn bytes_stay_apart(vocabulary: &Vocabulary) -> bool {
    let is_byte = |byte| vocabulary.id(&format!("<0x{byte:02X}>")).is_some();
    let named = vocabulary.iter().filter(|(_, piece)| piece.text.contains("<0x")).count();
    named == 256 && (0..=255u8).all(is_byte)
}

/// Between two characters that stand side by side in no token.
pub(crate) struct Apart<'v> {
    pub(crate) pairs: &'v Pairs,
    /// Demands that both are tokens of this vocabulary, where others may be joined in another way.
    pub(crate) known_to: Option<&'v Vocabulary>,
    /// What stands in the vocabulary for a space in the text.
    pub(crate) space: char,
}

impl SafePlaces for Apart<'_> {
    fn next(&self, text: &str, from: usize) -> Option<usize> {
        let is_known = |letter: char| {
            let id = |vocabulary: &Vocabulary| vocabulary.id(letter.encode_utf8(&mut [0; 4]));
            self.known_to.is_none_or(|vocabulary| id(vocabulary).is_some())
        };
        let spelled = |letter| if letter == ' ' { self.space } else { letter };
        let mut letters =
            text.get(from..)?.char_indices().map(|(at, letter)| (at, spelled(letter)));
        let mut left = letters.next()?.1;
        for (at, right) in letters {
            if !self.pairs.contain(left, right) && is_known(left) && is_known(right) {
                return Some(from + at);
            }
            left = right;
        }
        None
    }
}

/// Calls `encode` with the chunks of a text, all of it in order.
///
/// # Errors
/// [`TokenizerError::NoPlaceToCut`] before a chunk that would be longer than [`LONGEST_CHUNK`]; those of `encode`.
pub(crate) fn for_each_chunk<'t>(
    text: &'t str,
    places: &impl SafePlaces,
    mut encode: impl FnMut(&'t str) -> Result<()>,
) -> Result<()> {
    let mut rest = text;
    while rest.len() > CHUNK {
        let window = rest.get(..boundary(rest, LONGEST_CHUNK)).unwrap_or(rest);
        let from = boundary(rest, CHUNK);
        let end = match places.next(window, from) {
            Some(end) => end,
            None if window.len() == rest.len() => rest.len(),
            None => return Err(no_place(text, rest, LONGEST_CHUNK)),
        };
        let (chunk, after) = rest.split_at(end);
        encode(chunk)?;
        rest = after;
    }
    if rest.is_empty() { Ok(()) } else { encode(rest) }
}

/// The last character boundary at or before byte `at`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Refuses a text that is too long for a tokenizer whose texts can't be cut.
///
/// # Errors
/// [`TokenizerError::NoPlaceToCut`] for a text longer than [`LONGEST_WHOLE`].
pub(crate) fn check_whole(text: &str) -> Result<()> {
    if text.len() > LONGEST_WHOLE { Err(no_place(text, text, LONGEST_WHOLE)) } else { Ok(()) }
}

fn no_place(text: &str, rest: &str, limit: usize) -> TokenizerError {
    let at = text.len() - rest.len();
    TokenizerError::NoPlaceToCut { at, limit, text: shortened(rest) }
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::{Class, Piece};
    use super::*;

    fn cut<'t>(text: &'t str, places: &impl SafePlaces) -> Result<Vec<&'t str>> {
        let mut parts = Vec::new();
        for_each_chunk(text, places, |chunk| {
            parts.push(chunk);
            Ok(())
        })?;
        assert_eq!(parts.concat(), text);
        Ok(parts)
    }

    #[test]
    fn texts_of_all_scripts_are_cut_after_words() {
        for text in [
            "one two, three.  four\nfive é six ",
            "это предложение без английских букв ",
            "这是一个没有空格的句子，后面还有一个。",
            "この文には空白がありません。",
            "a,b;c/d=e+",
        ] {
            let text = text.repeat(20_000);
            let parts = cut(&text, &Words(|_: &str| true)).unwrap();
            assert!(parts.len() > 2 && parts.iter().all(|part| part.len() < CHUNK + 128));
            for part in &parts[1..] {
                assert!(!part.starts_with(char::is_alphabetic), "{part:.9}");
            }
        }
    }

    #[test]
    fn places_that_the_text_does_not_keep_are_passed_over() {
        let text = "é, b. ".repeat(20_000);
        let parts = cut(&text, &Words(|pair: &str| pair.is_ascii())).unwrap();
        assert!(parts.len() > 1 && parts[1..].iter().all(|part| part.starts_with(". ")));
    }

    #[test]
    fn a_run_without_a_safe_place_is_an_error_that_names_it() {
        let longest = "a".repeat(LONGEST_CHUNK);
        assert_eq!(cut(&longest, &Words(|_: &str| true)).unwrap(), [&longest]);
        let text = format!("{} {longest}a", "b ".repeat(CHUNK));
        let error = cut(&text, &Words(|_: &str| true)).unwrap_err();
        let TokenizerError::NoPlaceToCut { at, limit, .. } = error else { panic!("{error}") };
        assert_eq!(limit, LONGEST_CHUNK);
        assert!(at > CHUNK && at <= 2 * CHUNK + 1, "{at}");
        assert!(check_whole(&"a".repeat(LONGEST_WHOLE)).is_ok());
        assert!(check_whole(&"a".repeat(LONGEST_WHOLE + 1)).is_err());
    }

    #[test]
    fn pairs_that_a_token_holds_and_unknown_characters_are_not_cut() {
        let mut vocabulary = Vocabulary::with_capacity(8);
        for text in ["a", "b", "c", "▁", "ab", "b▁", "▁a"] {
            vocabulary.push(Some(Piece { text, bytes: b"", class: Class::Normal }));
        }
        let pairs = Pairs::in_tokens(vocabulary.iter().map(|(_, piece)| piece.text));
        let apart = Apart { pairs: &pairs, known_to: Some(&vocabulary), space: '▁' };
        let text = "ab c é ".repeat(60_000);
        let parts = cut(&text, &apart).unwrap();
        assert!(parts.len() > 5 && parts[1..].iter().all(|part| part.starts_with(['c', ' '])));
        assert!(parts.iter().all(|part| !part.ends_with(['a', 'b', 'é'])));
        for run in ["ab ", "é", "é ab "] {
            assert!(cut(&run.repeat(200_000), &apart).is_err(), "{run:?}");
        }
        let apart = Apart { known_to: None, ..apart };
        assert!(cut(&"é".repeat(200_000), &apart).is_ok_and(|parts| parts.len() > 5));
    }

    #[test]
    fn bytes_stay_apart_unless_a_token_holds_the_name_of_one() {
        let mut vocabulary = Vocabulary::with_capacity(257);
        for byte in 0..=255u8 {
            assert!(!bytes_stay_apart(&vocabulary));
            let text = &format!("<0x{byte:02X}>");
            vocabulary.push(Some(Piece { text, bytes: &[byte], class: Class::Byte }));
        }
        assert!(bytes_stay_apart(&vocabulary));
        let text = "<0xE4><0xBD>";
        vocabulary.push(Some(Piece { text, bytes: b"", class: Class::Normal }));
        assert!(!bytes_stay_apart(&vocabulary));
    }
}

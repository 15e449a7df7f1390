//! A byte-level BPE vocabulary learned from the stories: Llama 3's split rule, GPT-2's byte alphabet, merges by rank.
use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, Result};

/// Names of the special tokens, in the order of their ids after the last merge.
pub const SPECIAL_TOKENS: [&str; 3] = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"];

/// A vocabulary: 256 byte tokens, then one token per merge, then the special tokens.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    tokens: Vec<Vec<u8>>,
    merges: Vec<(u32, u32)>,
    ranks: HashMap<(u32, u32), u32>,
    words: HashMap<String, Vec<u32>>,
}

impl Vocabulary {
    /// Learns `size - 259` merges from the texts: always the most frequent pair, ties to the pair of smallest ids.
    ///
    /// # Errors
    /// [`Error::Vocabulary`] if the texts have too few different pairs.
    pub fn learn<'a>(texts: impl Iterator<Item = &'a str>, size: usize) -> Result<Self> {
        let mut counts = BTreeMap::<String, u64>::new();
        for text in texts {
            for word in split(text) {
                match counts.get_mut(word) {
                    Some(count) => *count += 1,
                    None => _ = counts.insert(word.to_owned(), 1),
                }
            }
        }
        let mut words: Vec<(Vec<u32>, u64)> =
            counts.iter().map(|(word, &n)| (word.bytes().map(u32::from).collect(), n)).collect();
        let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b]).collect();
        let mut merges = Vec::new();
        while tokens.len() + SPECIAL_TOKENS.len() < size {
            let mut pairs = HashMap::<(u32, u32), u64>::new();
            for (word, n) in &words {
                for pair in word.windows(2) {
                    *pairs.entry((pair[0], pair[1])).or_default() += n;
                }
            }
            let best = pairs.into_iter().max_by_key(|&(pair, n)| (n, std::cmp::Reverse(pair)));
            let Some((pair, _)) = best else {
                let reason = format!(
                    "the texts yield only {} tokens; lower `vocab_size`",
                    tokens.len() + SPECIAL_TOKENS.len()
                );
                return Err(Error::Vocabulary(reason));
            };
            let id = tokens.len() as u32;
            tokens.push([tokens[pair.0 as usize].as_slice(), &tokens[pair.1 as usize]].concat());
            merges.push(pair);
            words.iter_mut().for_each(|(word, _)| merge(word, pair, id));
        }
        let ranks = merges.iter().zip(0..).map(|(&pair, rank)| (pair, rank)).collect();
        let words = counts.into_keys().zip(words).map(|(word, (ids, _))| (word, ids)).collect();
        Ok(Self { tokens, merges, ranks, words })
    }

    /// Returns the number of tokens, including special ones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len() + SPECIAL_TOKENS.len()
    }

    /// Returns false: a vocabulary contains at least the bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Returns the id of `<|begin_of_text|>`.
    #[must_use]
    pub fn begin(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Returns the id of `<|end_of_text|>`.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.begin() + 1
    }

    /// Returns the id of `<|eot_id|>`.
    #[must_use]
    pub fn end_of_turn(&self) -> u32 {
        self.begin() + 2
    }

    /// Appends the tokens of `text` (no special ones).
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) {
        for word in split(text) {
            match self.words.get(word) {
                Some(ids) => out.extend_from_slice(ids),
                None => out.extend(self.encode_word(word)),
            }
        }
    }

    fn encode_word(&self, word: &str) -> Vec<u32> {
        let mut ids: Vec<u32> = word.bytes().map(u32::from).collect();
        let best = |ids: &[u32]| {
            ids.windows(2).filter_map(|p| self.ranks.get(&(p[0], p[1])).copied()).min()
        };
        while let Some(rank) = best(&ids) {
            merge(&mut ids, self.merges[rank as usize], 256 + rank);
        }
        ids
    }

    /// Decodes tokens to bytes, ignoring special tokens and unknown ids.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter().filter_map(|&id| self.tokens.get(id as usize)).flatten().copied().collect()
    }

    /// Returns every token in GPT-2's printable alphabet and special tokens by name, for `tokenizer.ggml.tokens`.
    #[must_use]
    pub fn printable_tokens(&self) -> Vec<String> {
        let special = SPECIAL_TOKENS.iter().map(|name| (*name).to_owned());
        self.tokens.iter().map(|token| printable(token)).chain(special).collect()
    }

    /// Returns every merge as `left right` in GPT-2's printable alphabet, best rank first.
    #[must_use]
    pub fn printable_merges(&self) -> Vec<String> {
        let text = |id: u32| printable(&self.tokens[id as usize]);
        self.merges.iter().map(|&(a, b)| format!("{} {}", text(a), text(b))).collect()
    }
}

/// Replaces every `pair` by `id`, from left to right.
fn merge(word: &mut Vec<u32>, pair: (u32, u32), id: u32) {
    let mut len = 0;
    let mut i = 0;
    while i < word.len() {
        let hit = word[i] == pair.0 && word.get(i + 1) == Some(&pair.1);
        word[len] = if hit { id } else { word[i] };
        len += 1;
        i += if hit { 2 } else { 1 };
    }
    word.truncate(len);
}

/// Returns GPT-2's alphabet: printable Latin-1 maps to itself, the other 68 bytes to U+0100 and up.
fn printable(bytes: &[u8]) -> String {
    let plain = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let character = |b: u8| {
        let code = if plain(b) {
            u32::from(b)
        } else {
            256 + (0..b).filter(|&c| !plain(c)).count() as u32
        };
        char::from_u32(code).unwrap_or('\u{FFFD}')
    };
    bytes.iter().map(|&b| character(b)).collect()
}

/// Splits a text by Llama 3's rule:
/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (word, tail) = rest.split_at(first_word(rest));
        rest = tail;
        (!word.is_empty()).then_some(word)
    })
}

/// Returns the length of the first word of `text` in bytes; the alternatives are in the rule's order.
fn first_word(text: &str) -> usize {
    let run = |from: usize, accept: &dyn Fn(char) -> bool| {
        from + text[from..].find(|c| !accept(c)).unwrap_or(text.len() - from)
    };
    let letter = |c: char| c.is_alphabetic();
    let symbol = |c: char| !c.is_whitespace() && !c.is_alphabetic() && !c.is_numeric();
    let newline = |c: char| matches!(c, '\r' | '\n');
    let Some(first) = text.chars().next() else { return 0 };
    for ending in ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"] {
        if text.get(..ending.len()).is_some_and(|head| head.eq_ignore_ascii_case(ending)) {
            return ending.len();
        }
    }
    let lead =
        if letter(first) || newline(first) || first.is_numeric() { 0 } else { first.len_utf8() };
    if run(lead, &letter) > lead {
        return run(lead, &letter);
    }
    if first.is_numeric() {
        return text
            .char_indices()
            .take(3)
            .take_while(|(_, c)| c.is_numeric())
            .map(|(i, c)| i + c.len_utf8())
            .last()
            .unwrap_or(0);
    }
    let lead = usize::from(first == ' ');
    if run(lead, &symbol) > lead {
        return run(run(lead, &symbol), &newline);
    }
    let blank = run(0, &char::is_whitespace);
    if let Some(last) = text[..blank].rfind(newline) {
        return last + 1;
    }
    // `\s+(?!\S)` leaves the last space to the following word.
    match text[..blank].char_indices().next_back() {
        Some((last, _)) if blank < text.len() && last > 0 => last,
        _ => blank,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting_follows_the_rule() {
        let words: Vec<_> = split("Once  upon, I'm 12345 \"Oh!\"\n\nA'LL  ").collect();
        assert_eq!(
            words,
            [
                "Once", " ", " upon", ",", " I", "'m", " ", "123", "45", " \"", "Oh", "!\"\n\n",
                "A", "'LL", "  "
            ]
        );
    }

    #[test]
    fn every_text_survives_the_round_trip() {
        let texts = ["a tale of a cat and a hat", "the cat sat on the mat"];
        let vocabulary = Vocabulary::learn(texts.into_iter(), 270).unwrap();
        for text in ["the cat", "", "Ünïcode \u{0} \t\r\n 日本語 cats", "a hat"] {
            let mut ids = Vec::new();
            vocabulary.encode(text, &mut ids);
            assert_eq!(vocabulary.decode(&ids), text.as_bytes());
        }
        assert_eq!(vocabulary.len(), 270);
        assert_eq!(vocabulary.printable_tokens()[32], "Ġ");
        assert_eq!(vocabulary.printable_tokens()[267], SPECIAL_TOKENS[0]);
    }

    #[test]
    fn known_and_unknown_words_are_merged_alike() {
        let vocabulary = Vocabulary::learn(["low lower lowest slow"].into_iter(), 264).unwrap();
        for (word, ids) in &vocabulary.words {
            assert_eq!(*ids, vocabulary.encode_word(word));
        }
    }

    #[test]
    fn too_few_texts_are_refused() {
        assert!(Vocabulary::learn(["ab"].into_iter(), 300).is_err());
    }
}

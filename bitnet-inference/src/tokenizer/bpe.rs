//! Byte-level byte-pair encoding with ranked merges, as GGUF files of model `gpt2` mean it.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;

use super::alphabet;
use super::chunks::{Words, for_each_chunk};
use super::error::{Result, TokenizerError, shortened};
use super::hf_parts::At;
use super::merge::merge;
use super::split::{BoundedRegex, FALCON, GPT2, LLAMA3, QWEN2, QWEN35};
use super::vocabulary::Vocabulary;

/// Names of pre-tokenizers, the patterns that they cut with in turn, and whether a word that is a token stays whole.
const KNOWN: [(&[&str], &[&str], bool); 5] = [
    (&["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon_e", "falcon-e"], &[LLAMA3], true),
    (&["qwen2", "deepseek-r1-qwen"], &[QWEN2], false),
    (&["qwen35"], &[QWEN35], false),
    (&["falcon"], &FALCON, false),
    // GPT-NeoX's vocabulary (TriLM) is "olmo" for the converter that knows it by OLMo's copy.
    (&["gpt-2", "phi-2", "olmo"], &[GPT2], false),
];

/// GGUF's name for cutting with these patterns in turn.
pub(super) fn name_of(patterns: &[&str]) -> Option<&'static str> {
    match patterns {
        [LLAMA3] => Some(DEFAULT_PRE),
        [QWEN2] => Some("qwen2"),
        [QWEN35] => Some("qwen35"),
        [GPT2] => Some("gpt-2"),
        // The library's own part for marks, GPT-2's for words, and digits in threes.
        ["Punctuation", GPT2, "Digits", digits] | ["Punctuation", GPT2, digits]
            if *digits == FALCON[2] =>
        {
            Some("falcon")
        }
        _ => None,
    }
}

/// The patterns that a pre-tokenizer cuts with in turn, and whether a word that is a token stays whole.
pub(super) fn patterns_of(pre: &str) -> Option<(&'static [&'static str], bool)> {
    let known = KNOWN.iter().find(|(names, ..)| names.contains(&pre));
    known.map(|(_, patterns, whole_words)| (*patterns, *whole_words))
}

/// What a file that names no pre-tokenizer gets.
pub(crate) const DEFAULT_PRE: &str = "llama-bpe";

/// The encoder for a text without control tokens.
#[derive(Debug)]
pub(crate) struct Bpe {
    cuts: Vec<BoundedRegex>,
    whole_words: bool,
    /// Left and right token to rank and joined token.
    merges: HashMap<(u32, u32), (u32, u32)>,
}

impl Bpe {
    /// Whether files with this pre-tokenizer begin texts with the beginning-of-text token unless they say otherwise.
    pub(crate) fn begins_by_default(pre: &str) -> bool {
        KNOWN[0].0.contains(&pre)
    }

    /// Takes the name of the pre-tokenizer and the merges, `left right`, best first.
    pub(crate) fn new(
        file: &str,
        pre: &str,
        merges: &[Cow<'_, str>],
        vocabulary: &Vocabulary,
    ) -> Result<Self> {
        let at = At { file, field: "tokenizer.ggml.pre" };
        let Some((patterns, whole_words)) = patterns_of(pre) else {
            let names: Vec<&str> =
                KNOWN.iter().flat_map(|(names, ..)| names.iter().copied()).collect();
            let supported = format!(
                "{}; put the model's tokenizer.json beside the file, or set the key to the one that cuts text in the same way",
                names.join(", ")
            );
            return Err(at.unsupported(pre, &supported));
        };
        let cuts = patterns
            .iter()
            .map(|pattern| BoundedRegex::new(pattern).map_err(|problem| at.invalid(problem)));
        let cuts = cuts.collect::<Result<_>>()?;
        Ok(Self { cuts, whole_words, merges: ranked(file, merges, vocabulary)? })
    }

    /// Encodes a text that holds no control tokens, appending to `ids`.
    pub(crate) fn encode(
        &self,
        text: &str,
        vocabulary: &Vocabulary,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let words = Words(|_: &str| true);
        for_each_chunk(text, &words, |chunk| self.encode_chunk(chunk, vocabulary, ids))
    }

    fn encode_chunk(&self, text: &str, vocabulary: &Vocabulary, ids: &mut Vec<u32>) -> Result<()> {
        let mut words = vec![text];
        for cut in &self.cuts {
            let mut finer = Vec::with_capacity(words.len());
            for word in words {
                let cuts = cut.cuts(word)?.into_iter();
                finer.extend(cuts.filter_map(|(from, to, _)| word.get(from..to)));
            }
            words = finer;
        }
        let mut words = words.into_iter().map(alphabet::spelled);
        words.try_for_each(|word| self.encode_word(&word, vocabulary, ids))
    }

    fn encode_word(&self, word: &str, vocabulary: &Vocabulary, ids: &mut Vec<u32>) -> Result<()> {
        if let Some(id) = self.whole_words.then(|| vocabulary.id(word)).flatten() {
            ids.push(id);
            return Ok(());
        }
        let symbols = merge(
            word,
            |letter| vocabulary.id(letter),
            |left, right| {
                let &(rank, id) = self.merges.get(&(left.id?, right.id?))?;
                Some((Reverse(rank), id))
            },
        );
        for symbol in symbols {
            let missing = || TokenizerError::Unencodable { text: shortened(symbol.text(word)) };
            ids.push(symbol.id.ok_or_else(missing)?);
        }
        Ok(())
    }
}

/// The merges by token, with their ranks.
fn ranked(
    file: &str,
    merges: &[Cow<'_, str>],
    vocabulary: &Vocabulary,
) -> Result<HashMap<(u32, u32), (u32, u32)>> {
    let at = At { file, field: "tokenizer.ggml.merges" };
    let mut ranks = HashMap::with_capacity(merges.len());
    let mut joined = String::new();
    for (rank, line) in (0u32..).zip(merges) {
        let Some((left, right)) =
            line.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty())
        else {
            return Err(at.invalid(format!(
                "merge {rank}, {:?}, is not two tokens with a space between",
                shortened(line)
            )));
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let id = |token: &str| {
            let missing = || {
                format!(
                    "merge {rank}, {:?}, needs the token {:?}, which is missing",
                    shortened(line),
                    shortened(token)
                )
            };
            vocabulary.id(token).ok_or_else(|| at.invalid(missing()))
        };
        ranks.entry((id(left)?, id(right)?)).or_insert((rank, id(&joined)?));
    }
    Ok(ranks)
}

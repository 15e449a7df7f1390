//! SentencePiece vocabularies, as GGUF files of model `llama` mean them: the best-scored pair is joined first.

use std::sync::OnceLock;

use super::chunks::{Apart, CHUNK, Pairs, for_each_chunk};
use super::error::{Result, TokenizerError, shortened};
use super::hf_parts::At;
use super::merge::{Symbol, merge};
use super::vocabulary::{Class, Vocabulary};

/// Stands for a space.
pub(crate) const SPACE: char = '▁';

/// A whole number that is greater where the score, which is not NaN, is: `f32::total_cmp` compares floats by it.
fn ordered(score: f32) -> i32 {
    let bits = score.to_bits().cast_signed();
    if bits < 0 { bits ^ i32::MAX } else { bits }
}

/// The encoder for a text without control tokens.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    scores: Vec<f32>,
    bytes: Vec<Option<u32>>,
    unknown: Option<u32>,
    /// Needed for long texts only.
    pairs: OnceLock<Pairs>,
}

impl SentencePiece {
    /// Takes the score of every token.
    pub(crate) fn new(
        file: &str,
        scores: Vec<f32>,
        unknown: Option<u32>,
        vocabulary: &Vocabulary,
    ) -> Result<Self> {
        let at = At { file, field: "tokenizer.ggml.scores" };
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            return Err(at.invalid(format!("the score of token {id} is not a number")));
        }
        let mut bytes = vec![None; 256];
        for (id, piece) in vocabulary.iter().filter(|(_, piece)| piece.class == Class::Byte) {
            if let &[byte] = piece.bytes {
                bytes[usize::from(byte)].get_or_insert(id);
            }
        }
        // -0.0 and 0.0 are the same score.
        let scores = scores.into_iter().map(|score| score + 0.0).collect();
        Ok(Self { scores, bytes, unknown, pairs: OnceLock::new() })
    }

    /// Encodes a text that holds no control tokens, appending to `ids`; with `prefix` a space is put before it.
    pub(crate) fn encode(
        &self,
        text: &str,
        prefix: bool,
        vocabulary: &Vocabulary,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let mut prefix = prefix;
        let mut encode = |chunk: &str| {
            let prefix = std::mem::take(&mut prefix).then_some(SPACE);
            let letters = chunk.chars().map(|letter| if letter == ' ' { SPACE } else { letter });
            let spelled: String = prefix.into_iter().chain(letters).collect();
            self.encode_chunk(&spelled, vocabulary, ids)
        };
        if text.len() <= CHUNK {
            return encode(text);
        }
        let tokens = || vocabulary.iter().map(|(_, piece)| piece.text);
        let pairs = self.pairs.get_or_init(|| Pairs::in_tokens(tokens()));
        for_each_chunk(text, &Apart { pairs, known_to: None, space: SPACE }, encode)
    }

    fn encode_chunk(&self, text: &str, vocabulary: &Vocabulary, ids: &mut Vec<u32>) -> Result<()> {
        let pair = |left: &Symbol, right: &Symbol| {
            let id = vocabulary.id(text.get(left.start..right.end)?)?;
            let score = self.scores.get(usize::try_from(id).ok()?)?;
            Some((ordered(*score), id))
        };
        for symbol in merge(text, |letter| vocabulary.id(letter), pair) {
            match symbol.id {
                Some(id) => ids.push(id),
                None => self.fall_back(symbol.text(text), ids)?,
            }
        }
        Ok(())
    }

    /// Writes a character that is no token as bytes, or as the unknown token.
    fn fall_back(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let bytes: Option<Vec<u32>> =
            text.bytes().map(|byte| self.bytes.get(usize::from(byte)).copied().flatten()).collect();
        match (bytes, self.unknown) {
            (Some(bytes), _) => ids.extend(bytes),
            (None, Some(unknown)) => ids.push(unknown),
            (None, None) => return Err(TokenizerError::Unencodable { text: shortened(text) }),
        }
        Ok(())
    }
}

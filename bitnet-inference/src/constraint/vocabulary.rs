//! The tokens of a model as a matcher reads them: bytes, special tokens marked, unwritable ones left out.

use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use crate::tokenizer::{Class, Tokenizer};

/// Bytes of the longest token that a text may be made of under a constraint.
const LONGEST_TOKEN: usize = 512;

/// The name of the token that stands for all end tokens. No tokenizer has it: a text can't contain its first byte.
const END_NAME: &[u8] = b"\xff<|end of the constrained text|>";

/// Returns the trie of a model's `vocab_size` tokens, and one more that stands for the end of a text.
pub(super) fn token_env(tokenizer: &Tokenizer, vocab_size: u32) -> TokEnv {
    let mut words: Vec<Vec<u8>> = (0..vocab_size).map(|id| word(tokenizer, id)).collect();
    words.push(END_NAME.to_vec());
    let info = TokRxInfo::new(vocab_size + 1, vocab_size);
    Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)))
}

/// Returns the bytes of a token; none if it may never be written under a constraint.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let Ok(piece) = tokenizer.piece(id) else { return Vec::new() };
    let is_unfit = piece.bytes.is_empty()
        || piece.bytes.len() > LONGEST_TOKEN
        // No UTF-8 text has this byte, which marks special tokens.
        || piece.bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER);
    match piece.class {
        Class::Unused => Vec::new(),
        _ if is_unfit => Vec::new(),
        Class::Control | Class::Unknown => {
            [&[TokTrie::SPECIAL_TOKEN_MARKER], piece.text.as_bytes()].concat()
        }
        Class::Normal | Class::UserDefined | Class::Byte => piece.bytes.to_vec(),
    }
}

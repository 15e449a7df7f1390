//! The fields of a tokenizer.json.

use serde::Deserialize;
use serde_json::Value;

use super::error::{Result, TokenizerError};
use crate::bounded_json::bounded;

/// Highest number of ids, gaps included, that a vocabulary may have.
pub(super) const MAX_IDS: usize = 1 << 22;
/// Most values in each of the settings beside the vocabulary.
const MAX_PARTS: usize = 1 << 16;

#[derive(Deserialize)]
pub(super) struct FileJson {
    #[serde(default)]
    pub(super) version: Option<String>,
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedJson>,
    #[serde(default, deserialize_with = "bounded::<_, MAX_PARTS>")]
    pub(super) normalizer: Value,
    #[serde(default, deserialize_with = "bounded::<_, MAX_PARTS>")]
    pub(super) pre_tokenizer: Value,
    #[serde(default, deserialize_with = "bounded::<_, MAX_PARTS>")]
    pub(super) post_processor: Value,
    #[serde(default, deserialize_with = "bounded::<_, MAX_PARTS>")]
    pub(super) decoder: Value,
    pub(super) model: ModelJson,
}

impl FileJson {
    /// Parses a file, which messages call `file`.
    pub(super) fn parse(bytes: &[u8], file: &str) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| TokenizerError::Syntax {
            file: file.into(),
            problem: error.to_string(),
        })
    }
}

#[derive(Deserialize)]
pub(super) struct AddedJson {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
}

#[derive(Deserialize)]
pub(super) struct ModelJson {
    #[serde(rename = "type", default)]
    pub(super) kind: Option<String>,
    #[serde(default)]
    pub(super) dropout: Option<f32>,
    #[serde(default)]
    pub(super) unk_token: Option<String>,
    #[serde(default)]
    pub(super) continuing_subword_prefix: Option<String>,
    #[serde(default)]
    pub(super) end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(super) fuse_unk: bool,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    #[serde(default, deserialize_with = "bounded::<_, MAX_IDS>")]
    pub(super) vocab: Value,
    #[serde(default)]
    pub(super) merges: Option<MergesJson>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum MergesJson {
    Pairs(Vec<(String, String)>),
    Lines(Vec<String>),
}

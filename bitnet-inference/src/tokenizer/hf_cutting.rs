//! Where texts for a tokenizer.json may be cut without a change of their ids, by its parts.

use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

use super::chunks::Pairs;
use super::hf_json::{AddedJson, FileJson};
use super::hf_parts::Cutter;
use super::spm::SPACE;

/// Where a long text may be cut before it is encoded.
pub(super) enum Cutting {
    /// Nowhere.
    Nowhere,
    /// Where the pre-tokenizer ends a word, except between these pairs, which added tokens hold.
    AfterWords(Pairs),
    /// Between characters that no token joins, in a text without added tokens; what follows a cut has this normaliser,
    /// which puts nothing before it. What tokens join is found out for the first long text: the pairs, and whether
    /// characters that are no tokens become bytes that stay apart.
    WhereNothingJoins {
        pairs: OnceLock<(Pairs, bool)>,
        spells_bytes: bool,
        after: Box<NormalizerWrapper>,
    },
}

impl Cutting {
    /// Where texts may be cut without a change of their ids.
    pub(super) fn of(
        json: &FileJson,
        cutters: &[Cutter],
        normalizer: Option<&NormalizerWrapper>,
    ) -> Self {
        let across = |token: &AddedJson| {
            token.rstrip || token.single_word || token.content.contains([' ', SPACE])
        };
        if json.added_tokens.iter().any(across) {
            return Self::Nowhere;
        }
        let single = [json.normalizer.clone()];
        let members = json.normalizer.get("normalizers").and_then(Value::as_array);
        let parts = members.map_or(&single[..], Vec::as_slice);
        let kind =
            |part: &Value| part.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let local = ["", "NFC", "NFD", "NFKC", "NFKD", "Lowercase"];
        if parts.iter().all(|part| local.contains(&&*kind(part))) {
            if !cutters.iter().any(Cutter::ends_words) || cutters.iter().any(Cutter::adds_spaces) {
                return Self::Nowhere;
            }
            let contents = json.added_tokens.iter().map(|token| token.content.as_str());
            let normalized: Vec<String> =
                contents.clone().filter_map(|text| normalize(normalizer, text)).collect();
            let all = contents.chain(normalized.iter().map(String::as_str));
            return Self::AfterWords(Pairs::in_tokens(all));
        }
        let space =
            json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE.to_string()});
        let known = |part: &&Value| kind(part) == "Prepend" || **part == space;
        let splits = !cutters.is_empty() || json.model.ignore_merges;
        if splits || !parts.contains(&space) || !parts.iter().all(|part| known(&part)) {
            return Self::Nowhere;
        }
        match NormalizerWrapper::deserialize(&space) {
            Ok(after) => Self::WhereNothingJoins {
                pairs: OnceLock::new(),
                spells_bytes: json.model.byte_fallback,
                after: Box::new(after),
            },
            Err(_) => Self::Nowhere,
        }
    }
}

/// What a normaliser makes of a text.
pub(super) fn normalize(normalizer: Option<&NormalizerWrapper>, text: &str) -> Option<String> {
    let mut normalized = NormalizedString::from(text);
    match normalizer.map(|normalizer| normalizer.normalize(&mut normalized)) {
        Some(Err(_)) => None,
        _ => Some(normalized.get().to_owned()),
    }
}

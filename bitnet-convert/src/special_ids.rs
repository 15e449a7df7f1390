//! Ids of special tokens, from the JSON files of a folder or the keys of a GGUF file.
//!
//! A folder defines a token by its text (a string, or an object with `content`) in `tokenizer_config.json` and
//! `special_tokens_map.json`, or by its id (a number, or a list of numbers) in `config.json` and
//! `generation_config.json`. The first of these files with a token of the vocabulary takes precedence, as in the `gguf`
//! package's `SpecialVocab`, which reads the first and the third.

use std::path::Path;

use bitnet_formats::gguf::{GgufWriter, Metadata, Value};
use bitnet_inference::tokenizer::is_end_name;
use serde_json::Value as Json;

use crate::Result;
use crate::side_files::read_json;

/// Kinds of special tokens with their GGUF keys; "seperator" is the format's spelling.
pub(crate) const KINDS: [(&str, &str); 9] = [
    ("bos", "tokenizer.ggml.bos_token_id"),
    ("eos", "tokenizer.ggml.eos_token_id"),
    ("unk", "tokenizer.ggml.unknown_token_id"),
    ("pad", "tokenizer.ggml.padding_token_id"),
    ("sep", "tokenizer.ggml.seperator_token_id"),
    ("cls", "tokenizer.ggml.cls_token_id"),
    ("mask", "tokenizer.ggml.mask_token_id"),
    ("eot", "tokenizer.ggml.eot_token_id"),
    ("eom", "tokenizer.ggml.eom_token_id"),
];

/// Tokens that end a turn, by name.
const TURN_ENDS: [&str; 4] = ["<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end_of_turn|>"];
/// Tokens that end a message within a turn, by name.
const MESSAGE_ENDS: [&str; 1] = ["<|eom_id|>"];

/// A vocabulary for lookups of ids.
pub(crate) trait Lookup {
    /// Returns the id of a token.
    fn id(&self, token: &str) -> Option<u32>;
    /// Returns the text of a control token.
    fn special(&self, id: u32) -> Option<&str>;
}

/// Ids by kind, in the order of [`KINDS`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SpecialIds([Option<u32>; KINDS.len()]);

/// The JSON files of a folder with special tokens.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    tokenizer: Option<Json>,
    map: Option<Json>,
    config: &'a Json,
    generation: Option<Json>,
}

impl<'a> Settings<'a> {
    pub(crate) fn read(folder: &Path, config: &'a Json) -> Result<Self> {
        Ok(Self {
            tokenizer: read_json(&folder.join("tokenizer_config.json"))?,
            map: read_json(&folder.join("special_tokens_map.json"))?,
            config,
            generation: read_json(&folder.join("generation_config.json"))?,
        })
    }

    /// `tokenizer_config.json`.
    pub(crate) fn tokenizer(&self) -> Option<&Json> {
        self.tokenizer.as_ref()
    }

    /// Returns the definitions of a token in order of precedence.
    fn named(&self, kind: &str, vocabulary: &dyn Lookup, rows: usize) -> Option<u32> {
        let text = |file: &Option<Json>| {
            let token = file.as_ref()?.get(format!("{kind}_token"))?;
            // Numbers in text fields are ids.
            token_text(token).and_then(|text| vocabulary.id(text)).or_else(|| first_id(token))
        };
        let number = |file: &Json| first_id(file.get(format!("{kind}_token_id"))?);
        let found = [
            text(&self.tokenizer),
            text(&self.map),
            number(self.config),
            self.generation.as_ref().and_then(number),
        ];
        found.into_iter().flatten().find(|&id| (id as usize) < rows)
    }

    /// Returns every id of `eos_token_id`, in file order.
    pub(crate) fn ends(&self) -> Vec<u32> {
        let files = [Some(self.config), self.generation.as_ref()];
        let listed = files.into_iter().flatten().filter_map(|file| file.get("eos_token_id"));
        let each = |value: &Json| match value.as_array() {
            Some(list) => list.iter().filter_map(first_id).collect::<Vec<_>>(),
            None => first_id(value).into_iter().collect(),
        };
        listed.flat_map(each).collect()
    }
}

/// Returns the text of a token: a string, or an object with `content`.
fn token_text(token: &Json) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// Returns an id: a number, or the first of a list of numbers.
fn first_id(value: &Json) -> Option<u32> {
    let number = value.as_u64().or_else(|| value.get(0)?.as_u64())?;
    u32::try_from(number).ok()
}

impl SpecialIds {
    /// Reads the special tokens of a folder whose embedding has `rows` rows.
    pub(crate) fn of_folder(settings: &Settings<'_>, vocabulary: &dyn Lookup, rows: usize) -> Self {
        Self(KINDS.map(|(kind, _)| settings.named(kind, vocabulary, rows)))
    }

    /// Adds the end tokens `ends`: those that readers do not recognise by name use free keys.
    pub(crate) fn with_ends(self, ends: &[u32], vocabulary: &dyn Lookup, rows: usize) -> Self {
        let ends: Vec<u32> = ends.iter().copied().filter(|&id| (id as usize) < rows).collect();
        let by_name = |names: &[&str]| {
            let known = names.iter().filter_map(|name| vocabulary.id(name));
            known.into_iter().find(|id| vocabulary.special(*id).is_some() || ends.contains(id))
        };
        let mut ids = self
            .or("eos", ends.first().copied())
            .or("eot", by_name(&TURN_ENDS))
            .or("eom", by_name(&MESSAGE_ENDS));
        for &id in &ends {
            let known = vocabulary.special(id).is_some_and(is_end_name);
            let free = ["eot", "eom"].into_iter().find(|kind| ids.get(kind).is_none());
            if let (Some(kind), false) = (free, known || ids.ends().contains(&id)) {
                ids = ids.or(kind, Some(id));
            }
        }
        ids
    }

    /// Reads the keys of a GGUF file, without ids beyond the embedding's rows.
    pub(crate) fn of_gguf(metadata: &Metadata, rows: usize) -> Self {
        let id = |key: &str| metadata.opt_u32(key).ok().flatten();
        Self(KINDS.map(|(_, key)| id(key).filter(|&id| (id as usize) < rows)))
    }

    /// Returns the id of a kind.
    pub(crate) fn get(&self, kind: &str) -> Option<u32> {
        self.iter().find(|(other, ..)| *other == kind).and_then(|(.., id)| id)
    }

    /// Kind, key and id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, Option<u32>)> {
        KINDS.into_iter().zip(self.0).map(|((kind, key), id)| (kind, key, id))
    }

    /// Returns the ids that end a text, without duplicates.
    pub(crate) fn ends(&self) -> Vec<u32> {
        let mut ends: Vec<u32> = Vec::new();
        for id in ["eos", "eot", "eom"].into_iter().filter_map(|kind| self.get(kind)) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        ends
    }

    /// Fills in missing ids.
    pub(crate) fn or(self, kind: &str, id: Option<u32>) -> Self {
        let mut ids = self;
        for (place, (other, _)) in KINDS.iter().enumerate() {
            if *other == kind {
                ids.0[place] = ids.0[place].or(id);
            }
        }
        ids
    }

    /// Returns the ids of some kinds.
    pub(crate) fn only(self, kinds: &[&str]) -> Self {
        let mut ids = self;
        for (place, (kind, _)) in KINDS.iter().enumerate() {
            if !kinds.contains(kind) {
                ids.0[place] = None;
            }
        }
        ids
    }

    /// Sets the keys of a new file.
    pub(crate) fn write(&self, to: &mut GgufWriter) -> bitnet_formats::Result<()> {
        for (_, key, id) in self.iter() {
            if let Some(id) = id {
                to.put(key, Value::U32(id))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Tokens by id; those in angle brackets are special.
    struct Words(&'static [&'static str]);

    impl Lookup for Words {
        fn id(&self, token: &str) -> Option<u32> {
            self.0.iter().position(|other| *other == token).map(|id| id as u32)
        }

        fn special(&self, id: u32) -> Option<&str> {
            self.0.get(id as usize).copied().filter(|text| text.starts_with('<'))
        }
    }

    const WORDS: Words = Words(&[
        "<bos>",
        "<eos>",
        "<pad>",
        "<unk>",
        "<sep>",
        "<cls>",
        "<mask>",
        "a",
        "b",
        "<|im_end|>",
    ]);

    fn ids(tokenizer: Json, map: Json, config: &Json, generation: Json) -> SpecialIds {
        let some = |json: Json| (!json.is_null()).then_some(json);
        let settings = Settings {
            tokenizer: some(tokenizer),
            map: some(map),
            config,
            generation: some(generation),
        };
        let rows = WORDS.0.len();
        SpecialIds::of_folder(&settings, &WORDS, rows).with_ends(&settings.ends(), &WORDS, rows)
    }

    #[test]
    fn every_form_of_a_token_gives_its_id() {
        let object = |text: &str| json!({"content": text, "lstrip": false});
        let none = json!({});
        for (tokenizer, map, config, generation) in [
            (
                json!({"bos_token": "<bos>", "eos_token": "<eos>"}),
                Json::Null,
                json!({}),
                Json::Null,
            ),
            (
                json!({"bos_token": object("<bos>"), "eos_token": object("<eos>")}),
                Json::Null,
                json!({}),
                Json::Null,
            ),
            (
                Json::Null,
                json!({"bos_token": "<bos>", "eos_token": object("<eos>")}),
                json!({}),
                Json::Null,
            ),
            (json!({}), Json::Null, json!({"bos_token_id": 0, "eos_token_id": 1}), Json::Null),
            (json!({}), Json::Null, json!({"bos_token_id": [0], "eos_token_id": [1]}), Json::Null),
            (Json::Null, Json::Null, json!({}), json!({"bos_token_id": 0, "eos_token_id": [1]})),
        ] {
            let found = ids(tokenizer.clone(), map, &config, generation);
            assert_eq!(
                (found.get("bos"), found.get("eos")),
                (Some(0), Some(1)),
                "{tokenizer} {config}"
            );
        }
        assert_eq!(ids(none.clone(), Json::Null, &none, Json::Null).get("bos"), None);
    }

    #[test]
    fn every_kind_is_found() {
        let names =
            [("bos", 0), ("eos", 1), ("pad", 2), ("unk", 3), ("sep", 4), ("cls", 5), ("mask", 6)];
        let mut tokenizer = json!({});
        for (kind, _) in names {
            tokenizer[format!("{kind}_token")] = format!("<{kind}>").into();
        }
        let found = ids(tokenizer, Json::Null, &json!({}), Json::Null);
        for (kind, id) in names {
            assert_eq!(found.get(kind), Some(id), "{kind}");
        }
        assert_eq!(found.get("eot"), Some(9));
    }

    #[test]
    fn unknown_tokens_fall_through_to_the_next_file() {
        let config = json!({"eos_token_id": 1, "pad_token_id": 99, "bos_token_id": -1});
        let tokenizer = json!({"eos_token": "<nowhere>", "pad_token": null, "bos_token": 7.5});
        let found = ids(tokenizer, Json::Null, &config, json!({"pad_token_id": 2}));
        assert_eq!(
            (found.get("eos"), found.get("pad"), found.get("bos")),
            (Some(1), Some(2), None)
        );
    }

    #[test]
    fn further_ends_take_free_keys() {
        let config = json!({"eos_token_id": [1, 7, 9]});
        let found =
            ids(json!({"eos_token": "<eos>"}), Json::Null, &config, json!({"eos_token_id": 8}));
        // `<|im_end|>` is recognised by name as eot; one more key is free.
        assert_eq!((found.get("eot"), found.get("eom")), (Some(9), Some(7)));
    }
}

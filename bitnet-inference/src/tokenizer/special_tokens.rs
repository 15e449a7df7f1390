//! Named special tokens: `bos_token`, `eos_token` and every other `*_token` that a model's files define.

use serde_json::{Map, Value};

/// The attributes that every tokenizer class has.
const STANDARD: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Longest text of a token that is taken from a settings file, in bytes.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Attributes and the texts of their tokens.
type Defaults = &'static [(&'static str, &'static str)];

/// Tokenizer classes with default special tokens.
const CLASS_DEFAULTS: [(&[&str], Defaults); 4] = [
    (
        &["LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast"],
        &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
    ),
    (
        &["Qwen2Tokenizer", "Qwen2TokenizerFast"],
        &[
            ("eos_token", "<|endoftext|>"),
            ("pad_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
        ],
    ),
    (
        &["GPT2Tokenizer", "GPT2TokenizerFast"],
        &[
            ("bos_token", "<|endoftext|>"),
            ("eos_token", "<|endoftext|>"),
            ("unk_token", "<|endoftext|>"),
        ],
    ),
    (
        &["GemmaTokenizer", "GemmaTokenizerFast"],
        &[
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("pad_token", "<pad>"),
            ("unk_token", "<unk>"),
            ("mask_token", "<mask>"),
        ],
    ),
];

/// Special tokens by the name that a chat template uses for them; a token that no file defines is absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SpecialTokens(Map<String, Value>);

impl SpecialTokens {
    /// Reads `tokenizer_config.json` and `special_tokens_map.json` as transformers does: the second one counts, and
    /// wins, only where the first one has no `added_tokens_decoder`. A token is a string or an `AddedToken` object.
    /// `in_vocabulary` tells whether a token exists; a default of the tokenizer class that does not is left out.
    pub fn from_settings(
        config: &Value,
        special_tokens_map: Option<&Value>,
        in_vocabulary: impl Fn(&str) -> bool,
    ) -> Self {
        let mut tokens = Self::default();
        let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        let defaults = CLASS_DEFAULTS.iter().find(|(classes, _)| classes.contains(&class));
        for &(name, text) in defaults.into_iter().flat_map(|(_, defaults)| defaults.iter()) {
            if in_vocabulary(text) {
                tokens.insert(name, text);
            }
        }
        tokens.read(config);
        if let Some(map) =
            special_tokens_map.filter(|_| config.get("added_tokens_decoder").is_none())
        {
            tokens.read(map);
        }
        tokens
    }

    /// Takes over the tokens that one file defines; `null` removes a default of the class.
    fn read(&mut self, file: &Value) {
        for (name, value) in file.as_object().into_iter().flatten() {
            match name.as_str() {
                "extra_special_tokens" if value.is_object() => self.read_named(value),
                "model_specific_special_tokens" => self.read_named(value),
                "additional_special_tokens" | "extra_special_tokens" => {
                    let texts = value.as_array().into_iter().flatten().filter_map(text);
                    let texts: Vec<Value> = texts.map(Value::from).collect();
                    if !texts.is_empty() {
                        self.0.insert("additional_special_tokens".into(), texts.into());
                    }
                }
                name if name.ends_with("_token") => match text(value) {
                    Some(text) => self.insert(name, text),
                    None if value.is_null() && STANDARD.contains(&name) => {
                        self.0.remove(name);
                    }
                    // `add_bos_token` and its like are settings.
                    None => {}
                },
                _ => {}
            }
        }
    }

    fn read_named(&mut self, tokens: &Value) {
        for (name, value) in tokens.as_object().into_iter().flatten() {
            if let Some(text) = text(value) {
                self.insert(name, text);
            }
        }
    }

    pub(crate) fn insert(&mut self, name: &str, text: &str) {
        self.0.insert(name.to_owned(), text.into());
    }

    /// The text of a token by its name, such as `bos_token`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// All of them as the variables of a template: texts, and a list named `additional_special_tokens`.
    pub fn variables(&self) -> &Map<String, Value> {
        &self.0
    }
}

/// The text of a token that is a string or an `AddedToken` object.
fn text(value: &Value) -> Option<&str> {
    let text = value.as_str().or_else(|| value.get("content")?.as_str());
    text.filter(|text| text.len() <= MAX_TOKEN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(config: Value, map: Option<Value>) -> Value {
        Value::Object(SpecialTokens::from_settings(&config, map.as_ref(), |text| text != "</s>").0)
    }

    #[test]
    fn strings_objects_and_custom_attributes_are_read() {
        let config = json!({
            "bos_token": "<b>", "eos_token": {"__type": "AddedToken", "content": "<e>", "lstrip": false},
            "pad_token": null, "add_bos_token": true, "image_token": "<i>", "model_max_length": 5,
            "extra_special_tokens": {"boi_token": "<boi>"},
            "additional_special_tokens": ["<x>", {"content": "<y>"}],
        });
        let right = json!({
            "bos_token": "<b>", "eos_token": "<e>", "image_token": "<i>", "boi_token": "<boi>",
            "additional_special_tokens": ["<x>", "<y>"],
        });
        assert_eq!(read(config, None), right);
    }

    #[test]
    fn special_tokens_map_counts_without_added_tokens_decoder_only() {
        let map = json!({"eos_token": {"content": "<map>"}, "pad_token": "<pad>"});
        let config = json!({"eos_token": "<config>"});
        let right = json!({"eos_token": "<map>", "pad_token": "<pad>"});
        assert_eq!(read(config, Some(map.clone())), right);
        let config = json!({"eos_token": "<config>", "added_tokens_decoder": {}});
        assert_eq!(read(config, Some(map)), json!({"eos_token": "<config>"}));
    }

    #[test]
    fn class_defaults_hold_where_the_vocabulary_has_them() {
        let config = json!({"tokenizer_class": "LlamaTokenizerFast", "unk_token": null});
        assert_eq!(read(config, None), json!({"bos_token": "<s>"}));
        let config = json!({"tokenizer_class": "PreTrainedTokenizerFast"});
        assert_eq!(read(config, None), json!({}));
    }
}

//! From the vocabulary of a GGUF file to the tokenizer.json and tokenizer_config.json of a Hugging Face folder.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::bpe;
use super::error::Result;
use super::gguf::GgufVocabulary;
use super::hf_parts::At;
use super::spm::SPACE;
use super::vocabulary::Class;

impl GgufVocabulary<'_> {
    /// The same vocabulary as tokenizer.json. `merges` of SentencePiece models, which a GGUF file does not hold, follow
    /// from the scores.
    ///
    /// # Errors
    /// [`super::TokenizerError`] as [`super::Tokenizer::from_vocabulary`],
    /// for models other than `gpt2` and `llama` too.
    pub fn to_tokenizer_json(&self) -> Result<Value> {
        // What the engine can't read is not converted either.
        super::gguf::load(self)?;
        let byte_level = self.model == "gpt2";
        let class = |id: usize| {
            let number = self.token_types.as_ref().map(|types| types[id]);
            number.and_then(Class::of_token_type).unwrap_or(Class::Normal)
        };
        let named = [self.bos, self.eos, self.pad, self.eot, self.eom];
        let special = |id: usize| {
            class(id) == Class::Control
                || u32::try_from(id).is_ok_and(|id| named.contains(&Some(id)))
        };
        let added: Vec<Value> = (0..self.tokens.len())
            .filter(|&id| special(id) || matches!(class(id), Class::UserDefined | Class::Unknown))
            .filter(|&id| !self.tokens[id].is_empty())
            .map(|id| {
                let special = special(id) || class(id) == Class::Unknown;
                json!({
                    "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                })
            })
            .collect();
        let vocab: serde_json::Map<String, Value> = self
            .tokens
            .iter()
            .enumerate()
            .map(|(id, token)| (token.to_string(), id.into()))
            .collect();
        let around = self.template();
        let parts = if byte_level { self.byte_level_parts()? } else { self.sentence_piece_parts() };
        let model = json!({
            "type": "BPE", "dropout": null,
            "unk_token": if byte_level { None } else { self.text(self.unk) },
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": !byte_level, "byte_fallback": !byte_level,
            "ignore_merges": parts.whole_words,
            "vocab": vocab, "merges": parts.merges,
        });
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": parts.normalizer, "pre_tokenizer": parts.pre_tokenizer,
            "post_processor": around, "decoder": parts.decoder, "model": model,
        }))
    }

    /// The settings beside it; `template` is the chat template.
    #[must_use]
    pub fn to_tokenizer_config(&self, template: Option<&str>) -> Value {
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": self.add_bos.unwrap_or(self.bos.is_some()),
            "add_eos_token": self.add_eos.unwrap_or(false),
            "clean_up_tokenization_spaces": false,
        });
        for (name, id) in self.named_ids() {
            if let Some(text) = self.text(id) {
                config[name] = text.into();
            }
        }
        if let Some(template) = template {
            config["chat_template"] = template.into();
        }
        config
    }

    fn text(&self, id: Option<u32>) -> Option<&str> {
        Some(self.tokens.get(id? as usize)?)
    }

    /// What is put around a text.
    fn template(&self) -> Value {
        let begins = match &self.pre {
            Some(pre) if self.model == "gpt2" => bpe::Bpe::begins_by_default(pre),
            _ => true,
        };
        let before = self.text(self.bos).filter(|_| self.add_bos.unwrap_or(begins));
        let after = self.text(self.eos).filter(|_| self.add_eos.unwrap_or(false));
        if before.is_none() && after.is_none() {
            return Value::Null;
        }
        let special = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
        let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
        let around = |id: &str| -> Vec<Value> {
            let (first, last) = (before.map(special), after.map(special));
            first.into_iter().chain([sequence(id)]).chain(last).collect()
        };
        let mut tokens = serde_json::Map::new();
        for (text, id) in [(before, self.bos), (after, self.eos)] {
            if let (Some(text), Some(id)) = (text, id) {
                tokens.insert(text.into(), json!({"id": text, "ids": [id], "tokens": [text]}));
            }
        }
        let pair: Vec<Value> = around("A").into_iter().chain(around("B")).collect();
        json!({
            "type": "TemplateProcessing", "single": around("A"), "pair": pair, "special_tokens": tokens,
        })
    }

    fn byte_level_parts(&self) -> Result<Parts> {
        let pre = self.pre.as_deref().unwrap_or(bpe::DEFAULT_PRE);
        let at = At { file: self.name(), field: "tokenizer.ggml.pre" };
        let (patterns, whole_words) = bpe::patterns_of(pre)
            .ok_or_else(|| at.unsupported(pre, "the pre-tokenizers that this program knows"))?;
        let byte_level = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
        });
        let splits = patterns.iter().map(|pattern| {
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
        });
        let steps: Vec<Value> = splits.chain([byte_level.clone()]).collect();
        let merges = self.merges.iter().flatten();
        Ok(Parts {
            normalizer: Value::Null,
            pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
            decoder: byte_level,
            merges: merges
                .filter_map(|merge| merge.split_once(' '))
                .map(|(a, b)| json!([a, b]))
                .collect(),
            whole_words,
        })
    }

    fn sentence_piece_parts(&self) -> Parts {
        let space = SPACE.to_string();
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": space});
        let prefix = self.add_space_prefix.unwrap_or(true);
        let mut normalizers = Vec::new();
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": space}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if prefix {
            normalizers.push(json!({"type": "Prepend", "prepend": space}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        normalizers.push(replace);
        Parts {
            normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
            pre_tokenizer: Value::Null,
            decoder: json!({"type": "Sequence", "decoders": decoders}),
            merges: self.merges_by_score(),
            whole_words: false,
        }
    }

    /// Every way to make a token of two others, the highest score first; of equal ones, that of the earlier tokens.
    fn merges_by_score(&self) -> Vec<Value> {
        let ids: HashMap<&str, usize> =
            self.tokens.iter().enumerate().map(|(id, token)| (&**token, id)).collect();
        let score = |id: usize| self.scores.as_ref().map_or(0.0, |scores| scores[id]);
        let mut merges = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            for (cut, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(cut);
                if let (Some(&a), Some(&b)) = (ids.get(left), ids.get(right)) {
                    merges.push((score(id), a, b));
                }
            }
        }
        merges.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
        merges.into_iter().map(|(_, a, b)| json!([self.tokens[a], self.tokens[b]])).collect()
    }
}

/// The parts of a tokenizer.json that depend on the kind of the model.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    merges: Vec<Value>,
    whole_words: bool,
}

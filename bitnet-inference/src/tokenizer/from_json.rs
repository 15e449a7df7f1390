//! From a tokenizer.json to the vocabulary that a GGUF file of the same model holds.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::Value;

use super::bpe;
use super::error::Result;
use super::gguf::GgufVocabulary;
use super::hf::check_model;
use super::hf_json::{AddedJson, FileJson};
use super::hf_parts::{Affixes, At, affixes, decoding, text};
use super::vocabulary::{Class, byte_token};

/// The score of a token that no merge makes.
const UNMERGED: f32 = -1e6;

impl GgufVocabulary<'static> {
    /// Takes over a tokenizer.json (`name` is what messages call it), filled up with unused tokens to `size`, the rows
    /// of the embedding table.
    ///
    /// The ids of the tokens that begin and end texts are those that the file puts around a text; others are not in it.
    ///
    /// # Errors
    /// As [`super::Tokenizer::from_json_bytes`]; [`super::TokenizerError::Unsupported`] for a way of cutting text that
    /// GGUF files have no name for; [`super::TokenizerError::Invalid`] for more tokens than `size`.
    pub fn from_json_bytes(bytes: &[u8], name: &str, size: usize) -> Result<Self> {
        // What the engine can't read is not converted either.
        super::hf::load(bytes, name)?;
        let mut json = FileJson::parse(bytes, name)?;
        let at = |field| At { file: name, field };
        let (vocab, merges) = check_model(at("model"), &mut json.model)?;
        let byte_level = decoding(at("decoder"), &json.decoder)?.byte_level;
        let mut tokens: Vec<Option<(String, Class)>> = vec![None; size];
        let mut put = |id: u32, text: &str, class: Class| match tokens.get_mut(id as usize) {
            Some(slot) => {
                *slot = Some((text.to_owned(), class));
                Ok(())
            }
            None => Err(at("model.vocab")
                .invalid(format!("token {id} is beyond the {size} rows of the embedding table"))),
        };
        for (text, &id) in &vocab {
            let byte = !byte_level && byte_token(text).is_some();
            put(id, text, if byte { Class::Byte } else { Class::Normal })?;
        }
        for AddedJson { id, content, special, .. } in &json.added_tokens {
            put(*id, content, if *special { Class::Control } else { Class::UserDefined })?;
        }
        if let Some(unknown) = &json.model.unk_token
            && let Some(&id) = vocab.get(unknown)
        {
            put(id, unknown, Class::Unknown)?;
        }
        let mut around = Affixes::default();
        affixes(at("post_processor"), &json.post_processor, 0, &mut around)?;
        let filled = tokens.into_iter().enumerate();
        let (texts, types): (Vec<Cow<'static, str>>, Vec<i32>) = filled
            .map(|(id, token)| token.unwrap_or_else(|| (format!("[PAD{id}]"), Class::Unused)))
            .map(|(text, class)| (Cow::Owned(text), class.token_type()))
            .unzip();
        let mut out = Self {
            file: name.into(),
            token_types: Some(types),
            bos: around.before.last().copied(),
            eos: around.after.first().copied(),
            unk: json.model.unk_token.as_ref().and_then(|unknown| vocab.get(unknown)).copied(),
            add_bos: Some(!around.before.is_empty()),
            add_eos: Some(!around.after.is_empty()),
            ..Self::default()
        };
        if byte_level {
            out.model = "gpt2".into();
            out.pre = Some(pre_tokenizer(at("pre_tokenizer"), &json.pre_tokenizer)?.into());
            let join = |(left, right): &(String, String)| Cow::Owned(format!("{left} {right}"));
            out.merges = Some(merges.iter().map(join).collect());
        } else {
            out.model = "llama".into();
            out.scores = Some(scores(&texts, &merges));
            let parts = json.normalizer.to_string() + &json.pre_tokenizer.to_string();
            out.add_space_prefix = Some(parts.contains("Prepend") || prepends(&json.pre_tokenizer));
        }
        out.tokens = texts;
        Ok(out)
    }
}

/// The score of each token: the earlier its merge, the higher.
fn scores(tokens: &[Cow<'static, str>], merges: &[(String, String)]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    let score = |token: &Cow<'static, str>| ranks.get(&**token).map(|&rank| -(rank as f32));
    tokens.iter().map(|token| score(token).unwrap_or(UNMERGED)).collect()
}

/// Whether a Metaspace pre-tokenizer puts a space before a text.
fn prepends(part: &Value) -> bool {
    let members = part.get("pretokenizers").and_then(Value::as_array);
    if let Some(members) = members {
        return members.iter().any(prepends);
    }
    text(part, "type") == Some("Metaspace") && text(part, "prepend_scheme") != Some("never")
}

/// GGUF's name for how a tokenizer.json cuts text.
fn pre_tokenizer(at: At<'_>, part: &Value) -> Result<&'static str> {
    let mut patterns = Vec::new();
    collect_patterns(part, &mut patterns);
    bpe::name_of(&patterns).ok_or_else(|| {
        at.unsupported(
            patterns.join(" then "),
            "the patterns of Llama 3, Qwen 2, Falcon and GPT-2: those GGUF files have names for",
        )
    })
}

fn collect_patterns<'v>(part: &'v Value, into: &mut Vec<&'v str>) {
    if let Some(members) = part.get("pretokenizers").and_then(Value::as_array) {
        return members.iter().for_each(|member| collect_patterns(member, into));
    }
    match text(part, "type") {
        Some("ByteLevel") if part.get("use_regex").and_then(Value::as_bool) != Some(false) => {
            into.push(super::split::GPT2);
        }
        Some("Split") => {
            let pattern = part.get("pattern").and_then(|p| p.get("Regex").or(p.get("String")));
            into.extend(pattern.and_then(Value::as_str));
        }
        Some("Digits") => into.push("Digits"),
        Some("Punctuation") => into.push("Punctuation"),
        _ => {}
    }
}

//! Fields of `tokenizer.json`: its parts, their types, and the fields of each type.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::bounded_json::Limit;

use super::{EMPTY, Field, Findings, NEVER, Refusal, ZERO, assumed, read, refused, shown, unused};

/// Parts nested deeper than this are not checked; reading the tokenizer refuses them.
const MAX_DEPTH: usize = 8;
/// Most values of the fields that are checked, all together.
const MAX_VALUES: usize = 5 << 16;

const TYPE: &str = "this type is not supported";
const POSITIONS: &str = "changes where tokens stand in the text, not the tokens";
const CUTS: &str = "for cutting text, which decoders do not";
const OF_REFUSED: &str = "of a type that is refused";

const FILE: &[Field] = &[
    read("version"),
    read("added_tokens"),
    read("normalizer"),
    read("pre_tokenizer"),
    read("post_processor"),
    read("decoder"),
    read("model"),
    assumed("truncation", NEVER, "texts are read whole, as by transformers"),
    assumed("padding", NEVER, "texts are read without padding, as by transformers"),
];

#[cfg(test)]
const ADDED_TOKENS: &[Field] = &[
    read("id"),
    read("content"),
    read("single_word"),
    read("lstrip"),
    read("rstrip"),
    read("normalized"),
    read("special"),
];

#[cfg(test)]
const SETTINGS: &[Field] = &[unused("*", "`truncation` and `padding` are listed as a whole")];

const MODEL: &[Field] = &[
    read("BPE"),
    refused("BPE.dropout", ZERO, "it would make token ids random"),
    read("BPE.unk_token"),
    refused("BPE.continuing_subword_prefix", EMPTY, "byte-pair encoding without affixes is"),
    refused("BPE.end_of_word_suffix", EMPTY, "byte-pair encoding without affixes is"),
    read("BPE.fuse_unk"),
    read("BPE.byte_fallback"),
    read("BPE.ignore_merges"),
    read("BPE.vocab"),
    read("BPE.merges"),
    refused("Unigram", NEVER, TYPE),
    refused("WordLevel", NEVER, TYPE),
    refused("WordPiece", NEVER, TYPE),
    unused("Unigram.*", OF_REFUSED),
    unused("WordLevel.*", OF_REFUSED),
    unused("WordPiece.*", OF_REFUSED),
];

const NORMALIZER: &[Field] = &[
    read("Sequence"),
    read("Sequence.normalizers"),
    read("Replace"),
    read("Replace.pattern"),
    read("Replace.content"),
    read("Prepend"),
    read("Prepend.prepend"),
    read("Strip"),
    read("Strip.strip_left"),
    read("Strip.strip_right"),
    read("NFC"),
    read("NFD"),
    read("NFKC"),
    read("NFKD"),
    read("Lowercase"),
    read("StripAccents"),
    refused("BertNormalizer", NEVER, TYPE),
    refused("ByteLevel", NEVER, TYPE),
    refused("Nmt", NEVER, TYPE),
    refused("Precompiled", NEVER, TYPE),
    unused("BertNormalizer.*", OF_REFUSED),
    unused("Precompiled.*", OF_REFUSED),
];

const PRE_TOKENIZER: &[Field] = &[
    read("Sequence"),
    read("Sequence.pretokenizers"),
    read("Split"),
    read("Split.pattern"),
    read("Split.behavior"),
    read("Split.invert"),
    read("ByteLevel"),
    read("ByteLevel.add_prefix_space"),
    read("ByteLevel.use_regex"),
    unused("ByteLevel.trim_offsets", POSITIONS),
    read("Digits"),
    read("Digits.individual_digits"),
    read("Punctuation"),
    read("Punctuation.behavior"),
    read("Metaspace"),
    read("Metaspace.replacement"),
    read("Metaspace.prepend_scheme"),
    read("Metaspace.add_prefix_space"),
    read("Metaspace.split"),
    unused("Metaspace.str_rep", "`replacement` defines it"),
    read("Whitespace"),
    read("WhitespaceSplit"),
    refused("BertPreTokenizer", NEVER, TYPE),
    refused("CharDelimiterSplit", NEVER, TYPE),
    refused("FixedLength", NEVER, TYPE),
    refused("UnicodeScripts", NEVER, TYPE),
    unused("CharDelimiterSplit.*", OF_REFUSED),
    unused("FixedLength.*", OF_REFUSED),
];

const POST_PROCESSOR: &[Field] = &[
    read("Sequence"),
    read("Sequence.processors"),
    read("TemplateProcessing"),
    read("TemplateProcessing.single"),
    read("TemplateProcessing.special_tokens"),
    unused("TemplateProcessing.pair", "no pair of texts is read"),
    read("ByteLevel"),
    unused("ByteLevel.add_prefix_space", POSITIONS),
    unused("ByteLevel.trim_offsets", POSITIONS),
    unused("ByteLevel.use_regex", POSITIONS),
    refused("BertProcessing", NEVER, TYPE),
    refused("RobertaProcessing", NEVER, TYPE),
    unused("BertProcessing.*", OF_REFUSED),
    unused("RobertaProcessing.*", OF_REFUSED),
];

const DECODER: &[Field] = &[
    read("Sequence"),
    read("Sequence.decoders"),
    read("ByteLevel"),
    unused("ByteLevel.add_prefix_space", CUTS),
    unused("ByteLevel.trim_offsets", CUTS),
    unused("ByteLevel.use_regex", CUTS),
    read("ByteFallback"),
    read("Fuse"),
    read("Replace"),
    read("Replace.pattern"),
    read("Replace.content"),
    read("Strip"),
    read("Strip.content"),
    read("Strip.start"),
    read("Strip.stop"),
    read("Metaspace"),
    read("Metaspace.replacement"),
    read("Metaspace.prepend_scheme"),
    read("Metaspace.add_prefix_space"),
    unused("Metaspace.split", CUTS),
    unused("Metaspace.str_rep", "`replacement` defines it"),
    refused("BPEDecoder", NEVER, TYPE),
    refused("CTC", NEVER, TYPE),
    refused("WordPiece", NEVER, TYPE),
    unused("BPEDecoder.*", OF_REFUSED),
    unused("CTC.*", OF_REFUSED),
    unused("WordPiece.*", OF_REFUSED),
];

/// Parts with types, each with its table and the fields that hold parts of the same kind.
const PARTS: &[(&str, &[Field], &str)] = &[
    ("model", MODEL, ""),
    ("normalizer", NORMALIZER, "normalizers"),
    ("pre_tokenizer", PRE_TOKENIZER, "pretokenizers"),
    ("post_processor", POST_PROCESSOR, "processors"),
    ("decoder", DECODER, "decoders"),
];

#[cfg(test)]
pub(super) const TABLES: &[(&str, &str, &[Field])] = &[
    ("tokenizer.json", "the file", FILE),
    ("tokenizer.json", "added_tokens", ADDED_TOKENS),
    ("tokenizer.json", "truncation, padding", SETTINGS),
    ("tokenizer.json", "model", MODEL),
    ("tokenizer.json", "normalizer", NORMALIZER),
    ("tokenizer.json", "pre_tokenizer", PRE_TOKENIZER),
    ("tokenizer.json", "post_processor", POST_PROCESSOR),
    ("tokenizer.json", "decoder", DECODER),
];

/// Assumptions about the fields of a `tokenizer.json`. Vocabulary, merges and added tokens are passed over unread.
///
/// # Errors
/// The first field whose value is not obeyed and would change token ids, or the one with which the fields have more than
/// [`MAX_VALUES`] values. A file that is not JSON is not an error here.
pub(crate) fn tokenizer_json(bytes: &[u8], file: &str) -> Result<Vec<String>, Refusal> {
    let mut found = Findings::new(file);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let (limit, last) = (Limit::new(MAX_VALUES), RefCell::new(String::new()));
    let skimmed = Skimmed { prefix: "", limit: &limit, last: &last };
    let Ok(fields) = skimmed.deserialize(&mut reader) else {
        if limit.is_exceeded() {
            let problem = format!(
                "with it the fields have more than {MAX_VALUES} values; shorten or remove it"
            );
            return Err(found.refusal(&last.borrow(), problem));
        }
        return Ok(Vec::new());
    };
    found.object(&[FILE], "", &fields)?;
    for (name, table, members) in PARTS {
        if let Some(value) = fields.get(*name) {
            part(&mut found, name, table, members, value, 0)?;
        }
    }
    Ok(found.finish())
}

/// Takes one part and those within it.
fn part(
    found: &mut Findings<'_>,
    kind: &str,
    table: &[Field],
    members: &str,
    value: &Value,
    depth: usize,
) -> Result<(), Refusal> {
    let Some(fields) = value.as_object().filter(|_| depth <= MAX_DEPTH) else { return Ok(()) };
    // Older files do not name the type of their model, which is BPE.
    let typed = fields.get("type").and_then(Value::as_str).unwrap_or("BPE");
    found.field(&[table], typed, &format!("{kind}.type"), &Value::String(shown(typed)))?;
    for (name, value) in fields.iter().filter(|(name, _)| *name != "type") {
        let path = format!("{kind}.{}.{}", shown(typed), shown(name));
        found.field(&[table], &format!("{typed}.{name}"), &path, value)?;
    }
    for member in fields.get(members).and_then(Value::as_array).into_iter().flatten() {
        part(found, kind, table, members, member, depth + 1)?;
    }
    Ok(())
}

/// What stands before the fields of the model in messages.
const MODEL_FIELDS: &str = "model.";

/// An object of which long members are passed over: they become `true`.
#[derive(Clone, Copy)]
struct Skimmed<'c> {
    /// What stands before its fields in messages: nothing, or `model.`.
    prefix: &'static str,
    limit: &'c Limit,
    /// The field that was read last.
    last: &'c RefCell<String>,
}

impl<'de> DeserializeSeed<'de> for Skimmed<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Skimmed<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = from.next_key::<String>()? {
            let value = match (self.prefix, name.as_str()) {
                ("", "model") => {
                    Value::Object(from.next_value_seed(Self { prefix: MODEL_FIELDS, ..self })?)
                }
                ("", "added_tokens") | (MODEL_FIELDS, "vocab" | "merges") => {
                    from.next_value::<IgnoredAny>()?;
                    Value::Bool(true)
                }
                _ => {
                    *self.last.borrow_mut() = format!("{}{}", self.prefix, shown(&name));
                    from.next_value_seed(self.limit.part())?
                }
            };
            all.insert(name, value);
        }
        Ok(all)
    }
}

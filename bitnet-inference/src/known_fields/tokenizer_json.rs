//! Fields of `tokenizer.json`: its parts, their types, and the fields of each type.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::bounded_json::Limit;

use super::{EMPTY, Fields, Findings, NEVER, Refusal, ZERO, assumed, read, refused, shown, unused};

/// Parts nested deeper than this are not checked; reading the tokenizer refuses them.
const MAX_DEPTH: usize = 8;
/// Most values of the fields that are checked, all together.
const MAX_VALUES: usize = 5 << 16;

const TYPE: &str = "this type is not supported";
const POSITIONS: &str = "changes where tokens stand in the text, not the tokens";
const CUTS: &str = "for cutting text, which decoders do not";
const OF_REFUSED: &str = "of a type that is refused";

const FILE: &[Fields] = &[
    read(&["version", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"]),
    read(&["model"]),
    assumed(&["truncation"], NEVER, "texts are read whole, as by transformers"),
    assumed(&["padding"], NEVER, "texts are read without padding, as by transformers"),
];

#[cfg(test)]
const ADDED_TOKENS: &[Fields] =
    &[read(&["id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"])];

#[cfg(test)]
const SETTINGS: &[Fields] = &[unused(&["*"], "`truncation` and `padding` are listed as a whole")];

const MODEL: &[Fields] = &[
    read(&["BPE"]),
    refused(&["BPE.dropout"], ZERO, "it would make token ids random"),
    read(&["BPE.unk_token"]),
    refused(&["BPE.continuing_subword_prefix"], EMPTY, "byte-pair encoding without affixes is"),
    refused(&["BPE.end_of_word_suffix"], EMPTY, "byte-pair encoding without affixes is"),
    read(&["BPE.fuse_unk", "BPE.byte_fallback", "BPE.ignore_merges", "BPE.vocab", "BPE.merges"]),
    refused(&["Unigram", "WordLevel", "WordPiece"], NEVER, TYPE),
    unused(&["Unigram.*", "WordLevel.*", "WordPiece.*"], OF_REFUSED),
];

const NORMALIZER: &[Fields] = &[
    read(&["Sequence", "Sequence.normalizers", "Replace", "Replace.pattern", "Replace.content"]),
    read(&["Prepend", "Prepend.prepend", "Strip", "Strip.strip_left", "Strip.strip_right", "NFC"]),
    read(&["NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"]),
    refused(&["BertNormalizer", "ByteLevel", "Nmt", "Precompiled"], NEVER, TYPE),
    unused(&["BertNormalizer.*", "Precompiled.*"], OF_REFUSED),
];

const PRE_TOKENIZER: &[Fields] = &[
    read(&["Sequence", "Sequence.pretokenizers", "Split", "Split.pattern", "Split.behavior"]),
    read(&["Split.invert", "ByteLevel", "ByteLevel.add_prefix_space", "ByteLevel.use_regex"]),
    unused(&["ByteLevel.trim_offsets"], POSITIONS),
    read(&["Digits", "Digits.individual_digits", "Punctuation", "Punctuation.behavior"]),
    read(&["Metaspace", "Metaspace.replacement", "Metaspace.prepend_scheme"]),
    read(&["Metaspace.add_prefix_space", "Metaspace.split"]),
    unused(&["Metaspace.str_rep"], "`replacement` defines it"),
    read(&["Whitespace", "WhitespaceSplit"]),
    refused(&["BertPreTokenizer", "CharDelimiterSplit", "FixedLength"], NEVER, TYPE),
    refused(&["UnicodeScripts"], NEVER, TYPE),
    unused(&["CharDelimiterSplit.*", "FixedLength.*"], OF_REFUSED),
];

const POST_PROCESSOR: &[Fields] = &[
    read(&["Sequence", "Sequence.processors", "TemplateProcessing", "TemplateProcessing.single"]),
    read(&["TemplateProcessing.special_tokens"]),
    unused(&["TemplateProcessing.pair"], "no pair of texts is read"),
    read(&["ByteLevel"]),
    unused(&["ByteLevel.add_prefix_space", "ByteLevel.trim_offsets"], POSITIONS),
    unused(&["ByteLevel.use_regex"], POSITIONS),
    refused(&["BertProcessing", "RobertaProcessing"], NEVER, TYPE),
    unused(&["BertProcessing.*", "RobertaProcessing.*"], OF_REFUSED),
];

const DECODER: &[Fields] = &[
    read(&["Sequence", "Sequence.decoders", "ByteLevel"]),
    unused(&["ByteLevel.add_prefix_space", "ByteLevel.trim_offsets", "ByteLevel.use_regex"], CUTS),
    read(&["ByteFallback", "Fuse", "Replace", "Replace.pattern", "Replace.content", "Strip"]),
    read(&["Strip.content", "Strip.start", "Strip.stop", "Metaspace", "Metaspace.replacement"]),
    read(&["Metaspace.prepend_scheme", "Metaspace.add_prefix_space"]),
    unused(&["Metaspace.split"], CUTS),
    unused(&["Metaspace.str_rep"], "`replacement` defines it"),
    refused(&["BPEDecoder", "CTC", "WordPiece"], NEVER, TYPE),
    unused(&["BPEDecoder.*", "CTC.*", "WordPiece.*"], OF_REFUSED),
];

/// Parts with types, each with its table and the fields that hold parts of the same kind.
const PARTS: &[(&str, &[Fields], &str)] = &[
    ("model", MODEL, ""),
    ("normalizer", NORMALIZER, "normalizers"),
    ("pre_tokenizer", PRE_TOKENIZER, "pretokenizers"),
    ("post_processor", POST_PROCESSOR, "processors"),
    ("decoder", DECODER, "decoders"),
];

#[cfg(test)]
pub(super) const TABLES: &[(&str, &str, &[Fields])] = &[
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
/// The first field whose value is not obeyed and would change token ids, or the one with which the fields have more
/// than [`MAX_VALUES`] values. A file that is not JSON is not an error here.
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
    table: &[Fields],
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
                    from.next_value_seed(self.limit)?
                }
            };
            all.insert(name, value);
        }
        Ok(all)
    }
}

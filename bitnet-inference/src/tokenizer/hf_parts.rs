//! The parts of a tokenizer.json that surround its model: normaliser,
//! pre-tokenizer, decoder, added tokens at both ends.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::pattern::Pattern;
use tokenizers::{
    NormalizerWrapper, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
    SplitDelimiterBehavior,
};

use super::error::{Result, TokenizerError};
use super::split::{BoundedRegex, GPT2};

/// Parts nested deeper than this are refused.
const MAX_DEPTH: usize = 8;

/// Says what is wrong with which field of which file.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) file: &'a str,
    pub(crate) field: &'a str,
}

impl At<'_> {
    pub(crate) fn invalid(&self, problem: impl Into<String>) -> TokenizerError {
        TokenizerError::Invalid {
            file: self.file.into(),
            field: self.field.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn unsupported(&self, found: impl Into<String>, supported: &str) -> TokenizerError {
        TokenizerError::Unsupported {
            file: self.file.into(),
            field: self.field.into(),
            found: super::error::shortened(&found.into()),
            supported: supported.into(),
        }
    }

    /// The `type` of a part.
    fn kind<'v>(&self, part: &'v Value) -> Result<&'v str> {
        text(part, "type").ok_or_else(|| self.invalid("the part has no `type`"))
    }

    /// The parts of a `Sequence`.
    fn members<'v>(&self, part: &'v Value, key: &str, depth: usize) -> Result<&'v [Value]> {
        if depth >= MAX_DEPTH {
            return Err(self.invalid(format!("sequences are nested more than {MAX_DEPTH} deep")));
        }
        let members = part.get(key).and_then(Value::as_array);
        members.map(Vec::as_slice).ok_or_else(|| self.invalid(format!("`{key}` must be a list")))
    }
}

/// A field of a part that is a text.
pub(super) fn text<'v>(part: &'v Value, field: &str) -> Option<&'v str> {
    part.get(field)?.as_str()
}

/// A field of a part that is true or false.
fn flag(part: &Value, field: &str) -> Option<bool> {
    part.get(field)?.as_bool()
}

/// One step of cutting text before the model sees it.
#[derive(Debug)]
pub(crate) enum Cutter {
    /// Cuts with a bounded expression.
    Split { regex: BoundedRegex, behavior: SplitDelimiterBehavior, invert: bool },
    /// A part of the library that cannot run away.
    Library(Box<PreTokenizerWrapper>),
}

impl Cutter {
    /// Whether it ends a word after every letter that neither a letter nor a mark follows.
    pub(crate) fn ends_words(&self) -> bool {
        let isolated = SplitDelimiterBehavior::Isolated;
        matches!(self, Self::Split { regex, behavior, invert: false }
            if *behavior == isolated && regex.ends_words())
    }

    /// Whether it may put a space before what it gets.
    pub(crate) fn adds_spaces(&self) -> bool {
        match self {
            Self::Split { .. } => false,
            Self::Library(part) => match &**part {
                PreTokenizerWrapper::Metaspace(_) => true,
                PreTokenizerWrapper::ByteLevel(part) => part.add_prefix_space,
                _ => false,
            },
        }
    }
}

struct Bounded<'a>(&'a BoundedRegex, bool);

impl Pattern for Bounded<'_> {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<((usize, usize), bool)>> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let cuts = self.0.cuts(inside)?;
        Ok(cuts.into_iter().map(|(start, end, hit)| ((start, end), hit != self.1)).collect())
    }
}

impl PreTokenizer for Cutter {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        match self {
            Self::Split { regex, behavior, invert } => {
                text.split(|_, part| part.split(Bounded(regex, *invert), *behavior))
            }
            Self::Library(part) => part.pre_tokenize(text),
        }
    }
}

#[derive(Deserialize)]
enum SplitPattern {
    String(String),
    Regex(String),
}

#[derive(Deserialize)]
struct SplitJson {
    pattern: SplitPattern,
    behavior: SplitDelimiterBehavior,
    #[serde(default)]
    invert: bool,
}

/// Reads the pre-tokenizer into steps, refusing what could run away or panic.
pub(crate) fn cutters(
    at: At<'_>,
    part: &Value,
    depth: usize,
    into: &mut Vec<Cutter>,
) -> Result<()> {
    if part.is_null() {
        return Ok(());
    }
    let bad = |error: serde_json::Error| at.invalid(error.to_string());
    match at.kind(part)? {
        "Sequence" => {
            for member in at.members(part, "pretokenizers", depth)? {
                cutters(at, member, depth + 1, into)?;
            }
        }
        "Split" => {
            let split = SplitJson::deserialize(part).map_err(bad)?;
            let pattern = match split.pattern {
                SplitPattern::String(text) => fancy_regex::escape(&text).into_owned(),
                SplitPattern::Regex(pattern) => pattern,
            };
            let regex = BoundedRegex::new(&pattern).map_err(|problem| at.invalid(problem))?;
            into.push(Cutter::Split { regex, behavior: split.behavior, invert: split.invert });
        }
        "ByteLevel" => {
            let mut part = part.clone();
            let prefix = flag(&part, "add_prefix_space").unwrap_or(true);
            let cuts = flag(&part, "use_regex").unwrap_or(true);
            if cuts && !prefix {
                let regex = BoundedRegex::new(GPT2).map_err(|problem| at.invalid(problem))?;
                let behavior = SplitDelimiterBehavior::Isolated;
                into.push(Cutter::Split { regex, behavior, invert: false });
                if let Some(fields) = part.as_object_mut() {
                    fields.insert("use_regex".into(), Value::Bool(false));
                }
            }
            into.push(Cutter::Library(Box::new(serde_json::from_value(part).map_err(bad)?)));
        }
        "Digits" | "Punctuation" | "Metaspace" | "Whitespace" | "WhitespaceSplit" => {
            let part = PreTokenizerWrapper::deserialize(part).map_err(bad)?;
            into.push(Cutter::Library(Box::new(part)));
        }
        other => {
            return Err(at.unsupported(
                other,
                "Sequence, Split, ByteLevel, Digits, Punctuation, Metaspace, Whitespace, WhitespaceSplit",
            ));
        }
    }
    Ok(())
}

/// Reads the normaliser, refusing what could run away or panic.
pub(crate) fn normalizer(at: At<'_>, part: &Value) -> Result<Option<NormalizerWrapper>> {
    if part.is_null() {
        return Ok(None);
    }
    check_normalizer(at, part, 0)?;
    NormalizerWrapper::deserialize(part).map(Some).map_err(|error| at.invalid(error.to_string()))
}

fn check_normalizer(at: At<'_>, part: &Value, depth: usize) -> Result<()> {
    match at.kind(part)? {
        "Sequence" => at
            .members(part, "normalizers", depth)?
            .iter()
            .try_for_each(|member| check_normalizer(at, member, depth + 1)),
        "Replace" => {
            let pattern = part.get("pattern");
            let fancy = |pattern: &&str| {
                pattern.len() > 1024
                    || ["(?=", "(?!", "(?<", "(?>", "\\", "(?("]
                        .iter()
                        .any(|sign| pattern.contains(sign))
            };
            if let Some(pattern) = pattern.and_then(|p| text(p, "Regex")).filter(fancy) {
                return Err(at.unsupported(
                    pattern,
                    "in a normaliser: patterns without look-around and escapes",
                ));
            }
            let content = text(part, "content").unwrap_or_default();
            if content.len() > 64 {
                return Err(at.invalid("a replacement longer than 64 bytes"));
            }
            Ok(())
        }
        "Prepend" => match text(part, "prepend") {
            Some(text) if !text.is_empty() && text.len() <= 64 => Ok(()),
            _ => Err(at.invalid("`prepend` must be a text of 1 to 64 bytes")),
        },
        "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "Strip" | "StripAccents" => Ok(()),
        other => Err(at.unsupported(
            other,
            "Sequence, Replace, Prepend, NFC, NFD, NFKC, NFKD, Lowercase, Strip, StripAccents",
        )),
    }
}

/// How tokens become bytes.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Decoding {
    /// Through the byte alphabet.
    pub(crate) byte_level: bool,
    /// `<0xHH>` tokens are bytes.
    pub(crate) byte_fallback: bool,
    /// Replacements within a token, in order.
    pub(crate) replace: Vec<(String, String)>,
    /// A space at the beginning of the text is dropped.
    pub(crate) drop_first_space: bool,
    /// The steps read so far join the tokens: what follows works on the whole text.
    joined: bool,
}

impl Decoding {
    /// The bytes that a token adds to a text.
    pub(crate) fn bytes(&self, text: &str) -> Vec<u8> {
        if self.byte_level {
            return super::alphabet::bytes_of(text).unwrap_or_else(|| text.as_bytes().to_vec());
        }
        let mut text = std::borrow::Cow::Borrowed(text);
        for (from, to) in &self.replace {
            text = text.replace(from.as_str(), to).into();
        }
        match super::vocabulary::byte_token(&text) {
            Some(byte) if self.byte_fallback => vec![byte],
            _ => text.as_bytes().to_vec(),
        }
    }
}

/// Reads the decoder: the byte-level one, or those of SentencePiece vocabularies.
pub(crate) fn decoding(at: At<'_>, part: &Value) -> Result<Decoding> {
    let mut decoding = Decoding::default();
    if part.is_null() {
        return Err(at.unsupported(
            "null",
            "ByteLevel, Metaspace, or a Sequence of Replace, ByteFallback, Fuse, Strip",
        ));
    }
    read_decoder(at, part, 0, &mut decoding)?;
    Ok(decoding)
}

fn read_decoder(at: At<'_>, part: &Value, depth: usize, into: &mut Decoding) -> Result<()> {
    match at.kind(part)? {
        "Sequence" => {
            for member in at.members(part, "decoders", depth)? {
                read_decoder(at, member, depth + 1, into)?;
            }
        }
        "ByteLevel" => {
            into.byte_level = true;
            into.joined = true;
        }
        "ByteFallback" => into.byte_fallback = true,
        "Fuse" => into.joined = true,
        "Replace" => {
            let from = part.get("pattern").and_then(|p| text(p, "String"));
            let to = text(part, "content");
            // Tokens are written one by one, so a pattern that may span two of them can't be replaced.
            if into.byte_level || (into.joined && from.is_some_and(|from| from.chars().count() > 1))
            {
                return Err(at.unsupported(
                    part.to_string(),
                    "Replace before the tokens are joined by ByteLevel or Fuse",
                ));
            }
            let pair = from.zip(to).filter(|(from, to)| !from.is_empty() && to.len() <= 64);
            let Some((from, to)) = pair.filter(|_| into.replace.len() < 8) else {
                return Err(at.invalid("Replace must have a String pattern and a short content"));
            };
            into.replace.push((from.into(), to.into()));
        }
        "Strip" => {
            let count = |key| part.get(key).and_then(Value::as_u64);
            let content = text(part, "content");
            match (content, count("start"), count("stop")) {
                (Some(" "), Some(1), Some(0)) if into.joined => into.drop_first_space = true,
                (Some(_), Some(0), Some(0)) => {}
                _ => {
                    return Err(at.unsupported(
                        part.to_string(),
                        "Strip of one space at the start, after Fuse",
                    ));
                }
            }
        }
        "Metaspace" => {
            let mark = text(part, "replacement").unwrap_or("▁");
            into.replace.push((mark.into(), " ".into()));
            let scheme = text(part, "prepend_scheme").unwrap_or("always");
            let prefix = flag(part, "add_prefix_space").unwrap_or(true);
            into.drop_first_space = prefix && scheme != "never";
        }
        other => {
            return Err(at.unsupported(
                other,
                "Sequence, ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace",
            ));
        }
    }
    Ok(())
}

/// Token ids put before and after every text.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Affixes {
    pub(crate) before: Vec<u32>,
    pub(crate) after: Vec<u32>,
}

/// Reads the post-processor: what it puts around a single text.
pub(crate) fn affixes(at: At<'_>, part: &Value, depth: usize, into: &mut Affixes) -> Result<()> {
    if part.is_null() {
        return Ok(());
    }
    match at.kind(part)? {
        "Sequence" => at
            .members(part, "processors", depth)?
            .iter()
            .try_for_each(|member| affixes(at, member, depth + 1, into)),
        "ByteLevel" => Ok(()),
        "TemplateProcessing" => template(at, part, into),
        other => Err(at.unsupported(other, "Sequence, ByteLevel, TemplateProcessing")),
    }
}

fn template(at: At<'_>, part: &Value, into: &mut Affixes) -> Result<()> {
    let single = part
        .get("single")
        .and_then(Value::as_array)
        .ok_or_else(|| at.invalid("`single` must be a list"))?;
    let mut inner = Affixes::default();
    let mut texts = 0;
    for piece in single {
        if let Some(special) = piece.get("SpecialToken") {
            let name = text(special, "id").unwrap_or_default();
            let ids = part
                .get("special_tokens")
                .and_then(|all| all.get(name))
                .and_then(|token| token.get("ids"));
            let ids = ids.and_then(Value::as_array).ok_or_else(|| {
                at.invalid(format!(
                    "the template names {name:?}, which `special_tokens` does not have"
                ))
            })?;
            let target = if texts == 0 { &mut inner.before } else { &mut inner.after };
            for id in ids {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                target.push(
                    id.ok_or_else(|| at.invalid(format!("the id of {name:?} is not a token id")))?,
                );
            }
        } else if piece.get("Sequence").is_some() {
            texts += 1;
        } else {
            return Err(at.invalid("a template piece is neither SpecialToken nor Sequence"));
        }
    }
    if texts != 1 {
        return Err(at.invalid(format!("the template for a single text has {texts} texts in it")));
    }
    inner.before.append(&mut into.before);
    into.before = inner.before;
    into.after.append(&mut inner.after);
    Ok(())
}

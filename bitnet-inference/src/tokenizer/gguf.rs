//! The vocabulary inside a GGUF file, and encoding with it as llama.cpp does.

use std::borrow::Cow;

use bitnet_formats::gguf::{GgufWriter, Metadata, Value};

use super::bpe::{Bpe, DEFAULT_PRE};
use super::error::{Result, TokenizerError, shortened};
use super::hf::MAX_TOKEN_BYTES;
use super::hf_json::MAX_IDS;
use super::hf_parts::At;
use super::spm::{SPACE, SentencePiece};
use super::vocabulary::{Class, Piece, Vocabulary, byte_token};
use super::{END_NAMES, EncodeOptions, Encoder, Tokenizer, alphabet};

/// The `tokenizer.ggml.*` values of a GGUF file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufVocabulary<'a> {
    /// What messages call the file.
    pub file: String,
    /// `model`: `gpt2` (byte-level, ranked merges) or `llama` (SentencePiece).
    pub model: String,
    /// `pre`: how text is cut before merging; a file of model `gpt2` without it is read as Llama 3.
    pub pre: Option<String>,
    /// `tokens`, by id.
    pub tokens: Vec<Cow<'a, str>>,
    /// `scores`, one per token; needed by `llama`.
    pub scores: Option<Vec<f32>>,
    /// `token_type`, one per token: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Option<Vec<i32>>,
    /// `merges`, best first; needed by `gpt2`.
    pub merges: Option<Vec<Cow<'a, str>>>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `eot_token_id`.
    pub eot: Option<u32>,
    /// `eom_token_id`.
    pub eom: Option<u32>,
    /// `seperator_token_id`.
    pub sep: Option<u32>,
    /// `cls_token_id`.
    pub cls: Option<u32>,
    /// `mask_token_id`.
    pub mask: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `general.architecture`.
    pub architecture: String,
    /// Ids of the file that are left out, in sentences: 4294967295 (-1, none), and ids beyond the vocabulary of tokens
    /// that are not used.
    pub ignored_ids: Vec<String>,
}

impl<'a> GgufVocabulary<'a> {
    /// Reads the values from a file's metadata, without copying tokens and merges.
    ///
    /// # Errors
    /// [`TokenizerError::Invalid`] if a key that every vocabulary has is
    /// missing, or one has another type than it should.
    pub fn from_metadata(metadata: &'a Metadata) -> Result<Self> {
        let file = metadata.file_name().to_owned();
        let wrong = |error: bitnet_formats::Error| TokenizerError::Invalid {
            file: file.clone(),
            field: "tokenizer.ggml".into(),
            problem: error.to_string(),
        };
        let texts = |texts: Vec<&'a str>| texts.into_iter().map(Cow::Borrowed).collect::<Vec<_>>();
        let flag = |key: &str| metadata.opt_bool(key).map_err(wrong);
        let mut vocabulary = Self {
            model: metadata.get_str("tokenizer.ggml.model").map_err(wrong)?.to_owned(),
            pre: metadata.opt_str("tokenizer.ggml.pre").map_err(wrong)?.map(str::to_owned),
            tokens: texts(metadata.get_array_str("tokenizer.ggml.tokens").map_err(wrong)?),
            scores: metadata.opt_array_f32("tokenizer.ggml.scores").map_err(wrong)?,
            token_types: metadata.opt_array_i32("tokenizer.ggml.token_type").map_err(wrong)?,
            merges: metadata.opt_array_str("tokenizer.ggml.merges").map_err(wrong)?.map(texts),
            add_bos: flag("tokenizer.ggml.add_bos_token")?,
            add_eos: flag("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: flag("tokenizer.ggml.add_space_prefix")?,
            architecture: metadata
                .opt_str("general.architecture")
                .map_err(wrong)?
                .unwrap_or_default()
                .to_owned(),
            file: file.clone(),
            ..Self::default()
        };
        vocabulary.read_ids(metadata).map_err(wrong)?;
        Ok(vocabulary)
    }

    /// Reads the ids of tokens. Those that stand for no token and are not needed are left out: llama.cpp warns about
    /// them and goes on.
    fn read_ids(&mut self, metadata: &Metadata) -> bitnet_formats::Result<()> {
        let count = self.tokens.len();
        let unused_bos = self.add_bos == Some(false);
        for (name, id, is_unused) in [
            ("bos", &mut self.bos, unused_bos),
            ("eos", &mut self.eos, false),
            ("unknown", &mut self.unk, true),
            ("padding", &mut self.pad, true),
            ("eot", &mut self.eot, false),
            ("eom", &mut self.eom, false),
            ("seperator", &mut self.sep, true),
            ("cls", &mut self.cls, true),
            ("mask", &mut self.mask, true),
        ] {
            let key = format!("tokenizer.ggml.{name}_token_id");
            *id = metadata.opt_u32(&key)?;
            let Some(found) = *id else { continue };
            if found == u32::MAX {
                self.ignored_ids.push(format!("{key} is -1: there is no such token"));
            } else if is_unused && found as usize >= count {
                let said = format!("{key} {found} is ignored: there are only {count} tokens");
                self.ignored_ids.push(said);
            } else {
                continue;
            }
            *id = None;
        }
        Ok(())
    }

    /// Sets the keys of a new file.
    ///
    /// # Errors
    /// Those of [`GgufWriter::put`].
    pub fn write(&self, to: &mut GgufWriter) -> bitnet_formats::Result<()> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        to.put(&key("model"), Value::String(&self.model))?;
        if let Some(pre) = &self.pre {
            to.put(&key("pre"), Value::String(pre))?;
        }
        to.put_strings(&key("tokens"), &self.tokens)?;
        if let Some(scores) = &self.scores {
            to.put_f32s(&key("scores"), scores)?;
        }
        if let Some(types) = &self.token_types {
            to.put_i32s(&key("token_type"), types)?;
        }
        if let Some(merges) = &self.merges {
            to.put_strings(&key("merges"), merges)?;
        }
        for (name, id) in [
            ("bos_token_id", self.bos),
            ("eos_token_id", self.eos),
            ("unknown_token_id", self.unk),
            ("padding_token_id", self.pad),
            ("eot_token_id", self.eot),
            ("eom_token_id", self.eom),
            ("seperator_token_id", self.sep),
            ("cls_token_id", self.cls),
            ("mask_token_id", self.mask),
        ] {
            if let Some(id) = id {
                to.put(&key(name), Value::U32(id))?;
            }
        }
        for (name, flag) in [
            ("add_bos_token", self.add_bos),
            ("add_eos_token", self.add_eos),
            ("add_space_prefix", self.add_space_prefix),
        ] {
            if let Some(flag) = flag {
                to.put(&key(name), Value::Bool(flag))?;
            }
        }
        Ok(())
    }

    /// The special tokens by the names that chat templates use.
    pub(crate) fn named_ids(&self) -> [(&'static str, Option<u32>); 9] {
        [
            ("bos_token", self.bos),
            ("eos_token", self.eos),
            ("unk_token", self.unk),
            ("sep_token", self.sep),
            ("pad_token", self.pad),
            ("cls_token", self.cls),
            ("mask_token", self.mask),
            ("eot_token", self.eot),
            ("eom_token", self.eom),
        ]
    }

    /// What messages call the file.
    pub(crate) fn name(&self) -> &str {
        if self.file.is_empty() { "GGUF vocabulary" } else { &self.file }
    }

    fn at<'s>(&'s self, field: &'s str) -> At<'s> {
        At { file: self.name(), field }
    }

    /// The classes of all tokens; without `token_type` the named tokens and those that end texts are control tokens.
    fn classes(&self) -> Result<Vec<Class>> {
        let named = [self.bos, self.eos, self.pad, self.eot, self.eom];
        let Some(types) = &self.token_types else {
            let class = |(id, text): (u32, &Cow<'_, str>)| {
                if named.contains(&Some(id)) || END_NAMES.contains(&&**text) {
                    Class::Control
                } else if self.unk == Some(id) {
                    Class::Unknown
                } else if self.model == "llama" && byte_token(text).is_some() {
                    Class::Byte
                } else {
                    Class::Normal
                }
            };
            return Ok((0u32..).zip(&self.tokens).map(class).collect());
        };
        let class = |(id, &number): (usize, &i32)| {
            Class::of_token_type(number).ok_or_else(|| {
                let problem = format!("token {id} has type {number}; known are 1 to 6");
                self.at("tokenizer.ggml.token_type").invalid(problem)
            })
        };
        types.iter().enumerate().map(class).collect()
    }

    fn check(&self) -> Result<()> {
        let count = self.tokens.len();
        let tokens = self.at("tokenizer.ggml.tokens");
        if count == 0 || count > MAX_IDS {
            return Err(tokens.invalid(format!("{count} tokens; 1 to {MAX_IDS} are taken")));
        }
        for (field, length) in [
            ("tokenizer.ggml.scores", self.scores.as_ref().map(Vec::len)),
            ("tokenizer.ggml.token_type", self.token_types.as_ref().map(Vec::len)),
        ] {
            if let Some(length) = length.filter(|&length| length != count) {
                return Err(self.at(field).invalid(format!("{length} values for {count} tokens")));
            }
        }
        for (field, id) in [
            ("tokenizer.ggml.bos_token_id", self.bos),
            ("tokenizer.ggml.eos_token_id", self.eos),
            ("tokenizer.ggml.unknown_token_id", self.unk),
            ("tokenizer.ggml.padding_token_id", self.pad),
            ("tokenizer.ggml.eot_token_id", self.eot),
        ] {
            if let Some(id) = id.filter(|&id| id as usize >= count) {
                return Err(self
                    .at(field)
                    .invalid(format!("token {id}, but there are only {count}")));
            }
        }
        match self.tokens.iter().position(|token| token.len() > MAX_TOKEN_BYTES) {
            Some(id) => {
                Err(tokens.invalid(format!("token {id} is longer than {MAX_TOKEN_BYTES} bytes")))
            }
            None => Ok(()),
        }
    }

    fn vocabulary(&self) -> Result<Vocabulary> {
        let mut vocabulary = Vocabulary::with_capacity(self.tokens.len());
        let mut bytes = Vec::new();
        for (id, (text, class)) in self.tokens.iter().zip(self.classes()?).enumerate() {
            bytes.clear();
            match (class, self.model.as_str()) {
                (Class::Byte, _) => bytes.push(byte_token(text).ok_or_else(|| {
                    let problem = format!(
                        "token {id}, {:?}, is marked as a byte, but is not <0xHH>",
                        shortened(text)
                    );
                    self.at("tokenizer.ggml.tokens").invalid(problem)
                })?),
                (Class::Normal | Class::Unused, "gpt2") => {
                    if !alphabet::read_into(text, &mut bytes) {
                        bytes.clear();
                        bytes.extend_from_slice(text.as_bytes());
                    }
                }
                (Class::Normal | Class::Unused, _) => {
                    bytes.extend_from_slice(text.replace(SPACE, " ").as_bytes());
                }
                _ => bytes.extend_from_slice(text.as_bytes()),
            }
            vocabulary.push(Some(Piece { text, bytes: &bytes, class }));
        }
        Ok(vocabulary)
    }
}

#[derive(Debug)]
enum Model {
    Bpe(Bpe),
    SentencePiece { model: SentencePiece, prefix: bool },
}

/// The encoder of a GGUF vocabulary.
#[derive(Debug)]
pub(crate) struct GgufEncoder {
    model: Model,
    /// Tokens that are found in a text before everything else, longest first.
    marks: Vec<(Box<str>, u32, Class)>,
    before: Option<u32>,
    after: Option<u32>,
}

/// Checks a vocabulary and makes its encoder.
pub(super) fn load(source: &GgufVocabulary<'_>) -> Result<Tokenizer> {
    source.check()?;
    if !matches!(source.model.as_str(), "gpt2" | "llama") {
        let supported = "gpt2, llama; put the model's tokenizer.json beside the file";
        return Err(source
            .at("tokenizer.ggml.model")
            .unsupported(source.model.as_str(), supported));
    }
    let vocabulary = source.vocabulary()?;
    let mut assumptions = source.ignored_ids.clone();
    let missing = |field| source.at(field).invalid("the key is missing; convert the model again");
    let (model, begins, prefix) = if source.model == "gpt2" {
        let merges = source.merges.as_deref().ok_or_else(|| missing("tokenizer.ggml.merges"))?;
        let pre = source.pre.as_deref().unwrap_or_else(|| {
            assumptions.push(format!(
                "the file does not name its pre-tokenizer (tokenizer.ggml.pre): text is cut as Llama 3 does ({DEFAULT_PRE})"
            ));
            DEFAULT_PRE
        });
        let model = Bpe::new(source.name(), pre, merges, &vocabulary)?;
        (Model::Bpe(model), Bpe::begins_by_default(pre), false)
    } else {
        let scores = source.scores.clone().ok_or_else(|| missing("tokenizer.ggml.scores"))?;
        let prefix = source.add_space_prefix.unwrap_or(true);
        let model = SentencePiece::new(
            source.name(),
            scores,
            source.unk.or_else(|| vocabulary.id("<unk>")),
            &vocabulary,
        )?;
        (Model::SentencePiece { model, prefix }, true, prefix)
    };
    let before = source.add_bos.unwrap_or(begins).then_some(source.bos).flatten();
    let after = source.add_eos.unwrap_or(false).then_some(source.eos).flatten();
    let marked = |class| matches!(class, Class::Control | Class::UserDefined | Class::Unknown);
    let mut marks: Vec<(Box<str>, u32, Class)> = vocabulary
        .iter()
        .filter(|(_, piece)| marked(piece.class) && !piece.text.is_empty())
        .map(|(id, piece)| (piece.text.into(), id, piece.class))
        .collect();
    marks.sort_by_key(|(text, id, _)| (std::cmp::Reverse(text.len()), *id));
    let encoder = Encoder::Gguf(Box::new(GgufEncoder { model, marks, before, after }));
    let (bos, eos) = (source.bos, source.eos);
    Ok(Tokenizer { bos, eos, assumptions, ..Tokenizer::new(encoder, vocabulary, prefix) })
}

enum Part<'t> {
    Text(&'t str),
    Mark(u32),
}

impl GgufEncoder {
    /// Encodes a text.
    pub(crate) fn encode(
        &self,
        text: &str,
        options: EncodeOptions,
        vocabulary: &Vocabulary,
    ) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if options.add_special {
            ids.extend(self.before);
        }
        let mut after_mark = true;
        for part in self.parts(text, options.parse_special) {
            match part {
                Part::Mark(id) => {
                    ids.push(id);
                    after_mark = true;
                }
                Part::Text(part) => {
                    match &self.model {
                        Model::Bpe(model) => model.encode(part, vocabulary, &mut ids)?,
                        Model::SentencePiece { model, prefix } => {
                            model.encode(part, *prefix && after_mark, vocabulary, &mut ids)?;
                        }
                    }
                    after_mark = false;
                }
            }
        }
        if options.add_special {
            ids.extend(self.after);
        }
        Ok(ids)
    }

    /// Cuts out the marks, longer ones first wherever they stand; control tokens only with `parse_special`.
    fn parts<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Part<'t>> {
        let mut parts = if text.is_empty() { Vec::new() } else { vec![Part::Text(text)] };
        for (mark, id, class) in &self.marks {
            if (!parse_special && *class != Class::UserDefined) || !text.contains(&**mark) {
                continue;
            }
            let mut finer = Vec::with_capacity(parts.len() + 2);
            for part in parts {
                let Part::Text(text) = part else {
                    finer.push(part);
                    continue;
                };
                for (index, between) in text.split(&**mark).enumerate() {
                    if index > 0 {
                        finer.push(Part::Mark(*id));
                    }
                    if !between.is_empty() {
                        finer.push(Part::Text(between));
                    }
                }
            }
            parts = finer;
        }
        parts
    }
}

//! Reading tokenizer.json, and encoding as the `tokenizers` library does.
//!
//! Every field is checked before the library sees it, because the library answers some impossible files with a panic;
//! what the checks miss is caught at the call and becomes an error.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::{
    AddedToken, AddedVocabulary, Model, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizer,
};

use super::chunks::{Apart, CHUNK, Pairs, Words, bytes_stay_apart, check_whole, for_each_chunk};
use super::error::{Result, TokenizerError, shortened};
use super::hf_cutting::{Cutting, normalize};
use super::hf_json::{AddedJson, FileJson, MAX_IDS, MergesJson, ModelJson};
use super::hf_parts::{Affixes, At, Cutter, Decoding, affixes, cutters, decoding, normalizer};
use super::spm::SPACE;
use super::vocabulary::{Class, Piece, Vocabulary, byte_token};
use super::{EncodeOptions, Encoder, Tokenizer};

/// Longest token in bytes.
pub(crate) const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// The encoder of a tokenizer.json.
pub(crate) struct HfEncoder {
    file: String,
    model: BPE,
    normalizer: Option<NormalizerWrapper>,
    cutters: Vec<Cutter>,
    /// Finds all added tokens in a text.
    parsing: AddedVocabulary,
    /// Finds those that are not special.
    literal: AddedVocabulary,
    affixes: Affixes,
    cutting: Cutting,
    /// The added tokens, as they are written.
    added: Vec<Box<str>>,
}

impl std::fmt::Debug for HfEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HfEncoder").field("file", &self.file).finish_non_exhaustive()
    }
}

/// Reads a tokenizer.json.
pub(super) fn load(bytes: &[u8], file: &str) -> Result<Tokenizer> {
    let mut json = FileJson::parse(bytes, file)?;
    let at = |field| At { file, field };
    if json.version.as_deref().is_some_and(|version| version != "1.0") {
        return Err(at("version").unsupported(json.version.unwrap_or_default(), "1.0"));
    }
    let decoding = decoding(at("decoder"), &json.decoder)?;
    let normalizer = normalizer(at("normalizer"), &json.normalizer)?;
    let mut steps = Vec::new();
    cutters(at("pre_tokenizer"), &json.pre_tokenizer, 0, &mut steps)?;
    let mut around = Affixes::default();
    affixes(at("post_processor"), &json.post_processor, 0, &mut around)?;

    let (vocab, merges) = check_model(at("model"), &mut json.model)?;
    let vocabulary = pieces(file, &vocab, &json.added_tokens, &decoding)?;
    for &id in around.before.iter().chain(&around.after) {
        if vocabulary.get(id).is_none() {
            return Err(
                at("post_processor").invalid(format!("token id {id} is not in the vocabulary"))
            );
        }
    }
    let model = guarded(file, "building the model", || {
        let mut builder = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .byte_fallback(json.model.byte_fallback)
            .ignore_merges(json.model.ignore_merges)
            .fuse_unk(json.model.fuse_unk);
        if let Some(unknown) = json.model.unk_token.clone() {
            builder = builder.unk_token(unknown);
        }
        builder.build()
    })?;
    let cutting = Cutting::of(&json, &steps, normalizer.as_ref());
    let parsing = added_vocabulary(file, &json.added_tokens, &model, normalizer.as_ref())?;
    let mut literal = parsing.clone();
    literal.set_encode_special_tokens(true);
    let (bos, eos) = (around.before.last().copied(), around.after.first().copied());
    let encoder = HfEncoder {
        file: file.into(),
        model,
        normalizer,
        cutters: steps,
        parsing,
        literal,
        affixes: around,
        cutting,
        added: json.added_tokens.iter().map(|token| token.content.as_str().into()).collect(),
    };
    let encoder = Encoder::Hf(Box::new(encoder));
    Ok(Tokenizer { bos, eos, ..Tokenizer::new(encoder, vocabulary, decoding.drop_first_space) })
}

/// Checks the model's own fields and takes its words and merges out of it: large files hold them only once.
pub(super) fn check_model(at: At<'_>, model: &mut ModelJson) -> Result<(Vocab, Merges)> {
    let kind =
        model.kind.as_deref().unwrap_or(if model.merges.is_some() { "BPE" } else { "unnamed" });
    if kind != "BPE" {
        return Err(at.unsupported(kind, "BPE"));
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(at.invalid("`dropout` would make token ids random; set it to null"));
    }
    for affix in [&model.continuing_subword_prefix, &model.end_of_word_suffix].into_iter().flatten()
    {
        if !affix.is_empty() {
            return Err(at.unsupported(affix.as_str(), "an empty subword prefix and word suffix"));
        }
    }
    let vocab = Vocab::deserialize(std::mem::take(&mut model.vocab)).map_err(|error| {
        at.invalid(format!("`vocab` must map texts to ids of 32 bits: {error}"))
    })?;
    if let Some(unknown) =
        model.unk_token.as_ref().filter(|unknown| !vocab.contains_key(unknown.as_str()))
    {
        return Err(at.invalid(format!("`unk_token` {unknown:?} is not in `vocab`")));
    }
    let merges = match model.merges.take() {
        None => return Err(at.invalid("`merges` is missing")),
        Some(MergesJson::Pairs(pairs)) => pairs,
        Some(MergesJson::Lines(lines)) => {
            let lines = lines.iter().filter(|line| !line.starts_with("#version"));
            lines
                .map(|line| match line.split_once(' ') {
                    Some((left, right)) if !right.contains(' ') => {
                        Ok((left.to_owned(), right.to_owned()))
                    }
                    _ => Err(at.invalid(format!(
                        "merge {:?} is not two texts with a space between",
                        shortened(line)
                    ))),
                })
                .collect::<Result<Merges>>()?
        }
    };
    let mut joined = String::new();
    for (left, right) in &merges {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        for part in [left, right, &joined] {
            if !vocab.contains_key(part.as_str()) {
                return Err(at.invalid(format!(
                    "merge {:?} + {:?} needs the token {:?}, which `vocab` does not have",
                    shortened(left),
                    shortened(right),
                    shortened(part)
                )));
            }
        }
    }
    Ok((vocab, merges))
}

/// All tokens by id.
fn pieces(
    file: &str,
    vocab: &Vocab,
    added: &[AddedJson],
    decoding: &Decoding,
) -> Result<Vocabulary> {
    let at = |field| At { file, field };
    let count = vocab.len() + added.len();
    let highest = vocab.values().chain(added.iter().map(|token| &token.id)).max();
    let size = highest.map_or(0, |&id| id as usize + 1);
    if size > MAX_IDS || size > 2 * count + 1024 {
        return Err(
            at("model.vocab").invalid(format!("{count} tokens, but ids up to {}", size - 1))
        );
    }
    let mut pieces: Vec<Option<(&str, Class)>> = vec![None; size];
    for (text, &id) in vocab {
        let class = if decoding.byte_fallback && byte_token(text).is_some() {
            Class::Byte
        } else {
            Class::Normal
        };
        let Some(slot) = pieces.get_mut(id as usize) else { continue };
        if let Some((other, _)) = slot {
            return Err(at("model.vocab").invalid(format!(
                "{:?} and {:?} have the same id {id}",
                shortened(text),
                shortened(other)
            )));
        }
        check_length(at("model.vocab"), text)?;
        *slot = Some((text, class));
    }
    for token in added {
        let class = if token.special { Class::Control } else { Class::UserDefined };
        let field = at("added_tokens");
        if token.content.is_empty() {
            return Err(field.invalid(format!("token {} is empty", token.id)));
        }
        let in_vocab = vocab.get(&token.content).copied();
        let Some(slot) = pieces.get_mut(token.id as usize) else { continue };
        let taken = slot.is_some_and(|(other, _)| other != token.content);
        if taken || in_vocab.is_some_and(|id| id != token.id) {
            let content = shortened(&token.content);
            return Err(field.invalid(format!(
                "{content:?} has id {}, which contradicts another token",
                token.id
            )));
        }
        check_length(field, &token.content)?;
        *slot = Some((&token.content, class));
    }
    let mut vocabulary = Vocabulary::with_capacity(pieces.len());
    for token in pieces {
        match token {
            Some((text, class)) => {
                vocabulary.push(Some(Piece { text, bytes: &decoding.bytes(text), class }));
            }
            None => vocabulary.push(None),
        }
    }
    Ok(vocabulary)
}

fn check_length(at: At<'_>, token: &str) -> Result<()> {
    match token.len() {
        ..=MAX_TOKEN_BYTES => Ok(()),
        bytes => {
            Err(at
                .invalid(format!("a token of {bytes} bytes; at most {MAX_TOKEN_BYTES} are taken")))
        }
    }
}

fn added_vocabulary(
    file: &str,
    added: &[AddedJson],
    model: &BPE,
    normalizer: Option<&NormalizerWrapper>,
) -> Result<AddedVocabulary> {
    let tokens = added.iter().map(|token| {
        AddedToken::from(token.content.as_str(), token.special)
            .single_word(token.single_word)
            .lstrip(token.lstrip)
            .rstrip(token.rstrip)
            .normalized(token.normalized)
    });
    let vocabulary = guarded(file, "adding tokens", || {
        let mut vocabulary = AddedVocabulary::new();
        vocabulary.add_tokens(tokens, model, normalizer)?;
        Ok(vocabulary)
    })?;
    for token in added {
        let got = vocabulary.token_to_id(&token.content, model);
        if got != Some(token.id) {
            let at = At { file, field: "added_tokens" };
            return Err(at.invalid(format!(
                "{:?} should have id {}, but the ids before it leave {got:?}; added tokens must follow the vocabulary without gaps",
                shortened(&token.content),
                token.id
            )));
        }
    }
    Ok(vocabulary)
}

impl HfEncoder {
    /// Encodes a text.
    pub(crate) fn encode(
        &self,
        text: &str,
        options: EncodeOptions,
        vocabulary: &Vocabulary,
    ) -> Result<Vec<u32>> {
        let added = if options.parse_special { &self.parsing } else { &self.literal };
        let normalizer = self.normalizer.as_ref();
        let mut ids = Vec::new();
        match &self.cutting {
            _ if text.len() <= CHUNK => self.encode_chunk(text, normalizer, added, &mut ids)?,
            Cutting::AfterWords(held) => {
                let is_kept = |pair: &str| {
                    let mut letters = pair.chars();
                    let both = letters.next().zip(letters.next());
                    both.is_some_and(|(left, right)| !held.contain(left, right))
                        && normalize(normalizer, pair).as_deref() == Some(pair)
                };
                for_each_chunk(text, &Words(is_kept), |chunk| {
                    self.encode_chunk(chunk, normalizer, added, &mut ids)
                })?;
            }
            Cutting::WhereNothingJoins { pairs, spells_bytes, after }
                if !self.holds_added(text) =>
            {
                let (pairs, bytes_apart) = pairs.get_or_init(|| {
                    let tokens = vocabulary.iter().map(|(_, piece)| piece.text);
                    (Pairs::in_tokens(tokens), *spells_bytes && bytes_stay_apart(vocabulary))
                });
                let known_to = (!bytes_apart).then_some(vocabulary);
                let mut normalizer = normalizer;
                for_each_chunk(text, &Apart { pairs, known_to, space: SPACE }, |chunk| {
                    let first = normalizer.replace(after);
                    self.encode_chunk(chunk, first, added, &mut ids)
                })?;
            }
            Cutting::WhereNothingJoins { .. } | Cutting::Nowhere => {
                check_whole(text)?;
                self.encode_chunk(text, normalizer, added, &mut ids)?;
            }
        }
        if !options.add_special {
            return Ok(ids);
        }
        Ok([self.affixes.before.as_slice(), &ids, &self.affixes.after].concat())
    }

    fn encode_chunk(
        &self,
        text: &str,
        normalizer: Option<&NormalizerWrapper>,
        added: &AddedVocabulary,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        guarded(&self.file, "encoding", || {
            let mut parts = added.extract_and_normalize(normalizer, text);
            for cutter in &self.cutters {
                cutter.pre_tokenize(&mut parts)?;
            }
            parts.tokenize(|part| self.model.tokenize(part.get()))?;
            let splits = parts.get_splits(OffsetReferential::Original, OffsetType::Byte);
            let tokens = splits.iter().filter_map(|(_, _, tokens)| tokens.as_deref());
            ids.extend(tokens.flatten().map(|token| token.id));
            Ok(())
        })
    }

    /// Whether an added token stands in a text.
    fn holds_added(&self, text: &str) -> bool {
        self.added.iter().any(|token| text.contains(&**token))
    }
}

/// Calls the library; its errors and, should one come through, its panics become errors.
fn guarded<T>(
    file: &str,
    action: &'static str,
    call: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T> {
    let library = |problem: String| TokenizerError::Library { file: file.into(), action, problem };
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(match error.downcast::<TokenizerError>() {
            Ok(ours) => *ours,
            Err(theirs) => library(theirs.to_string()),
        }),
        Err(_) => Err(library("it panicked".into())),
    }
}

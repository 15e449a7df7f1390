//! Tokenizers: from tokenizer.json or from the vocabulary inside a GGUF file, text to ids and back.

mod alphabet;
mod bpe;
mod chunks;
mod error;
mod from_json;
mod gguf;
mod hf;
mod hf_cutting;
mod hf_json;
mod hf_parts;
mod merge;
mod special_tokens;
mod split;
mod spm;
mod stream;
mod to_json;
mod vocabulary;

use std::path::Path;

pub use error::TokenizerError;
pub use gguf::GgufVocabulary;
pub use special_tokens::SpecialTokens;
pub use stream::TextStream;

use crate::known_fields;
use error::Result;
pub(crate) use vocabulary::Class;
use vocabulary::{Piece, Vocabulary};

/// Tokens by whose name a model ends its turn or its text.
const END_NAMES: [&str; 12] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_turn|>",
    "<|EOT|>",
    "<EOT>",
    "<|return|>",
    "</s>",
];
/// Largest tokenizer.json, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// Whether a special token of this name ends a text in every model, whatever other settings say.
pub fn is_end_name(token: &str) -> bool {
    END_NAMES.contains(&token)
}

/// What encoding does beside cutting text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EncodeOptions {
    /// Put the tokens around the text that the tokenizer asks for, such as the beginning-of-text token.
    pub add_special: bool,
    /// Read control tokens written in the text as those tokens. Leave it off for text from a user.
    pub parse_special: bool,
}

#[derive(Debug)]
enum Encoder {
    Hf(Box<hf::HfEncoder>),
    Gguf(Box<gguf::GgufEncoder>),
}

/// Text to token ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    encoder: Encoder,
    vocabulary: Vocabulary,
    drop_first_space: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    end: Vec<u32>,
    special: SpecialTokens,
    /// Rows of the model's embedding; ids from the end of the vocabulary up to here decode to no text.
    rows: usize,
    assumptions: Vec<String>,
}

impl Tokenizer {
    /// Reads a tokenizer.json.
    ///
    /// # Errors
    /// [`TokenizerError::Io`] if the file cannot be read, else as [`Tokenizer::from_json_bytes`].
    pub fn from_json_file(path: &Path) -> Result<Self> {
        let file = path.display().to_string();
        let io = |source| TokenizerError::Io { file: file.clone(), source };
        let facts = std::fs::metadata(path).map_err(io)?;
        if !facts.is_file() || facts.len() > MAX_FILE {
            let problem = format!("not a file of at most {MAX_FILE} bytes");
            return Err(TokenizerError::Syntax { file, problem });
        }
        let bytes = std::fs::read(path).map_err(io)?;
        Self::from_json_bytes(&bytes, &file)
    }

    /// Reads the contents of a tokenizer.json; `name` is what messages call it.
    ///
    /// The special tokens that tokenizer_config.json defines are guessed here until [`Tokenizer::set_special_tokens`]:
    /// [`Tokenizer::bos_id`] is the last token that the file puts before a text, [`Tokenizer::eos_id`] the first token
    /// after it or the first that bears an end name.
    ///
    /// # Errors
    /// [`TokenizerError::Syntax`], [`TokenizerError::Invalid`]
    /// or [`TokenizerError::Unsupported`], each naming the field.
    pub fn from_json_bytes(bytes: &[u8], name: &str) -> Result<Self> {
        let mut tokenizer = hf::load(bytes, name)?;
        tokenizer.assumptions = known_fields::tokenizer_json(bytes, name)?;
        tokenizer.find_ends(&[]);
        if tokenizer.eos.is_none() {
            let named = ["<|end_of_text|>", "<|endoftext|>", "</s>", "<|im_end|>", "<|eot_id|>"];
            tokenizer.eos = named.iter().find_map(|name| tokenizer.control_id(name));
        }
        let named = [("bos_token", tokenizer.bos), ("eos_token", tokenizer.eos)];
        tokenizer.special = tokenizer.texts_of(&named);
        Ok(tokenizer)
    }

    /// Takes the vocabulary of a GGUF file.
    ///
    /// A file of model `gpt2` that does not name its pre-tokenizer is read as Llama 3, which is reported in
    /// [`Tokenizer::assumptions`].
    ///
    /// # Errors
    /// [`TokenizerError::Invalid`] for values that contradict each other, [`TokenizerError::Unsupported`] for a model
    /// or a pre-tokenizer that is not known; the message lists the known ones.
    pub fn from_vocabulary(source: GgufVocabulary<'_>) -> Result<Self> {
        let mut tokenizer = gguf::load(&source)?;
        tokenizer.find_ends(&[source.eot, source.eom]);
        tokenizer.special = tokenizer.texts_of(&source.named_ids());
        Ok(tokenizer)
    }

    /// A tokenizer whose tokens at both ends of a text, special ones and end tokens are still to be found.
    fn new(encoder: Encoder, vocabulary: Vocabulary, drop_first_space: bool) -> Self {
        Self {
            encoder,
            vocabulary,
            drop_first_space,
            bos: None,
            eos: None,
            end: Vec::new(),
            special: SpecialTokens::default(),
            rows: 0,
            assumptions: Vec::new(),
        }
    }

    fn texts_of(&self, ids: &[(&str, Option<u32>)]) -> SpecialTokens {
        let mut tokens = SpecialTokens::default();
        for &(name, id) in ids {
            if let Some(text) = id.and_then(|id| self.token_text(id)) {
                tokens.insert(name, text);
            }
        }
        tokens
    }

    /// Takes the special tokens that the model's own files define in place of guessed ones.
    pub fn set_special_tokens(&mut self, tokens: SpecialTokens) {
        let id = |name| tokens.get(name).and_then(|text| self.id_of(text));
        let (bos, eos) = (id("bos_token"), id("eos_token"));
        self.bos = bos.or(self.bos);
        self.eos = eos.or(self.eos);
        self.special = tokens;
        let declared: Vec<Option<u32>> = self.end.iter().copied().map(Some).collect();
        self.find_ends(&declared);
    }

    /// The named special tokens, as a chat template gets them.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// Takes the rows of the model's embedding: ids beyond the vocabulary,
    /// but not beyond these rows, decode to no text.
    pub fn set_embedding_rows(&mut self, rows: usize) {
        self.rows = rows;
    }

    /// Rows of the embedding beyond the highest token id.
    pub fn rows_beyond(&self) -> usize {
        self.rows.saturating_sub(self.vocabulary.len())
    }

    /// The token of an id. Gaps of the vocabulary and rows of the embedding beyond it have no text and no bytes.
    pub(crate) fn piece(&self, id: u32) -> Result<Piece<'_>> {
        let size = self.vocabulary.len().max(self.rows);
        match self.vocabulary.get(id) {
            Some(piece) => Ok(piece),
            None if (id as usize) < size => Ok(Piece::EMPTY),
            None => Err(TokenizerError::UnknownId { id, size }),
        }
    }

    fn control_id(&self, name: &str) -> Option<u32> {
        self.id_of(name).filter(|&id| self.is_special(id))
    }

    /// Collects the end tokens: those declared, and those that bear an end name.
    fn find_ends(&mut self, declared: &[Option<u32>]) {
        let named = END_NAMES.iter().filter_map(|name| self.control_id(name));
        let declared = declared.iter().copied().flatten();
        let declared = declared.filter(|&id| self.vocabulary.get(id).is_some());
        let mut end: Vec<u32> = self.eos.into_iter().chain(declared).chain(named).collect();
        end.sort_unstable();
        end.dedup();
        self.end = end;
    }

    /// The token ids of a text.
    ///
    /// # Errors
    /// [`TokenizerError::NoPlaceToCut`], [`TokenizerError::PatternTooSlow`], [`TokenizerError::Unencodable`] or
    /// [`TokenizerError::Library`].
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>> {
        match &self.encoder {
            Encoder::Hf(encoder) => encoder.encode(text, options, &self.vocabulary),
            Encoder::Gguf(encoder) => encoder.encode(text, options, &self.vocabulary),
        }
    }

    /// The token ids of bytes that should be UTF-8; what is not becomes U+FFFD, as Python's `errors="replace"` does.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn encode_bytes(&self, bytes: &[u8], options: EncodeOptions) -> Result<Vec<u32>> {
        self.encode(&String::from_utf8_lossy(bytes), options)
    }

    /// The text of tokens; with `skip_special` control tokens are left out. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`] for an id beyond the vocabulary and the rows of the embedding.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let mut bytes = Vec::new();
        for &id in ids {
            let piece = self.piece(id)?;
            if !(skip_special && self.is_special(id)) {
                bytes.extend_from_slice(piece.bytes);
            }
        }
        let trimmed =
            if self.drop_first_space { bytes.strip_prefix(b" ").unwrap_or(&bytes) } else { &bytes };
        Ok(String::from_utf8_lossy(trimmed).into_owned())
    }

    /// The bytes that a token adds to a text; they need not be whole characters.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`] for an id beyond the vocabulary and the rows of the embedding.
    pub fn token_bytes(&self, id: u32) -> Result<Vec<u8>> {
        Ok(self.piece(id)?.bytes.to_vec())
    }

    /// A token as its file writes it, such as `Ġthe` or `<0x0A>`, if the vocabulary has it.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.vocabulary.get(id).map(|piece| piece.text)
    }

    /// The id of a token by its written form.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.vocabulary.id(token)
    }

    /// One past the highest token id.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// Whether a token steers the model or stands for unknown text, and is no text itself.
    pub fn is_special(&self, id: u32) -> bool {
        self.vocabulary
            .get(id)
            .is_some_and(|piece| matches!(piece.class, Class::Control | Class::Unknown))
    }

    /// The beginning-of-text token.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-text token.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    /// All tokens after which a model has nothing more to say, in order of id.
    pub fn end_of_generation_ids(&self) -> &[u32] {
        &self.end
    }

    /// What the file does not say and was assumed, in sentences.
    pub fn assumptions(&self) -> &[String] {
        &self.assumptions
    }

    pub(crate) fn drops_first_space(&self) -> bool {
        self.drop_first_space
    }
}

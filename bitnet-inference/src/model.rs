//! A model, loaded: decoder, tokenizer, chat template, and the facts about them.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bitnet_core::backend::Backend;
use bitnet_core::kv::KvType;
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_cpu::CpuOptions;
use bitnet_formats::gguf::GgufFile;

use crate::chat::{ChatTemplate, TemplateError};
use crate::constraint;
use crate::generate::{GenerateOptions, Generated};
use crate::loader::{
    Checkpoint, DraftSource, EmbeddingSettings, GgufCheckpoint, HfCheckpoint, LoadOptions,
    ModelFacts, OnnxCheckpoint, SettingsFault, SuggestedSampling, backend_by_name, build,
    onnx_in_folder,
};
use crate::memory_stats::MemoryStats;
use crate::models::{Decoder, LazyTopLogits, ModelConfig};
use crate::sampler::SamplerConfig;
use crate::session::Session;
use crate::tokenizer::{EncodeOptions, Tokenizer};
use crate::weight_cache::{CachedHead, CachedWeights, Origin};
use crate::{InferenceError, Result};

/// The model that is part of the program: a small ternary language model that writes stories.
pub static EMBEDDED: &[u8] = include_bytes!("../models/stories.gguf");

/// What the embedded model is called in messages.
pub const EMBEDDED_NAME: &str = "stories.gguf (embedded)";

/// Where a model comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelSource<'a> {
    /// The model that is part of the program.
    Embedded,
    /// A GGUF, safetensors or ONNX file, or a Hugging Face folder.
    Path(&'a Path),
}

/// A language model that can read and write text.
///
/// ```
/// use bitnet_inference::Model;
///
/// let model = Model::embedded()?;
/// let story = model.complete("Once upon a time", 24)?;
/// assert!(!story.text.is_empty());
/// # Ok::<(), bitnet_inference::InferenceError>(())
/// ```
#[derive(Debug)]
pub struct Model {
    decoder: Arc<Decoder>,
    pub(crate) tokenizer: Option<Arc<Tokenizer>>,
    template: Option<Result<ChatTemplate, TemplateError>>,
    pub(crate) end_tokens: Arc<BTreeSet<u32>>,
    facts: ModelFacts,
    suggested: SuggestedSampling,
    pub(crate) embedding: Result<EmbeddingSettings, SettingsFault>,
    kv: KvType,
    /// Made for the first constraint.
    pub(crate) constraints: Mutex<Option<Arc<constraint::Compiler>>>,
}

impl Model {
    /// Loads the embedded model, to run on all physical cores.
    ///
    /// # Errors
    /// If the memory can't be had.
    pub fn embedded() -> Result<Self> {
        Self::load(ModelSource::Embedded)
    }

    /// Loads a model, to run on all physical cores with the best instruction set.
    ///
    /// # Errors
    /// Those of [`Model::load_with`].
    pub fn load(source: ModelSource<'_>) -> Result<Self> {
        let backend = backend_by_name("cpu", CpuOptions::default())?;
        Self::load_with(source, &LoadOptions::default(), backend, &mut |_, _| {})
    }

    /// Loads a model on a back end of choice; `on_layer` receives (layers done, layers in all).
    ///
    /// # Errors
    /// Whatever is wrong with the files: unreadable, damaged, of an unknown kind, or not enough memory.
    pub fn load_with(
        source: ModelSource<'_>,
        options: &LoadOptions,
        backend: Arc<dyn Backend>,
        on_layer: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let opened = open(source, options)?;
        let drafts = match &options.draft {
            DraftSource::File(path) => Some(open_drafts(path, opened.config(), options)?),
            DraftSource::None | DraftSource::Own => None,
        };
        let pool = match options.pool.as_ref().or_else(|| backend.pool()) {
            Some(pool) => pool.clone(),
            None => HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?,
        };
        let checkpoint = &*opened;
        let cache = match (source, &options.cache) {
            (ModelSource::Path(path), Some(cache)) => {
                let (files, key) = (checkpoint.files(), checkpoint.cache_key());
                Origin::of(path, files, key, &*backend).map(|origin| (cache, origin))
            }
            (ModelSource::Embedded, _) | (_, None) => None,
        };
        let cached = cache.as_ref().map(|(cache, origin)| CachedWeights::open(cache, origin));
        let cached_head = cache
            .as_ref()
            .map(|(cache, origin)| CachedHead::new(cache, origin, options.head.name()));
        let top_logits = LazyTopLogits::new(options.head, cached_head);
        let (described, built, took) = std::thread::scope(|scope| {
            // A large vocabulary takes as long as the weights.
            let describing = scope.spawn(|| opened.describe(options));
            let start = Instant::now();
            let built = build(
                checkpoint,
                drafts.as_ref().map(|drafts| drafts as &dyn Checkpoint),
                Arc::clone(&backend),
                pool,
                cached.as_ref(),
                top_logits,
                on_layer,
            );
            let took = start.elapsed();
            let described = describing.join().unwrap_or_else(|panic| resume_unwind(panic));
            (described, built, took)
        });
        let (described, mut built) = (described?, built?);
        built.decoder.cache_writer = cached.and_then(|cached| cached.writer(took, built.sections));
        let vocab_size = built.decoder.config.vocab_size;
        let mut facts = described.facts;
        facts.assumptions.extend(built.assumptions);
        if let Some(calibration) = &options.calibration {
            built.decoder.calibrate(calibration)?;
            facts.inputs = "int8 within calibrated ranges (requested)".into();
        }
        let end_tokens: BTreeSet<u32> = described.end_tokens.into_iter().collect();
        if let Some(&token) = end_tokens.iter().find(|&&t| t as usize >= vocab_size) {
            return Err(InferenceError::Config {
                file: facts.file,
                field: "end-of-text token".into(),
                problem: format!("{token} is outside the vocabulary of {vocab_size} tokens"),
            });
        }
        if described.tokenizer.is_some() && end_tokens.is_empty() {
            facts
                .assumptions
                .push("no end-of-text token is known: writing stops at the length limit".into());
        }
        Ok(Self {
            decoder: Arc::new(built.decoder),
            tokenizer: described.tokenizer.map(Arc::new),
            template: described.template,
            end_tokens: Arc::new(end_tokens),
            facts,
            suggested: described.defaults,
            embedding: described.embedding,
            kv: options.kv,
            constraints: Mutex::default(),
        })
    }

    /// Begins to write the prepared weights and head to disk. See [`Decoder::write_cache`].
    pub fn write_cache(&self) {
        self.decoder.write_cache();
    }

    /// Shapes and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.decoder.config
    }

    /// The decoder, for work with token ids and hidden states.
    pub fn decoder(&self) -> &Arc<Decoder> {
        &self.decoder
    }

    /// What the model's pool holds now, and what the back end has read.
    pub fn memory_stats(&self) -> MemoryStats {
        MemoryStats::of(self.decoder.pool(), self.decoder.backend())
    }

    /// The tokenizer, if the model came with one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_deref()
    }

    /// The chat template, if the model came with one, or why it can't be used.
    pub fn template(&self) -> Option<Result<&ChatTemplate, &TemplateError>> {
        self.template.as_ref().map(Result::as_ref)
    }

    /// Tokens that end a text.
    pub fn end_tokens(&self) -> &BTreeSet<u32> {
        &self.end_tokens
    }

    /// The facts that go wrong silently when they are guessed.
    pub fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// How sessions store keys and values.
    pub fn kv(&self) -> KvType {
        self.kv
    }

    /// Sampling values that the model's authors suggest.
    pub fn suggested_sampling(&self) -> SuggestedSampling {
        self.suggested
    }

    /// Sampling where nothing else is asked for: what the model's authors suggest, else temperature 0.7 and top-p 0.9.
    pub fn default_sampling(&self) -> SamplerConfig {
        SamplerConfig {
            temperature: self.suggested.temperature.unwrap_or(0.7),
            top_k: self.suggested.top_k.unwrap_or(0),
            top_p: self.suggested.top_p.unwrap_or(0.9),
            ..SamplerConfig::default()
        }
    }

    /// Checks that the model can write text.
    ///
    /// # Errors
    /// [`InferenceError::UnsupportedOperation`] for a model without a head.
    pub fn check_head(&self) -> Result<()> {
        if self.config().has_head { Ok(()) } else { Err(self.decoder.no_head()) }
    }

    /// Returns an empty sequence with room for `context` tokens, or for the model's own context up to 4096.
    ///
    /// # Errors
    /// Those of [`Session::new`] and [`Model::check_head`].
    pub fn session(&self, context: Option<usize>) -> Result<Session> {
        self.check_head()?;
        self.empty(context)
    }

    /// Returns an empty sequence as [`Model::session`] does, of a model with or without a head.
    pub(crate) fn empty(&self, context: Option<usize>) -> Result<Session> {
        let capacity = context.unwrap_or_else(|| self.config().default_context());
        let session = Session::new(&self.decoder, capacity, self.kv)?;
        Ok(session.with_tokenizer(self.tokenizer.clone(), Arc::clone(&self.end_tokens)))
    }

    /// Returns the tokens of a plain prompt, with those that begin a text.
    ///
    /// # Errors
    /// If the model has no tokenizer or the tokenizer refuses the text.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let tokenizer =
            self.tokenizer.as_ref().ok_or_else(|| InferenceError::no_tokenizer("text"))?;
        Ok(tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: true })?)
    }

    /// Continues `prompt` greedily by at most `max_tokens` tokens: the simplest way to use a model.
    ///
    /// # Errors
    /// Those of [`Model::encode_prompt`] and [`Session::generate`].
    pub fn complete(&self, prompt: &str, max_tokens: usize) -> Result<Generated> {
        let tokens = self.encode_prompt(prompt)?;
        let mut session = self.session(None)?;
        let options = GenerateOptions { max_tokens, ..GenerateOptions::default() };
        let mut generation = session.generate(&tokens, &options)?;
        generation.by_ref().try_for_each(|token| token.map(drop))?;
        Ok(generation.finish())
    }
}

/// Opens a GGUF file with a layer that drafts tokens for a model of these settings.
///
/// # Errors
/// [`InferenceError::Config`] naming the setting in which they differ, or the key that announces such a layer.
fn open_drafts(path: &Path, model: &ModelConfig, options: &LoadOptions) -> Result<GgufCheckpoint> {
    let options = LoadOptions { draft: DraftSource::Own, ..options.clone() };
    let drafts = GgufCheckpoint::new(GgufFile::open(path)?, &options)?;
    let own = drafts.config();
    let bad = |field: &str, problem: String| InferenceError::config(drafts.file(), field, problem);
    if own.architecture != model.architecture {
        let problem = format!("{}, but the model is {}", own.architecture, model.architecture);
        return Err(bad("general.architecture", problem));
    }
    for (field, found, expected) in [
        ("embedding_length", own.hidden, model.hidden),
        ("vocabulary size", own.vocab_size, model.vocab_size),
        ("attention.head_count", own.heads, model.heads),
        ("attention.head_count_kv", own.kv_heads, model.kv_heads),
        ("attention.key_length", own.head_dim, model.head_dim),
        ("rope.dimension_count", own.rope_dim, model.rope_dim),
    ] {
        if found != expected {
            let problem = format!("{found}, but the model whose tokens it drafts has {expected}");
            return Err(bad(field, problem));
        }
    }
    if own.drafts_read == 0 {
        let problem = "missing: the file has no layer that drafts tokens".to_owned();
        return Err(bad("nextn_predict_layers", problem));
    }
    Ok(drafts)
}

/// Opens a checkpoint: reads the headers, and both tables of a tied folder that stores a head too (they are compared).
pub(crate) fn open(source: ModelSource<'_>, options: &LoadOptions) -> Result<Box<dyn Checkpoint>> {
    let is_of_folder =
        |path: &Path| path.extension().is_some_and(|e| e == "safetensors" || e == "json");
    let is_onnx = |path: &Path| path.extension().is_some_and(|e| e == "onnx");
    let file = match source {
        ModelSource::Embedded => GgufFile::from_static(EMBEDDED, EMBEDDED_NAME)?,
        ModelSource::Path(path) if path.is_dir() => {
            return Ok(match onnx_in_folder(path)? {
                Some(file) => Box::new(OnnxCheckpoint::open(&file, options)?),
                None => Box::new(HfCheckpoint::open(path, options)?),
            });
        }
        ModelSource::Path(path) if is_onnx(path) => {
            return Ok(Box::new(OnnxCheckpoint::open(path, options)?));
        }
        ModelSource::Path(path) if is_of_folder(path) => {
            return Ok(Box::new(HfCheckpoint::open(path, options)?));
        }
        ModelSource::Path(path) => GgufFile::open(path)?,
    };
    Ok(Box::new(GgufCheckpoint::new(file, options)?))
}

//! A model's files, opened for reading one tensor after another: what converters and comparisons work from.

use std::collections::BTreeMap;
use std::sync::Arc;

use bitnet_core::dense::DenseRows;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_formats::MappedFile;

use super::{
    Checkpoint, Container, Description, LoadOptions, ModelFacts, StoredBytes, StoredLinear,
    WeightScan, weight_scan,
};
use crate::embed::Pooling;
use crate::model::{ModelSource, open};
use crate::models::ModelConfig;
use crate::tokenizer::Tokenizer;
use crate::{InferenceError, Result};

/// The files of a model; the headers have been read, and both tables of a tied folder that stores a head too.
///
/// Tensors are named by GGUF's names without `.weight` (`token_embd`, `blk.0.attn_q`), whatever the container.
pub struct ModelFiles(Box<dyn Checkpoint>);

impl std::fmt::Debug for ModelFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelFiles").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// What a model's files say about text: what goes into a prompt and what ends an answer.
#[derive(Debug)]
pub struct ModelText {
    /// The tokenizer, if the model came with one.
    pub tokenizer: Option<Tokenizer>,
    /// The source of the chat template, if there is one that can be used.
    pub template: Option<String>,
    /// The sources of the chat templates beside the default one that can be read, by name.
    pub named_templates: BTreeMap<String, String>,
    /// Tokens that end a text, ascending, each once.
    pub end_tokens: Vec<u32>,
}

impl ModelFiles {
    /// Opens a GGUF, safetensors or ONNX file, or a Hugging Face folder, and checks its header.
    ///
    /// # Errors
    /// As loading the model, except for what is wrong with the weights.
    pub fn open(source: ModelSource<'_>, options: &LoadOptions) -> Result<Self> {
        let files = Self(open(source, options)?);
        files.config().validate(files.name())?;
        Ok(files)
    }

    /// The file or folder, as messages name it.
    pub fn name(&self) -> &str {
        self.0.file()
    }

    /// Shapes and constants.
    pub fn config(&self) -> &ModelConfig {
        self.0.config()
    }

    /// The container.
    pub fn container(&self) -> Container<'_> {
        self.0.container()
    }

    /// The facts about the model, and what the rules settled.
    ///
    /// # Errors
    /// As loading the model, except for what is wrong with the weights.
    pub fn facts(&self, options: &LoadOptions) -> Result<ModelFacts> {
        Ok(self.0.describe(options)?.facts)
    }

    /// The tokenizer, if the model came with one.
    ///
    /// # Errors
    /// Those of [`ModelFiles::facts`].
    pub fn tokenizer(&self, options: &LoadOptions) -> Result<Option<Tokenizer>> {
        Ok(self.0.describe(options)?.tokenizer)
    }

    /// How states become embeddings of texts, if the files say it.
    ///
    /// # Errors
    /// [`InferenceError::Config`] naming a pooling that is not supported, and those of [`ModelFiles::facts`].
    pub fn pooling(&self, options: &LoadOptions) -> Result<Option<Pooling>> {
        Ok(self.0.describe(options)?.embedding?.pooling)
    }

    /// The tokenizer, the chat template and the end tokens.
    ///
    /// # Errors
    /// Those of [`ModelFiles::facts`].
    pub fn text(&self, options: &LoadOptions) -> Result<ModelText> {
        let Description { tokenizer, template, named_templates, mut end_tokens, .. } =
            self.0.describe(options)?;
        end_tokens.sort_unstable();
        end_tokens.dedup();
        let template = template.and_then(|template| Some(template.ok()?.source().to_owned()));
        Ok(ModelText { tokenizer, template, named_templates, end_tokens })
    }

    /// A vector of `len` numbers, if it is there.
    ///
    /// # Errors
    /// [`InferenceError::TensorShape`] for another length, [`InferenceError::Config`] for a number that is not finite.
    pub fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        self.0.vector(name, len)
    }

    /// A linear layer's weight as it is stored, `[rows, cols]`, if it is there; trits are in `pool`.
    ///
    /// # Errors
    /// [`InferenceError::TensorShape`], [`InferenceError::Weights`] for damaged trits, and those of memory.
    pub fn linear(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Option<StoredLinear>> {
        self.0.stored(name, rows, cols, pool)
    }

    /// An embedding table or a head, `[rows, cols]`, if it is there; trits are decoded, in `pool`.
    ///
    /// # Errors
    /// Those of [`ModelFiles::linear`].
    pub fn dense(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Option<Arc<dyn DenseRows>>> {
        self.0.dense(name, rows, cols, pool)
    }

    /// The bytes of a weight as they lie in the file, if it is there.
    ///
    /// # Errors
    /// [`InferenceError::Format`] where the file has shrunk.
    pub fn stored_bytes(&self, name: &str) -> Result<Option<StoredBytes>> {
        self.0.stored_bytes(name)
    }

    /// Whether the head is the embedding table; `None` if the file does not declare it.
    pub fn tied(&self) -> Option<bool> {
        self.0.tied()
    }

    /// Names of the stored tensors that are read for a weight: its own, and those of scales beside it.
    pub fn stored_names(&self, name: &str) -> Vec<String> {
        self.0.stored_names(name)
    }

    /// Whether the settings keep a layer out of quantisation (`modules_to_not_convert`): its weights and inputs stay as
    /// they are.
    pub fn is_kept_dense(&self, name: &str) -> bool {
        self.0.is_kept_dense(name)
    }

    /// Epsilon of the norms before single projections.
    pub fn input_norm_eps(&self) -> f32 {
        self.0.input_norm_eps()
    }

    /// The files that weights come from.
    pub fn files(&self) -> Vec<Arc<MappedFile>> {
        self.0.files()
    }

    /// Checks every number of every tensor, also of those that are not read, on `threads` threads; `on_done` receives
    /// (pieces done, pieces in all).
    ///
    /// # Errors
    /// Those of [`ModelFiles::check`] and of memory. A tensor that can't be decoded is a fault, not an error.
    pub fn scan_weights(
        &self,
        threads: usize,
        on_done: &mut dyn FnMut(usize, usize),
    ) -> Result<WeightScan> {
        weight_scan::scan(&*self.0, threads, on_done)
    }

    /// What loading makes of linear layers that are stored as plain numbers: that they are ternary already, or that
    /// they are quantised. The same words are among [`ModelFacts::assumptions`] of the loaded model.
    ///
    /// # Errors
    /// Those of [`ModelFiles::check`] and of memory.
    pub fn weight_assumptions(&self, threads: usize) -> Result<Vec<String>> {
        weight_scan::assumptions(&*self.0, threads)
    }

    /// Returns an error if a file has changed since it was mapped.
    ///
    /// # Errors
    /// Those of [`MappedFile::check`].
    pub fn check(&self) -> Result<()> {
        self.0.check()
    }

    /// The error for a tensor that the model should have.
    pub fn missing(&self, tensor: &str) -> InferenceError {
        self.0.missing(tensor)
    }
}

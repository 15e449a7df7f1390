//! From files to a model: what the file says, what the rules settle, and what had to be assumed.

mod build;
mod class_defaults;
mod gguf;
mod gguf_config;
mod gguf_rope;
mod hf_attention;
mod hf_config;
mod hf_facts;
mod hf_rope;
mod hf_weights;
mod huggingface;
mod inspect;
mod json_object;
mod mapped_rows;
mod model_files;
mod python_json;
mod quantization;
mod side_files;
mod tensor_use;
mod ternary_rows;
mod text;
mod weight_scan;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bitnet_core::backend::{ActivationPrecision, Backend};
use bitnet_core::dense::DenseRows;
use bitnet_core::kv::KvType;
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_core::ternary::TernaryMatrix;
use bitnet_cpu::CpuOptions;
use bitnet_formats::gguf::{GgmlType, GgufFile};
use bitnet_formats::safetensors::Dtype;
use bitnet_formats::{MappedFile, Region};
use bitnet_quant::calibration::Calibration;
use bitnet_quant::codec::i2_s::I2sLayout;

use crate::chat::{ChatTemplate, TemplateChoice, TemplateError};
use crate::models::{HeadMode, ModelConfig};
use crate::tokenizer::Tokenizer;
use crate::{InferenceError, Result};

pub use crate::in_parallel::in_parallel;
pub use crate::weight_cache::{Notice, PreparedCache};
pub(crate) use build::build;
pub(crate) use gguf::GgufCheckpoint;
pub use gguf::{
    INPUT_NORM_EPSILON, ggml_type_of, input_precision as gguf_input_precision, storage_of,
};
#[cfg(test)]
pub(crate) use hf_config::HfConfig;
pub(crate) use huggingface::HfCheckpoint;
pub use inspect::{Inspection, TensorSummary};
pub use model_files::{Container, HfPacking, ModelFiles, ModelText};
pub use python_json::parse as parse_python_json;
pub use ternary_rows::TernaryRows;
pub use text::tokenizer_of;
pub use weight_scan::{
    FaultPlace, LARGEST_TO_MEDIAN, LARGEST_WEIGHT, WeightFault, WeightProblem, WeightScan,
};
use weight_scan::{RawNumbers, RawTensor};

/// Choices that a file may leave open.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Byte layout of I2_S tensors; the canonical one unless told.
    pub i2s_layout: I2sLayout,
    /// Treatment of the inputs of ternary layers, where the rules should be overruled.
    pub activations: Option<ActivationPrecision>,
    /// Ranges within which the inputs of ternary layers are quantised, instead of by each token's largest magnitude.
    pub calibration: Option<Calibration>,
    /// A chat template that replaces the model's own.
    pub chat_template: Option<TemplateChoice>,
    /// How sessions store keys and values; half precision unless told.
    pub kv: KvType,
    /// How the head is read where only the largest logits are wanted.
    pub head: HeadMode,
    /// The pool for weights, activations and caches; that of the back end unless given, or a new one.
    pub pool: Option<HybridMemoryPool>,
    /// Where prepared weights and heads are kept for the next start; nowhere unless given.
    pub cache: Option<PreparedCache>,
}

/// A linear layer's weight as a checkpoint stores it.
#[derive(Debug)]
pub struct StoredLinear {
    /// The tensor's name in the file.
    pub tensor: String,
    /// Its numbers, `[rows, cols]`.
    pub weight: StoredWeight,
    /// How the inputs of a ternary layer are treated here.
    pub precision: ActivationPrecision,
}

/// Numbers of a linear layer.
#[derive(Debug)]
pub enum StoredWeight {
    /// Trits with their scales.
    Ternary(TernaryMatrix),
    /// Ordinary numbers.
    Dense {
        /// The numbers.
        rows: Arc<dyn DenseRows>,
        /// Whether they are the full-precision masters of ternary weights, to be quantised by absmean.
        latent: bool,
        /// A factor on all of them that the file stores beside them.
        scale: Option<f32>,
    },
}

/// A weight's bytes as they lie in a file.
#[derive(Debug, Clone)]
pub struct StoredBytes {
    /// The tensor's name in the file.
    pub tensor: String,
    /// Their type.
    pub storage: StoredType,
    /// The bytes.
    pub region: Region,
}

/// A container's word for how numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    /// A type of GGUF files.
    Ggml(GgmlType),
    /// A type of safetensors files.
    Safetensors(Dtype),
}

impl StoredType {
    /// The container's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ggml(ggml_type) => ggml_type.name(),
            Self::Safetensors(dtype) => dtype.name(),
        }
    }

    /// Whether tensors of the type hold plain numbers instead of trits.
    pub fn is_plain(self) -> bool {
        match self {
            Self::Ggml(ggml_type) => !ggml_type.is_ternary(),
            Self::Safetensors(dtype) => matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16),
        }
    }
}

/// A linear layer's weight, decoded.
pub(crate) enum DecodedLinear {
    Ternary(TernaryMatrix, ActivationPrecision),
    Dense(Arc<dyn DenseRows>),
}

/// A matrix with what had to be assumed about it.
pub(crate) struct Decoded {
    pub(crate) linear: DecodedLinear,
    pub(crate) assumption: Option<String>,
}

/// A checkpoint of any container. Names are GGUF's without `.weight`: `token_embd`, `blk.0.attn_q`.
/// Several threads decode tensors of one checkpoint.
pub(crate) trait Checkpoint: Sync {
    /// The file, as messages name it.
    fn file(&self) -> &str;

    /// The file's own name of a tensor; where it is absent, the name that such a file would give it.
    fn name_in_file(&self, name: &str) -> String;

    /// The error for a tensor that the model should have.
    fn missing(&self, name: &str) -> InferenceError {
        InferenceError::MissingTensor { file: self.file().into(), tensor: self.name_in_file(name) }
    }

    /// Names of all tensors of the files, in file order.
    fn tensor_names(&self) -> Vec<String>;

    /// Names of what is read for a tensor: its own, and those of the scales beside it; none if it is absent.
    fn stored_names(&self, name: &str) -> Vec<String>;

    /// Every tensor of the files as it is stored, in file order.
    fn raw_tensors(&self) -> Result<Vec<RawTensor>>;

    /// The trits of the [`RawNumbers::Ternary`] tensor of that name in the file, without a scale that stands beside it.
    fn decode_raw(&self, name: &str, pool: &HybridMemoryPool) -> Result<TernaryMatrix>;

    /// The setting that says how many layers there are, as the file spells it.
    fn layers_field(&self) -> String;

    /// Shapes and constants.
    fn config(&self) -> &ModelConfig;

    /// A vector of `len` numbers, if it is there.
    fn vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>>;

    /// A linear layer's weight as it is stored, `[rows, cols]`, if it is there; trits are in `pool`.
    fn stored(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Option<StoredLinear>>;

    /// A linear layer's weight for the engine, `[rows, cols]`, if it is there; what is decoded is in `pool`.
    fn linear(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Option<Decoded>> {
        self.stored(name, rows, cols, pool)?
            .map(|stored| ternary_rows::decoded(self.file(), stored, pool))
            .transpose()
    }

    /// A matrix that stays as it is stored, `[rows, cols]`, if it is there; trits are decoded, in `pool`.
    fn dense(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Option<Arc<dyn DenseRows>>>;

    /// The bytes of a weight as they lie in the file, if it is there.
    fn stored_bytes(&self, name: &str) -> Result<Option<StoredBytes>>;

    /// Epsilon of the norms before single projections.
    fn input_norm_eps(&self) -> f32;

    /// Whether the head is the embedding table: yes, no, or not said.
    fn tied(&self) -> Option<bool>;

    /// Whether the settings keep a layer out of quantisation: its weights and inputs stay as they are.
    fn is_kept_dense(&self, _name: &str) -> bool {
        false
    }

    /// The files that weights come from.
    fn files(&self) -> Vec<Arc<MappedFile>>;

    /// Everything beside the files that decoded weights depend on, as text.
    fn cache_key(&self) -> String;

    /// That the files are still what was mapped.
    fn check(&self) -> Result<()>;
}

/// What a checkpoint says beside its weights.
pub(crate) struct Description {
    pub(crate) facts: ModelFacts,
    pub(crate) tokenizer: Option<Tokenizer>,
    /// The chat template, or why it can't be used.
    pub(crate) template: Option<Result<ChatTemplate, TemplateError>>,
    /// The sources of the other templates that can be read, by name.
    pub(crate) named_templates: BTreeMap<String, String>,
    pub(crate) end_tokens: Vec<u32>,
    pub(crate) defaults: SuggestedSampling,
}

/// The facts about a model that go wrong silently when they are guessed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelFacts {
    /// The file or folder.
    pub file: String,
    /// `GGUF v3`, `safetensors`.
    pub container: String,
    /// The model's name, where the file gives one.
    pub name: Option<String>,
    /// The architecture, in the file's own word.
    pub architecture: String,
    /// The activation function of the feed-forward gate, and where it comes from.
    pub activation: String,
    /// How ternary weights are stored and in which direction their scale works.
    pub weights: String,
    /// How the inputs of ternary layers are treated.
    pub inputs: String,
    /// Which RoPE components are paired, and why.
    pub rope: String,
    /// Where the head comes from.
    pub head: String,
    /// Where the tokenizer comes from.
    pub tokenizer: String,
    /// Where the chat template comes from, and why it can't be used if so.
    pub template: String,
    /// Rows of the embedding that no token of the tokenizer uses; they decode to no text.
    pub rows_beyond_tokenizer: usize,
    /// What the file does not say and the rules settled.
    pub assumptions: Vec<String>,
    /// Names of the file's tensors that nothing reads, in file order.
    pub unused_tensors: Vec<String>,
}

/// Sampling values that the model's authors suggest.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SuggestedSampling {
    /// Temperature.
    pub temperature: Option<f32>,
    /// Top-k.
    pub top_k: Option<usize>,
    /// Top-p.
    pub top_p: Option<f32>,
}

/// An open checkpoint: the headers have been read, and both tables of a tied folder that stores a head too (they are
/// compared).
pub(crate) enum OpenModel {
    Gguf(Box<GgufCheckpoint>),
    Hf(Box<HfCheckpoint>),
}

impl OpenModel {
    pub(crate) fn open(path: &Path, options: &LoadOptions) -> Result<Self> {
        if path.is_dir() || path.extension().is_some_and(|e| e == "safetensors" || e == "json") {
            return Ok(Self::Hf(Box::new(HfCheckpoint::open(path, options)?)));
        }
        Ok(Self::Gguf(Box::new(GgufCheckpoint::new(GgufFile::open(path)?, options)?)))
    }

    pub(crate) fn from_static(
        bytes: &'static [u8],
        name: &str,
        options: &LoadOptions,
    ) -> Result<Self> {
        Ok(Self::Gguf(Box::new(GgufCheckpoint::new(GgufFile::from_static(bytes, name)?, options)?)))
    }

    pub(crate) fn checkpoint(&self) -> &dyn Checkpoint {
        match self {
            Self::Gguf(checkpoint) => &**checkpoint,
            Self::Hf(checkpoint) => &**checkpoint,
        }
    }

    pub(crate) fn describe(&self, options: &LoadOptions) -> Result<Description> {
        match self {
            Self::Gguf(checkpoint) => checkpoint.describe(options),
            Self::Hf(checkpoint) => checkpoint.describe(options),
        }
    }
}

/// The back end of a name, with a pool of its own.
///
/// # Errors
/// [`crate::InferenceError::UnsupportedOperation`] for a name that is not known; those of the back end.
pub fn backend_by_name(name: &str, options: CpuOptions) -> Result<Arc<dyn Backend>> {
    backend_in_pool(name, options, &HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?)
}

/// The back end of a name, with all that it holds in `pool`.
///
/// # Errors
/// As [`backend_by_name`].
pub fn backend_in_pool(
    name: &str,
    options: CpuOptions,
    pool: &HybridMemoryPool,
) -> Result<Arc<dyn Backend>> {
    match name {
        "cpu" => Ok(Arc::new(bitnet_cpu::CpuBackend::in_pool(options, pool)?)),
        "reference" => Ok(Arc::new(bitnet_core::reference::ReferenceBackend)),
        other => Err(InferenceError::UnsupportedOperation {
            what: format!("the back end {other:?}"),
            instead: "the back ends are cpu and reference".into(),
        }),
    }
}

//! A checkpoint of any container, as loaders and converters read it.

use std::path::Path;
use std::sync::Arc;

use bitnet_core::backend::ActivationPrecision;
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::TernaryMatrix;
use bitnet_formats::gguf::GgmlType;
use bitnet_formats::onnx::DataType;
use bitnet_formats::safetensors::Dtype;
use bitnet_formats::{GgufFile, MappedFile, OnnxModel, Region, SafeTensors};
use bitnet_quant::codec::dense::DenseType;
use bitnet_quant::codec::matmul_nbits;
use serde_json::Value;

use super::{Description, LoadOptions, NormForm};
use crate::models::ModelConfig;
use crate::{InferenceError, Result};

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
    /// Trits with their scales, and weights of +2 where the type holds them.
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
    /// The tensor's shape in the file, the slowest dimension first.
    pub shape: Vec<usize>,
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
    /// A type of ONNX files; of codes with the weights that share a scale.
    Onnx(DataType, Option<usize>),
}

impl StoredType {
    /// The container's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ggml(ggml_type) => ggml_type.name(),
            Self::Safetensors(dtype) => dtype.name(),
            Self::Onnx(_, Some(_)) => matmul_nbits::FORMAT,
            Self::Onnx(data_type, None) => data_type.name(),
        }
    }

    /// Whether tensors of the type hold plain numbers instead of trits.
    pub fn is_plain(self) -> bool {
        match self {
            Self::Ggml(ggml_type) => !ggml_type.is_ternary(),
            Self::Safetensors(dtype) => matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16),
            Self::Onnx(_, block) => block.is_none(),
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

/// A tensor of a checkpoint as it is stored, by its own name and shape, whether the engine reads it or not.
pub(crate) struct RawTensor {
    /// The name in the file.
    pub(crate) name: String,
    /// Its numbers.
    pub(crate) numbers: RawNumbers,
}

/// The numbers of a [`RawTensor`].
pub(crate) enum RawNumbers {
    /// Floats or blocks of codes with scales.
    Dense { dtype: DenseType, rows: usize, cols: usize, region: Region },
    /// Trits, decoded on request.
    Ternary,
    /// Integers and codes, which are numbers whatever their bits are, and types that the engine does not read.
    Other,
}

/// What a model's files are.
#[derive(Debug)]
pub enum Container<'a> {
    /// One GGUF file, or the parts of a split one.
    Gguf(&'a GgufFile),
    /// A Hugging Face folder.
    HuggingFace {
        /// The folder.
        folder: &'a Path,
        /// Its tensors.
        tensors: &'a SafeTensors,
        /// Its `config.json`, which has been checked.
        config: &'a Value,
        /// The model's class, the first of `architectures`.
        class: &'a str,
        /// How it holds norms.
        norms: NormForm,
        /// How its ternary layers are stored.
        packing: Option<HfPacking>,
    },
    /// An ONNX file with the settings of a Hugging Face folder.
    Onnx {
        /// The folder of the settings.
        folder: &'a Path,
        /// Its initializers and nodes.
        model: &'a OnnxModel,
        /// The `config.json`, which has been checked.
        config: &'a Value,
        /// The model's class, the first of `architectures`.
        class: &'a str,
    },
}

/// The `quantization_config` of a Hugging Face folder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HfPacking {
    /// Whether `weight_scale` multiplies (`autobitlinear`) or divides (`bitlinear`).
    pub multiply: bool,
    /// Whether the numbers are full-precision masters (`quantization_mode` is `online`).
    pub online: bool,
    /// Epsilon of the norms before single ternary layers, where the model has them.
    pub input_norm_eps: Option<f32>,
}

/// A checkpoint of any container. Names are GGUF's without `.weight`: `token_embd`, `blk.0.attn_q`.
/// Several threads decode tensors of one checkpoint.
pub(crate) trait Checkpoint: Send + Sync {
    /// The file, as messages name it.
    fn file(&self) -> &str;

    /// The container, as converters see it.
    fn container(&self) -> Container<'_>;

    /// The facts beside the weights.
    fn describe(&self, options: &LoadOptions) -> Result<Description>;

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

    /// The file's name for the number of layers.
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

    /// The weight of one expert, `[rows, cols]`, of a projection that every expert has, if it is there.
    fn stored_expert(
        &self,
        name: &str,
        expert: usize,
        shape: [usize; 2],
        pool: &HybridMemoryPool,
    ) -> Result<Option<StoredLinear>>;

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

    /// Whether the head is the embedding table; `None` if the file does not declare it.
    fn tied(&self) -> Option<bool>;

    /// Whether the settings keep a layer out of quantisation: its weights and inputs stay as they are.
    fn is_kept_dense(&self, _name: &str) -> bool {
        false
    }

    /// The files that weights come from.
    fn files(&self) -> Vec<Arc<MappedFile>>;

    /// Everything beside the files that decoded weights depend on, as text.
    fn cache_key(&self) -> String;

    /// Returns an error if a file has changed since it was mapped.
    fn check(&self) -> Result<()>;
}

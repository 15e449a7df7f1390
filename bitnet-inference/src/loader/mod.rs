//! From files to a model: what the file declares, what the rules settle, and what had to be assumed.

mod block_rows;
mod build;
mod checkpoint;
mod class_defaults;
mod embedding;
mod facts;
mod gguf;
mod gguf_config;
mod gguf_mixture;
mod gguf_recurrent;
mod gguf_rope;
mod gguf_rotation;
mod hf_attention;
mod hf_config;
mod hf_drafts;
mod hf_facts;
mod hf_mixture;
mod hf_numbers;
mod hf_recurrent;
mod hf_rope;
mod hf_rotation;
mod hf_weights;
mod hf_windows;
mod huggingface;
mod inspect;
mod json_object;
mod mapped_rows;
mod memory_need;
mod model_files;
mod onnx;
mod python_json;
mod quantization;
mod side_files;
mod tensor_use;
mod ternary_rows;
mod text;
mod tied_head;
mod weight_scan;

use std::path::PathBuf;

use bitnet_core::backend::ActivationPrecision;
use bitnet_core::kv::KvType;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_quant::calibration::Calibration;
use bitnet_quant::codec::i2_s::I2sLayout;

use crate::chat::TemplateChoice;
use crate::models::HeadMode;

pub use crate::backends::{backend_by_name, backend_in_pool};
pub use crate::in_parallel::in_parallel;
pub use crate::weight_cache::{Notice, PreparedCache};
pub(crate) use build::build;
pub(crate) use checkpoint::{Checkpoint, Decoded, DecodedLinear, RawNumbers, RawTensor};
pub use checkpoint::{Container, HfPacking, StoredBytes, StoredLinear, StoredType, StoredWeight};
pub(crate) use embedding::SettingsFault;
pub use embedding::{EmbeddingSettings, gguf_pooling_type};
pub(crate) use facts::Description;
pub use facts::{ModelFacts, SuggestedSampling};
pub(crate) use gguf::GgufCheckpoint;
pub use gguf::{
    INPUT_NORM_EPSILON, ggml_type_of, input_precision as gguf_input_precision, storage_of,
};
#[cfg(test)]
pub(crate) use hf_config::HfConfig;
pub use hf_config::check_config;
pub use hf_numbers::{NormForm, from_hf_form, has_own_form, to_hf_form};
pub use hf_rotation::{ROTATED_BLOCKS, ROTATED_MODEL_TYPE, ROTATED_SCHEMAS};
pub(crate) use huggingface::HfCheckpoint;
pub use inspect::{Inspection, TensorSummary};
pub use memory_need::MemoryNeed;
pub use model_files::{ModelFiles, ModelText};
pub use onnx::settings_folder as onnx_settings_folder;
pub(crate) use onnx::{OnnxCheckpoint, in_folder as onnx_in_folder};
pub use python_json::parse as parse_python_json;
pub use ternary_rows::TernaryRows;
pub use text::tokenizer_of;
pub use weight_scan::{
    FaultPlace, LARGEST_TO_MEDIAN, LARGEST_WEIGHT, WeightFault, WeightProblem, WeightScan,
};

/// Choices that a file may leave open.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Byte layout of I2_S tensors; the canonical one by default.
    pub i2s_layout: I2sLayout,
    /// Treatment of the inputs of ternary layers, where the rules should be overruled.
    pub activations: Option<ActivationPrecision>,
    /// Ranges within which the inputs of ternary layers are quantised, instead of by each token's largest magnitude.
    pub calibration: Option<Calibration>,
    /// A chat template that replaces the model's own.
    pub chat_template: Option<TemplateChoice>,
    /// How sessions store keys and values; half precision by default.
    pub kv: KvType,
    /// How the head is read where only the largest logits are wanted.
    pub head: HeadMode,
    /// The pool for weights, activations and caches; by default that of the back end, or a new one.
    pub pool: Option<HybridMemoryPool>,
    /// Where prepared weights and heads are stored for the next start; nowhere by default.
    pub cache: Option<PreparedCache>,
    /// Where a layer that drafts tokens (multi-token prediction) comes from.
    pub draft: DraftSource,
}

/// Where a layer that drafts tokens comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DraftSource {
    /// None is read.
    #[default]
    None,
    /// The model's own file, if it has one.
    Own,
    /// A GGUF file with such a layer for the same model.
    File(PathBuf),
}

//! A checkpoint's facts beside its weights.

use std::collections::BTreeMap;

use bitnet_core::backend::{ActivationPrecision, RopeOrder};

use super::{EmbeddingSettings, SettingsFault};
use crate::Result;
use crate::chat::{ChatTemplate, TemplateError};
use crate::tokenizer::Tokenizer;

/// A checkpoint's facts beside its weights.
pub(crate) struct Description {
    pub(crate) facts: ModelFacts,
    pub(crate) tokenizer: Option<Tokenizer>,
    /// The chat template, or why it can't be used.
    pub(crate) template: Option<Result<ChatTemplate, TemplateError>>,
    /// The sources of the other templates that can be read, by name.
    pub(crate) named_templates: BTreeMap<String, String>,
    pub(crate) end_tokens: Vec<u32>,
    pub(crate) defaults: SuggestedSampling,
    /// What the files say about embeddings, or what of it is not supported.
    pub(crate) embedding: Result<EmbeddingSettings, SettingsFault>,
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
    /// How states become embeddings of texts, if the files say it, and where.
    pub pooling: Option<String>,
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

/// Describes how the inputs of ternary layers are treated: as requested, else the model's `own` way.
pub(super) fn inputs_fact(
    requested: Option<ActivationPrecision>,
    own: ActivationPrecision,
) -> String {
    match (requested, requested.unwrap_or(own)) {
        (_, ActivationPrecision::Int8Within(largest)) => {
            format!("int8 within {largest} (requested)")
        }
        (Some(_), ActivationPrecision::Int8) => "int8 per token (requested)".into(),
        (Some(_), ActivationPrecision::Float) => "f32, weight-only (requested)".into(),
        (None, ActivationPrecision::Int8) => "int8 per token".into(),
        (None, ActivationPrecision::Float) => "f32 (weight-only quantisation)".into(),
    }
}

/// Describes the pairs of components that RoPE rotates.
pub(super) fn rope_fact(order: RopeOrder) -> String {
    match order {
        RopeOrder::Halves => "components j and j + d/2 (rows of Q and K are not permuted)",
        RopeOrder::Interleaved => "components 2j and 2j + 1 (rows of Q and K are permuted)",
    }
    .into()
}

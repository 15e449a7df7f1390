//! Model classes of Hugging Face checkpoints, and the default of each setting that `config.json` may leave out.
//!
//! Source: transformers 5 (`LlamaConfig`, `Qwen3Config`, `BitNetConfig`) and the configuration that 1bitLLM published
//! with its models (`BitnetConfig`).

use serde_json::Value;

use super::json_object::Object;
use crate::models::Architecture;
use crate::{InferenceError, Result};

/// A model class with the defaults of its configuration class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ModelClass {
    /// The class, as `architectures` names it.
    pub(crate) name: &'static str,
    /// Its configuration class.
    pub(crate) config: &'static str,
    /// `model_type` in `config.json`.
    pub(crate) model_type: &'static str,
    pub(crate) architecture: Architecture,
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_hidden_layers: usize,
    pub(crate) num_attention_heads: usize,
    /// `None`: as many as `num_attention_heads`.
    pub(crate) num_key_value_heads: Option<usize>,
    /// `None`: `hidden_size / num_attention_heads`.
    pub(crate) head_dim: Option<usize>,
    pub(crate) hidden_act: &'static str,
    pub(crate) max_position_embeddings: usize,
    pub(crate) rms_norm_eps: f32,
    pub(crate) rope_theta: f32,
    pub(crate) eos_token_id: Option<u32>,
}

const LLAMA: ModelClass = ModelClass {
    name: "LlamaForCausalLM",
    config: "LlamaConfig",
    model_type: "llama",
    architecture: Architecture::Llama,
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: None,
    head_dim: None,
    hidden_act: "silu",
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000.0,
    eos_token_id: Some(2),
};

const CLASSES: [ModelClass; 4] = [
    LLAMA,
    ModelClass {
        name: "Qwen3ForCausalLM",
        config: "Qwen3Config",
        model_type: "qwen3",
        architecture: Architecture::Qwen3,
        vocab_size: 151_936,
        intermediate_size: 22_016,
        num_key_value_heads: Some(32),
        head_dim: Some(128),
        max_position_embeddings: 32_768,
        eos_token_id: None,
        ..LLAMA
    },
    ModelClass {
        name: "BitNetForCausalLM",
        config: "BitNetConfig",
        model_type: "bitnet",
        architecture: Architecture::BitNet,
        vocab_size: 128_256,
        hidden_size: 2560,
        intermediate_size: 6912,
        num_hidden_layers: 30,
        num_attention_heads: 20,
        num_key_value_heads: Some(5),
        hidden_act: "relu2",
        rms_norm_eps: 1e-5,
        rope_theta: 500_000.0,
        eos_token_id: Some(128_001),
        ..LLAMA
    },
    ModelClass {
        name: "BitnetForCausalLM",
        config: "BitnetConfig",
        architecture: Architecture::BitNet,
        ..LLAMA
    },
];

impl ModelClass {
    /// The class that `architectures` names, or that `model_type` stands for where there is no `architectures`; with
    /// what had to be assumed.
    pub(super) fn of(o: &Object<'_>, assumptions: &mut Vec<String>) -> Result<Self> {
        let model_type = o.opt_str("model_type")?;
        let by_type = CLASSES.iter().find(|class| Some(class.model_type) == model_type);
        let named = match o.get("architectures") {
            None => None,
            Some(Value::Array(names)) if names.is_empty() => None,
            Some(Value::Array(names)) if names[0].is_string() => names[0].as_str(),
            Some(_) => return Err(o.bad("architectures", "not a list of class names".into())),
        };
        let Some(named) = named else {
            let Some(class) = by_type else {
                let problem = "missing, and model_type names no class that is supported (llama, qwen3, bitnet)";
                return Err(o.bad("architectures", problem.into()));
            };
            assumptions.push(format!(
                "{} has no architectures: {}, by model_type {}",
                o.file, class.name, class.model_type
            ));
            return Ok(*class);
        };
        let Some(class) = CLASSES.iter().find(|class| class.name == named) else {
            let known: Vec<&str> = CLASSES.iter().map(|class| class.name).collect();
            return Err(InferenceError::UnsupportedOperation {
                what: format!("{}: the model class {}", o.file, named.escape_debug()),
                instead: format!("{} are", known.join(", ")),
            });
        };
        // 1bitLLM's files say `llama` beside a class of their own.
        let own_class = class.name == "BitnetForCausalLM";
        if let Some(other) = by_type.filter(|other| !own_class && other.name != class.name) {
            let problem = format!(
                "{} stands for {}, but architectures names {named}; correct one of them",
                other.model_type, other.name
            );
            return Err(o.bad("model_type", problem));
        }
        Ok(*class)
    }
}

/// Reads settings, each with the default of its class, and collects the defaults that were used.
pub(super) struct Settings<'a> {
    pub(super) object: &'a Object<'a>,
    pub(super) class: ModelClass,
    pub(super) assumptions: Vec<String>,
}

impl Settings<'_> {
    /// Notes that `field` is absent and what it is by default.
    pub(super) fn assume(&mut self, field: &str, value: impl std::fmt::Display) {
        let Self { object, class, .. } = self;
        let said =
            format!("{} has no {field}: {value}, the default of {}", object.file, class.config);
        self.assumptions.push(said);
    }

    pub(super) fn count(&mut self, field: &str, default: usize) -> Result<usize> {
        if let Some(value) = self.object.opt_usize(field)? {
            return Ok(value);
        }
        self.assume(field, default);
        Ok(default)
    }

    pub(super) fn number(&mut self, field: &str, default: f32) -> Result<f32> {
        if let Some(value) = self.object.opt_f32(field)? {
            return Ok(value);
        }
        self.assume(field, default);
        Ok(default)
    }

    /// Key and value heads: null stands for one to each query head, absence for the default of the class.
    pub(super) fn kv_heads(&mut self, heads: usize) -> Result<usize> {
        const FIELD: &str = "num_key_value_heads";
        if let Some(value) = self.object.opt_usize(FIELD)? {
            return Ok(value);
        }
        let is_null = self.object.value.get(FIELD).is_some();
        let default = self.class.num_key_value_heads.filter(|_| !is_null).unwrap_or(heads);
        if !is_null {
            self.assume(FIELD, default);
        }
        Ok(default)
    }

    /// Components of a head.
    pub(super) fn head_dim(&mut self, hidden: usize, heads: usize) -> Result<usize> {
        match (self.object.opt_usize("head_dim")?, self.class.head_dim) {
            (Some(dim), _) => Ok(dim),
            (None, Some(dim)) => {
                self.assume("head_dim", dim);
                Ok(dim)
            }
            // The rule of the class, not a guess: nothing to say.
            (None, None) if hidden.is_multiple_of(heads) => Ok(hidden / heads),
            (None, None) => {
                let problem = format!("{heads} does not divide the hidden_size {hidden}");
                Err(self.object.bad("num_attention_heads", problem))
            }
        }
    }
}

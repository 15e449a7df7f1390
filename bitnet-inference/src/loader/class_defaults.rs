//! The model class of a Hugging Face checkpoint, and the default of each setting that `config.json` may leave out.

use bitnet_formats::architecture::ModelClass;
use serde_json::Value;

use super::hf_rotation::ROTATED_MODEL_TYPE;
use super::json_object::Object;
use crate::{InferenceError, Result};

/// Returns the class that `architectures` names, or that `model_type` stands for where there is no `architectures`;
/// with what had to be assumed.
pub(super) fn class_of(
    o: &Object<'_>,
    assumptions: &mut Vec<String>,
) -> Result<&'static ModelClass> {
    let model_type = o.opt_str("model_type")?;
    let is_rotated = model_type == Some(ROTATED_MODEL_TYPE);
    if let Some(other) = model_type.filter(|name| !is_rotated && name.contains("hadamard")) {
        let what = format!("{}: model_type {}", o.file, other.escape_debug());
        let instead = format!(
            "weights that are stored rotated are read from folders of model_type {ROTATED_MODEL_TYPE}, and from GGUF files"
        );
        return Err(InferenceError::unsupported(what, instead));
    }
    let meant = if is_rotated { Some("qwen3_5") } else { model_type };
    let by_type = ModelClass::all().find(|class| Some(class.model_type) == meant);
    let named = match o.get("architectures") {
        None => None,
        Some(Value::Array(names)) if names.is_empty() => None,
        Some(Value::Array(names)) if names[0].is_string() => names[0].as_str(),
        Some(_) => return Err(o.bad("architectures", "not a list of class names".into())),
    };
    let Some(named) = named else {
        let Some(class) = by_type else {
            let problem = "missing, and model_type names no class that is supported (llama, qwen2, qwen3, qwen3_5, gemma3_text, minicpm, maple, bitnet)";
            return Err(o.bad("architectures", problem.into()));
        };
        if !is_rotated {
            assumptions.push(format!(
                "{} has no architectures: {}, by model_type {}",
                o.file, class.name, class.model_type
            ));
        }
        return Ok(class);
    };
    let Some(class) = ModelClass::named(named) else {
        let known: Vec<&str> = ModelClass::all().map(|class| class.name).collect();
        let what = format!("{}: the model class {}", o.file, named.escape_debug());
        return Err(InferenceError::unsupported(what, format!("{} are", known.join(", "))));
    };
    // 1bitLLM's files say `llama` beside a class of their own.
    let own_class = class.name == "BitnetForCausalLM";
    let same = |other: &&ModelClass| match is_rotated {
        true => other.architecture == class.architecture,
        false => own_class || other.model_type == class.model_type,
    };
    if let Some(other) = by_type.filter(|other| !same(other)) {
        let problem = format!(
            "{} stands for {}, but architectures names {named}; correct one of them",
            other.model_type, other.name
        );
        return Err(o.bad("model_type", problem));
    }
    Ok(class)
}

/// Reads settings, each with the default of its class, and collects the defaults that were used.
pub(super) struct Settings<'a> {
    pub(super) object: &'a Object<'a>,
    pub(super) class: &'static ModelClass,
    pub(super) assumptions: Vec<String>,
}

impl Settings<'_> {
    /// Notes that `field` is absent and what it is by default.
    pub(super) fn assume(&mut self, field: &str, value: impl std::fmt::Display) {
        let Self { object, class, .. } = self;
        let assumption =
            format!("{} has no {field}: {value}, the default of {}", object.file, class.config);
        self.assumptions.push(assumption);
    }

    /// The value of `field`, or else the default, which is noted.
    pub(super) fn or_default<T: Copy + std::fmt::Display>(
        &mut self,
        field: &str,
        value: Option<T>,
        default: T,
    ) -> T {
        value.unwrap_or_else(|| {
            self.assume(field, default);
            default
        })
    }

    pub(super) fn count(&mut self, field: &str, default: usize) -> Result<usize> {
        Ok(self.or_default(field, self.object.opt_usize(field)?, default))
    }

    pub(super) fn number(&mut self, field: &str, default: f32) -> Result<f32> {
        Ok(self.or_default(field, self.object.opt_f32(field)?, default))
    }

    /// Key and value heads: null stands for one to each query head, absence for the default of the class.
    pub(super) fn kv_heads(&mut self, heads: usize) -> Result<usize> {
        const FIELD: &str = "num_key_value_heads";
        match self.object.value.get(FIELD) {
            Some(Value::Null) => Ok(heads),
            _ => self.count(FIELD, self.class.num_key_value_heads.unwrap_or(heads)),
        }
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

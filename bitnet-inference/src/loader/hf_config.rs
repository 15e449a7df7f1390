//! `config.json` of a Hugging Face folder: typed fields, and errors that name them.

use std::path::Path;

use serde_json::Value;

use crate::models::{Architecture, ModelConfig, RopeScaling, bitnet, llama, qwen3};
use crate::{InferenceError, Result};

/// Largest JSON side file that is read.
const MAX_JSON: u64 = 64 << 20;

/// How the linear layers of a checkpoint are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Quantization {
    /// No `quantization_config`: ordinary numbers.
    None,
    /// `quant_method = "bitnet"`.
    BitNet {
        /// `y *= weight_scale` (autobitlinear) instead of `y /= weight_scale`.
        multiply: bool,
        /// `quantization_mode = "online"`: full-precision masters.
        online: bool,
        /// An RMS norm before every ternary layer, with its epsilon.
        input_norm_eps: Option<f32>,
    },
    /// MLX's affine quantisation with 2 bits; layers without scales beside them are ordinary numbers.
    Mlx {
        /// Weights that share a scale.
        group: usize,
    },
}

/// What `config.json` says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HfConfig {
    pub(crate) model: ModelConfig,
    pub(crate) class: String,
    pub(crate) quantization: Quantization,
    pub(crate) tied: Option<bool>,
    pub(crate) eos: Vec<u32>,
    pub(crate) assumptions: Vec<String>,
}

/// A JSON object with the file that it is from.
pub(crate) struct Object<'a> {
    pub(crate) file: &'a str,
    pub(crate) value: &'a Value,
}

impl Object<'_> {
    fn bad(&self, field: &str, problem: String) -> InferenceError {
        InferenceError::Config { file: self.file.into(), field: field.into(), problem }
    }

    fn get(&self, field: &str) -> Option<&Value> {
        self.value.get(field).filter(|v| !v.is_null())
    }

    pub(crate) fn opt_usize(&self, field: &str) -> Result<Option<usize>> {
        self.get(field)
            .map(|v| {
                v.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| {
                    self.bad(field, format!("{} is not a whole number of at least 0", short(v)))
                })
            })
            .transpose()
    }

    fn usize(&self, field: &str) -> Result<usize> {
        self.opt_usize(field)?
            .ok_or_else(|| self.bad(field, "missing; the file is incomplete".into()))
    }

    pub(crate) fn opt_f32(&self, field: &str) -> Result<Option<f32>> {
        self.get(field)
            .map(|v| {
                v.as_f64()
                    .map(|n| n as f32)
                    .filter(|n| n.is_finite())
                    .ok_or_else(|| self.bad(field, format!("{} is not a finite number", short(v))))
            })
            .transpose()
    }

    pub(crate) fn opt_bool(&self, field: &str) -> Result<Option<bool>> {
        self.get(field)
            .map(|v| {
                v.as_bool()
                    .ok_or_else(|| self.bad(field, format!("{} is not true or false", short(v))))
            })
            .transpose()
    }

    pub(crate) fn opt_str(&self, field: &str) -> Result<Option<&str>> {
        self.get(field)
            .map(|v| {
                v.as_str().ok_or_else(|| self.bad(field, format!("{} is not a string", short(v))))
            })
            .transpose()
    }

    /// One token id or a list of them.
    pub(crate) fn token_ids(&self, field: &str) -> Result<Vec<u32>> {
        let one = |v: &Value| {
            v.as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .ok_or_else(|| self.bad(field, format!("{} is not a token id", short(v))))
        };
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(one).collect(),
            Some(v) => Ok(vec![one(v)?]),
        }
    }
}

/// A value in a message: its first characters, control characters escaped.
fn short(value: &Value) -> String {
    let text: String = value.to_string().chars().take(40).collect();
    text.escape_debug().to_string()
}

/// Reads and parses a JSON file of at most 64 MiB.
///
/// # Errors
/// [`InferenceError::Io`], or [`InferenceError::Config`] if it is too large or not JSON.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let io = |source| InferenceError::Io { path: path.to_owned(), source };
    let bad = |problem: String| InferenceError::Config {
        file: path.display().to_string(),
        field: "the file".into(),
        problem,
    };
    let metadata = match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(bad("not found; a Hugging Face folder has it beside the weights".into()));
        }
        other => other.map_err(io)?,
    };
    if !metadata.is_file() {
        return Err(bad("not a regular file".into()));
    }
    if metadata.len() > MAX_JSON {
        return Err(bad(format!("{} bytes; at most {MAX_JSON} are read", metadata.len())));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    serde_json::from_slice(&bytes).map_err(|e| bad(format!("not valid JSON: {e}")))
}

impl HfConfig {
    pub(crate) fn parse(value: &Value, file: &str) -> Result<Self> {
        let o = Object { file, value };
        let mut assumptions = Vec::new();
        let class = o
            .get("architectures")
            .and_then(|v| v.get(0))
            .and_then(Value::as_str)
            .ok_or_else(|| o.bad("architectures", "missing; it must name the model class".into()))?
            .to_owned();
        let (architecture, default_act) = match class.as_str() {
            "BitNetForCausalLM" => (Architecture::BitNet, "relu2"),
            "BitnetForCausalLM" => (Architecture::BitNet, "silu"),
            "LlamaForCausalLM" => (Architecture::Llama, "silu"),
            "Qwen3ForCausalLM" => (Architecture::Qwen3, "silu"),
            _ => {
                return Err(InferenceError::UnsupportedOperation {
                    what: format!("{file}: the model class {}", class.escape_debug()),
                    instead: "BitNetForCausalLM, BitnetForCausalLM, LlamaForCausalLM and Qwen3ForCausalLM are".into(),
                });
            }
        };
        let act = match o.opt_str("hidden_act")? {
            Some(act) => act,
            None => {
                assumptions
                    .push(format!("{file} names no hidden_act: {default_act}, as {class} has it"));
                default_act
            }
        };
        let activation = bitnet::activation_by_name(act).map_err(|name| {
            o.bad("hidden_act", format!("{name:?} is not known; relu2, silu and gelu are"))
        })?;
        if o.opt_bool("attention_bias")? == Some(true) {
            return Err(o.bad("attention_bias", "true; biases are not supported".into()));
        }
        let (hidden, heads) = (o.usize("hidden_size")?, o.usize("num_attention_heads")?);
        if heads == 0 {
            return Err(o.bad("num_attention_heads", "0; a model has at least one head".into()));
        }
        let head_dim = match (o.opt_usize("head_dim")?, architecture) {
            (Some(dim), _) => dim,
            (None, Architecture::Qwen3) => 128,
            (None, _) => hidden / heads,
        };
        let (rope_theta, rope_scaling) = rope(&o, architecture)?;
        let model = ModelConfig {
            architecture,
            vocab_size: o.usize("vocab_size")?,
            hidden,
            layers: o.usize("num_hidden_layers")?,
            heads,
            kv_heads: o.opt_usize("num_key_value_heads")?.unwrap_or(heads),
            head_dim,
            intermediate: o.usize("intermediate_size")?,
            context: o.usize("max_position_embeddings")?,
            norm_eps: o.opt_f32("rms_norm_eps")?.unwrap_or(1e-5),
            activation,
            rope_theta,
            rope_order: match architecture {
                Architecture::BitNet => bitnet::ROPE_ORDER,
                Architecture::Llama => llama::HF_ROPE_ORDER,
                Architecture::Qwen3 => qwen3::ROPE_ORDER,
            },
            rope_scaling,
        };
        model.validate(file)?;
        let quantization = quantization(&o)?;
        Ok(Self {
            model,
            class,
            quantization,
            tied: o.opt_bool("tie_word_embeddings")?,
            eos: o.token_ids("eos_token_id")?,
            assumptions,
        })
    }
}

fn rope(o: &Object<'_>, architecture: Architecture) -> Result<(f32, RopeScaling)> {
    let default = match architecture {
        Architecture::BitNet if o.value.get("rope_theta").is_none() => 500_000.0,
        _ => 10_000.0,
    };
    // transformers 5 keeps everything in `rope_parameters`, earlier versions in two fields.
    let parameters = o.get("rope_parameters").or_else(|| o.get("rope_scaling"));
    let mut theta = o.opt_f32("rope_theta")?;
    let Some(parameters) = parameters else {
        return Ok((theta.unwrap_or(default), RopeScaling::None));
    };
    let p = Object { file: o.file, value: parameters };
    if !parameters.is_object() {
        return Err(o.bad("rope_scaling", "not an object".into()));
    }
    theta = p.opt_f32("rope_theta")?.or(theta);
    if p.opt_f32("partial_rotary_factor")?.is_some_and(|f| f != 1.0) {
        return Err(
            p.bad("partial_rotary_factor", "rotating a part of a head is not supported".into())
        );
    }
    let number = |field: &'static str| -> Result<f32> {
        p.opt_f32(field)?.ok_or_else(|| p.bad(field, "missing in the RoPE settings".into()))
    };
    let kind = p.opt_str("rope_type")?.or(p.opt_str("type")?).unwrap_or("default");
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear(number("factor")?),
        "llama3" => RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_context: number("original_max_position_embeddings")?,
        },
        other => {
            let problem = format!("{:?} is not supported; default, linear and llama3 are", other);
            return Err(p.bad("rope_type", problem));
        }
    };
    Ok((theta.unwrap_or(default), scaling))
}

fn quantization(o: &Object<'_>) -> Result<Quantization> {
    if let Some(value) = o.get("quantization") {
        return mlx(&Object { file: o.file, value });
    }
    let Some(value) = o.get("quantization_config") else { return Ok(Quantization::None) };
    let q = Object { file: o.file, value };
    match q.opt_str("quant_method")? {
        Some("bitnet") => {}
        other => {
            let problem = format!("{other:?} is not supported; bitnet is");
            return Err(q.bad("quantization_config.quant_method", problem));
        }
    }
    let online = match q.opt_str("quantization_mode")? {
        None | Some("offline") => false,
        Some("online") => true,
        Some(other) => {
            let problem = format!("{other:?} is neither offline nor online");
            return Err(q.bad("quantization_config.quantization_mode", problem));
        }
    };
    let multiply = match q.opt_str("linear_class")? {
        Some("autobitlinear") => true,
        None | Some("bitlinear") => false,
        Some(other) => {
            let problem = format!("{other:?} is neither bitlinear nor autobitlinear");
            return Err(q.bad("quantization_config.linear_class", problem));
        }
    };
    let input_norm_eps = match q.opt_bool("use_rms_norm")? {
        Some(true) => Some(q.opt_f32("rms_norm_eps")?.unwrap_or(1e-6)),
        _ => None,
    };
    Ok(Quantization::BitNet { multiply, online, input_norm_eps })
}

/// The settings of a folder that MLX's programs wrote.
fn mlx(o: &Object<'_>) -> Result<Quantization> {
    let bits = o.usize("bits")?;
    let mode = o.opt_str("mode")?.unwrap_or("affine");
    if bits != 2 || mode != "affine" {
        let problem =
            format!("{bits} bits, {mode}; ternary weights are read where they have 2 bits, affine");
        return Err(o.bad("quantization", problem));
    }
    match o.usize("group_size")? {
        group @ (64 | 128) => Ok(Quantization::Mlx { group }),
        other => Err(o.bad("quantization.group_size", format!("{other} is neither 64 nor 128"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn base() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 64,
            "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
            "intermediate_size": 128, "max_position_embeddings": 64, "vocab_size": 100, "rms_norm_eps": 1e-5
        })
    }

    fn with(field: &str, value: Value) -> Result<HfConfig> {
        let mut config = base();
        config[field] = value;
        HfConfig::parse(&config, "config.json")
    }

    #[test]
    fn the_scale_direction_follows_the_linear_class() {
        let class = |q: Value| with("quantization_config", q).map(|c| c.quantization);
        let multiply = |q| match class(q).unwrap() {
            Quantization::BitNet { multiply, .. } => multiply,
            Quantization::None | Quantization::Mlx { .. } => panic!("quantised"),
        };
        assert!(multiply(json!({"quant_method": "bitnet", "linear_class": "autobitlinear"})));
        assert!(!multiply(json!({"quant_method": "bitnet", "linear_class": "bitlinear"})));
        assert!(!multiply(json!({"quant_method": "bitnet"})), "a missing class divides");
        assert!(class(json!({"quant_method": "awq"})).is_err());
        assert_eq!(HfConfig::parse(&base(), "c").unwrap().quantization, Quantization::None);
    }

    #[test]
    fn hostile_configs_name_file_and_field() {
        for (field, value) in [
            ("hidden_size", json!(1u64 << 31)),
            ("hidden_size", json!("64")),
            ("num_hidden_layers", json!(-1)),
            ("num_hidden_layers", json!(1.5)),
            ("num_attention_heads", json!(0)),
            ("num_key_value_heads", json!(3)),
            ("rms_norm_eps", json!("x")),
            ("max_position_embeddings", json!(u64::MAX)),
            ("vocab_size", json!([])),
            ("architectures", json!("LlamaForCausalLM")),
            ("architectures", json!(["EvilForCausalLM"])),
            ("hidden_act", json!("mish")),
            ("rope_scaling", json!({"rope_type": "yarn"})),
            ("rope_scaling", json!("linear")),
            ("quantization_config", json!({"quant_method": 3})),
        ] {
            let message = with(field, value.clone()).unwrap_err().to_string();
            assert!(message.contains("config.json"), "{field} {value}: {message}");
        }
        assert!(
            with("auto_map", json!({"AutoModel": "evil.py"})).is_ok(),
            "remote code is never looked at"
        );
    }

    #[test]
    fn folders_of_mlx_say_their_groups() {
        let mlx = |settings: Value| {
            let mut config = base();
            config["quantization"] = settings.clone();
            // Its programs write the same under the other name, without a method.
            config["quantization_config"] = settings;
            HfConfig::parse(&config, "config.json").map(|config| config.quantization)
        };
        let read = mlx(json!({"bits": 2, "group_size": 64, "mode": "affine"})).unwrap();
        assert_eq!(read, Quantization::Mlx { group: 64 });
        assert_eq!(
            mlx(json!({"bits": 2, "group_size": 128})).unwrap(),
            Quantization::Mlx { group: 128 }
        );
        for wrong in [
            json!({"bits": 4, "group_size": 64}),
            json!({"bits": 2, "group_size": 32}),
            json!({"bits": 2, "group_size": 64, "mode": "mxfp4"}),
            json!({"group_size": 64}),
            json!(7),
        ] {
            assert!(mlx(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn both_spellings_of_rope_settings_are_read() {
        let old = with("rope_scaling", json!({"type": "linear", "factor": 2.0})).unwrap().model;
        assert_eq!(old.rope_scaling, RopeScaling::Linear(2.0));
        let new = with("rope_parameters", json!({"rope_type": "default", "rope_theta": 5e5}))
            .unwrap()
            .model;
        assert_eq!((new.rope_scaling, new.rope_theta), (RopeScaling::None, 5e5));
    }
}

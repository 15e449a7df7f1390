//! `config.json` of a Hugging Face folder: typed fields, and errors that name them.

use std::collections::BTreeSet;
use std::path::Path;

use bitnet_formats::architecture::ModelClass;
use bitnet_formats::names::TensorName;
use serde_json::Value;

use super::class_defaults::{Settings, class_of};
use super::hf_attention::windows;
use super::hf_mixture::{local_attention, mixture};
use super::hf_recurrent::recurrent_config;
use super::hf_rope::rope;
use super::hf_rotation::{PackedModule, ROTATED_MODEL_TYPE, check_interval, packed_modules};
use super::hf_windows::{self, rope_of_full_layers};
use super::json_object::{Object, read_json};
use super::quantization::{Quantization, quantization, skipped_modules};
use super::tensor_use::linears;
use crate::Result;
use crate::known_fields;
use crate::models::{ModelConfig, StreamScales, activation_by_name, unknown_name};

/// The settings of `config.json`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HfConfig {
    pub(crate) model: ModelConfig,
    pub(crate) class: String,
    pub(crate) quantization: Quantization,
    /// The packed modules of a folder whose weights are stored rotated.
    pub(crate) packed: Option<Vec<PackedModule>>,
    /// Modules that are not quantised, by their names in the class.
    pub(crate) skipped: BTreeSet<String>,
    pub(crate) tied: Option<bool>,
    pub(crate) eos: Vec<u32>,
    /// The end token of the class, for a file that names none.
    pub(crate) default_eos: Option<u32>,
    pub(crate) assumptions: Vec<String>,
}

/// Checks the `config.json` at `path` as loading its folder does: class, sizes, quantisation and every field. So a model
/// that cannot be run is found before its weights are there.
///
/// # Errors
/// Those of loading a folder that are about this file.
pub fn check_config(path: &Path) -> Result<()> {
    HfConfig::parse(&read_json(path)?, &path.display().to_string()).map(drop)
}

impl HfConfig {
    pub(crate) fn parse(value: &Value, file: &str) -> Result<Self> {
        let whole = &Object { file, value };
        if !value.is_object() {
            return Err(whole.bad("the file", "not a JSON object".into()));
        }
        let mut assumptions = Vec::new();
        let class = class_of(whole, &mut assumptions)?;
        // A model that also sees has the settings of its text part in an object of their own.
        let text = value.get("text_config").filter(|text| text.is_object());
        let text = text.filter(|_| class.architecture.table().recurrent);
        let o = &Object { file, value: text.unwrap_or(value) };
        let mut settings = Settings { object: o, class, assumptions };
        let model = model(&mut settings)?;
        model.validate(file)?;
        let packed = packed_modules(whole)?;
        if let (Some(_), Some(recurrent)) = (&packed, &model.recurrent) {
            check_interval(o, recurrent)?;
        }
        let quantization = quantization(whole, &mut settings.assumptions)?;
        let skipped = match quantization {
            Quantization::BitNet { .. } => skipped_modules(whole, &modules(class, &model))?,
            Quantization::None | Quantization::Mlx { .. } => BTreeSet::new(),
        };
        settings.assumptions.extend(known_fields::config(class.name, value, file)?);
        if let Some(text) = text {
            settings.assumptions.extend(known_fields::config(class.name, text, file)?);
        }
        let names_eos = [o, whole].iter().any(|o| o.value.get("eos_token_id").is_some());
        let eos = match whole.token_ids("eos_token_id")? {
            none if none.is_empty() => o.token_ids("eos_token_id")?,
            own => own,
        };
        Ok(Self {
            model,
            class: class.name.into(),
            quantization,
            packed,
            skipped,
            tied: tied(whole, o)?,
            eos,
            default_eos: class.eos_token_id.filter(|_| !names_eos),
            assumptions: settings.assumptions,
        })
    }
}

/// Whether the head is the embedding table: what the whole model's settings say, or those of its text part. mlx-lm goes by
/// the latter alone.
fn tied(whole: &Object<'_>, text: &Object<'_>) -> Result<Option<bool>> {
    const FIELD: &str = "tie_word_embeddings";
    let (own, of_text) = (whole.opt_bool(FIELD)?, text.opt_bool(FIELD)?);
    let is_rotated = whole.opt_str("model_type")? == Some(ROTATED_MODEL_TYPE);
    match (own, of_text) {
        (Some(own), of_text) if is_rotated && own != of_text.unwrap_or(false) => {
            Err(whole.bad(FIELD, format!("{own}, but text_config says otherwise")))
        }
        (None, of_text) => Ok(of_text),
        (own, _) => Ok(own),
    }
}

/// The factors on embeddings, residual branches and logits, of families that have them.
fn stream_scales(
    settings: &mut Settings<'_>,
    hidden: usize,
    layers: usize,
) -> Result<Option<StreamScales>> {
    let table = settings.class.architecture.table();
    if table.root_scaled {
        return Ok(Some(StreamScales::root_of(hidden)));
    }
    if !table.scaled_stream {
        return Ok(None);
    }
    let depth = settings.number("scale_depth", 1.0)?;
    let base = settings.number("dim_model_base", 1.0)?;
    Ok(Some(StreamScales {
        embedding: settings.number("scale_emb", 1.0)?,
        residual: (f64::from(depth) / (layers as f64).sqrt()) as f32,
        logits: base / hidden as f32,
    }))
}

/// Shapes and constants.
fn model(settings: &mut Settings<'_>) -> Result<ModelConfig> {
    let (o, class) = (settings.object, settings.class);
    let table = class.architecture.table();
    let field = table.hf_activation;
    let act = settings.or_default(field, o.opt_str(field)?, class.hidden_act);
    let activation = activation_by_name(act).map_err(|name| o.bad(field, unknown_name(&name)))?;
    // Families with biases have no such field.
    let has_biases = !table.biased.is_empty();
    if o.opt_bool("attention_bias")? == Some(true) && !has_biases {
        return Err(o.bad("attention_bias", "true; biases are not supported".into()));
    }
    let hidden = settings.count("hidden_size", class.hidden_size)?;
    let heads = settings.count("num_attention_heads", class.num_attention_heads)?;
    if heads == 0 {
        return Err(o.bad("num_attention_heads", "0; a model has at least one head".into()));
    }
    let layers = settings.count("num_hidden_layers", class.num_hidden_layers)?;
    let context = settings.count("max_position_embeddings", class.max_position_embeddings)?;
    let head_dim = settings.head_dim(hidden, heads)?;
    let rope = match table.windowed {
        Some(_) => rope_of_full_layers(settings, context, head_dim)?,
        None => rope(settings, context, head_dim)?,
    };
    let recurrent = recurrent_config(settings, layers)?;
    let local = match (table.windowed, table.local_rope) {
        (Some(defaults), _) => hf_windows::windows(settings, defaults, layers)?,
        (None, true) => Some(local_attention(settings, layers)?),
        (None, false) => windows(settings, layers)?,
    };
    let mixture = mixture(settings, layers)?;
    let context_limit = rope.limit;
    if let Some(limit) = context_limit {
        settings.assumptions.push(limit.to_string());
    }
    Ok(ModelConfig {
        architecture: class.architecture,
        vocab_size: settings.count("vocab_size", class.vocab_size)?,
        hidden,
        layers,
        heads,
        kv_heads: settings.kv_heads(heads)?,
        head_dim,
        intermediate: match mixture {
            // The field `intermediate_size` of these classes has no reader.
            Some(_) => settings.count("moe_intermediate_size", class.intermediate_size)?,
            None => settings.count("intermediate_size", class.intermediate_size)?,
        },
        context,
        context_limit,
        norm_eps: settings.number("rms_norm_eps", class.rms_norm_eps)?,
        activation,
        rope_theta: rope.theta,
        rope_order: table.hf_rope_order,
        rope_scaling: rope.scaling,
        rope_dim: rope.dim,
        local,
        mixture,
        recurrent,
        rotations: None,
        draft_layers: 0,
        drafts_read: 0,
        scales: stream_scales(settings, hidden, layers)?,
        query_scalar: query_scalar(settings, head_dim)?,
        has_head: class.has_head,
    })
}

/// What scores of attention are divided by the root of, of families that say it; `None` where it is the size of a head.
fn query_scalar(settings: &mut Settings<'_>, head_dim: usize) -> Result<Option<f32>> {
    /// The default of `Gemma3TextConfig`.
    const DEFAULT: f32 = 256.0;
    if !settings.class.architecture.table().query_scalar {
        return Ok(None);
    }
    let scalar = settings.number("query_pre_attn_scalar", DEFAULT)?;
    Ok((scalar != head_dim as f32).then_some(scalar))
}

/// Names of the modules that quantisation is about.
fn modules(class: &ModelClass, config: &ModelConfig) -> Vec<String> {
    linears(config).filter_map(|tensor| module_of(tensor.name, class)).collect()
}

/// The module of a weight, by its name in the class.
pub(super) fn module_of(weight: TensorName, class: &ModelClass) -> Option<String> {
    Some(weight.to_hf(class)?.strip_suffix(".weight")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::RopeScaling;
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
            ("rope_scaling", json!({"rope_type": "longrope"})),
            ("rope_scaling", json!("linear")),
            ("quantization_config", json!({"quant_method": 3})),
        ] {
            let message = with(field, value.clone()).unwrap_err().to_string();
            assert!(message.contains("config.json"), "{field} {value}: {message}");
        }
        assert!(
            with("auto_map", json!({"AutoModel": "evil.py"})).is_ok(),
            "remote code is never read"
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

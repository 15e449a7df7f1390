//! The `config.json` of a model from a GGUF file, and of the text part of a model that also sees.

use bitnet_formats::architecture::ModelClass;
use bitnet_formats::gguf::Value;
use bitnet_inference::ModelFiles;
use bitnet_inference::loader::Container;
use bitnet_inference::models::{
    LayerKind, LimitReason, LongRopeScaling, ModelConfig, RecurrentConfig, RopeScaling,
    StreamScales, activation_name,
};
use serde_json::{Map, Value as Json, json};

use crate::special_ids::SpecialIds;
use crate::{Error, Result};

/// Returns the class of a folder that is written: the source's, or that of the text part alone.
pub(crate) fn written_class(files: &ModelFiles) -> Option<&'static ModelClass> {
    let text = files.config().architecture.table().classes.first();
    match files.container() {
        Container::HuggingFace { class, config, .. } if text_part(config).is_none() => {
            ModelClass::named(class)
        }
        Container::Onnx { class, .. } => ModelClass::named(class),
        _ => text,
    }
}

/// Returns the settings of the text part of a model that also sees; `None` if there is nothing else.
pub(crate) fn text_part(config: &Json) -> Option<&Map<String, Json>> {
    config.get("text_config")?.as_object()
}

/// Returns the `config.json` of the text part alone, for a `config` that has one.
pub(crate) fn text_alone(config: &Json, class: &ModelClass) -> Option<Json> {
    let mut text = text_part(config)?.clone();
    text.insert("architectures".into(), json!([class.name]));
    text.insert("model_type".into(), class.model_type.into());
    // The whole model's settings that its text part shares.
    let shared = ["tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"];
    let quantization = ["quantization", "quantization_config"];
    for field in shared.into_iter().chain(quantization) {
        if let Some(value) = config.get(field) {
            text.insert(field.into(), value.clone());
        }
    }
    Some(text.into())
}

/// Returns an f32 as JSON: whole numbers without a point.
fn number(value: f32) -> Json {
    match value as i64 {
        whole if whole as f32 == value => whole.into(),
        _ => shortest(value).into(),
    }
}

/// Returns an f32 with its shortest digits.
pub(crate) fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Returns the `config.json` of a model from a GGUF file.
///
/// # Errors
/// [`Error::Refused`] naming the key of the file that no field can say.
pub(crate) fn config_of(files: &ModelFiles) -> Result<Json> {
    let c = files.config();
    let class = c.architecture.table().classes.first();
    let (class, model_type) = class.map_or(("", ""), |class| (class.name, class.model_type));
    let mut config = json!({
        "architectures": [class],
        "model_type": model_type,
        "hidden_act": activation_name(c.activation),
        "hidden_size": c.hidden,
        "intermediate_size": c.intermediate,
        "max_position_embeddings": c.context,
        "num_attention_heads": c.heads,
        "num_hidden_layers": c.layers,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "rms_norm_eps": shortest(c.norm_eps),
        "rope_theta": shortest(c.rope_theta),
        "tie_word_embeddings": true,
        "vocab_size": c.vocab_size,
        "torch_dtype": "float32",
        "attention_bias": false,
    });
    if let Ok(Some(_)) = files.stored_bytes("output") {
        config["tie_word_embeddings"] = false.into();
    }
    let table = c.architecture.table();
    if let Some(limit) = c.context_limit.filter(|_| table.sliding_window) {
        config["use_sliding_window"] = true.into();
        config["sliding_window"] = limit.positions.into();
        config["max_window_layers"] = 0.into();
    }
    rope(files, &mut config)?;
    if table.windowed.is_some() {
        windowed_fields(c, &mut config);
    }
    if let Some(scales) = c.scales.as_ref().filter(|_| table.scaled_stream) {
        let (depth, base) = stream_factors(c, scales)?;
        config["scale_emb"] = number(scales.embedding);
        config["scale_depth"] = number(depth);
        config["dim_model_base"] = number(base);
    }
    if let Some(recurrent) = &c.recurrent {
        recurrent_fields(recurrent, &mut config);
    }
    if c.drafts_read > 0 {
        config["mtp_num_hidden_layers"] = c.drafts_read.into();
        config["mtp_use_dedicated_embeddings"] = false.into();
    }
    if let Container::Gguf(file) = files.container() {
        let ids = SpecialIds::of_gguf(file.metadata(), c.vocab_size);
        for (kind, _, id) in ids.iter().filter(|(kind, ..)| !["eot", "eom"].contains(kind)) {
            if let Some(id) = id {
                config[format!("{kind}_token_id")] = id.into();
            }
        }
    }
    Ok(config)
}

/// Turns the fields of a family in which windows are the rule into its own: the kinds of layers, and a RoPE of each kind.
fn windowed_fields(c: &ModelConfig, config: &mut Json) {
    let Some(fields) = config.as_object_mut() else { return };
    let table = c.architecture.table();
    if let Some(activation) = fields.remove("hidden_act") {
        fields.insert(table.hf_activation.into(), activation);
    }
    let scalar = c.query_scalar.unwrap_or(c.head_dim as f32);
    fields.insert("query_pre_attn_scalar".into(), number(scalar));
    let kind = |layer| if c.window_of(layer).is_some() { SLIDING } else { FULL };
    fields.insert("layer_types".into(), (0..c.layers).map(kind).collect());
    let mut full = fields.remove("rope_scaling").unwrap_or_else(|| json!({"rope_type": "default"}));
    full["rope_theta"] = fields.remove("rope_theta").unwrap_or_default();
    let mut parameters = json!({FULL: full});
    if let Some(local) = &c.local {
        fields.insert("sliding_window".into(), local.positions.into());
        let theta = local.rope_theta.unwrap_or(c.rope_theta);
        parameters[SLIDING] = json!({"rope_type": "default", "rope_theta": shortest(theta)});
    }
    fields.insert("rope_parameters".into(), parameters);
}

/// Kinds of layers in `layer_types` and `rope_parameters`.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// Writes the settings of RoPE.
fn rope(files: &ModelFiles, config: &mut Json) -> Result<()> {
    let c = files.config();
    let mut rope = match &c.rope_scaling {
        RopeScaling::Linear(factor) => json!({"rope_type": "linear", "factor": shortest(*factor)}),
        RopeScaling::Yarn(yarn) => json!({
            "rope_type": "yarn",
            "factor": shortest(yarn.factor),
            "original_max_position_embeddings": yarn.original_context as u64,
            "beta_fast": shortest(yarn.beta_fast),
            "beta_slow": shortest(yarn.beta_slow),
            "attention_factor": shortest(yarn.attention_factor),
        }),
        RopeScaling::LongRope(long) => long_rope(c, long)?,
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Factors(_) => Json::Null,
    };
    if c.recurrent.is_none() {
        if !rope.is_null() {
            config["rope_scaling"] = rope;
        }
        return Ok(());
    }
    if rope.is_null() {
        rope = json!({"rope_type": "default"});
    }
    // Where parts of heads are rotated, everything is in one object.
    let part = c.rope_dim as f64 / c.head_dim as f64;
    let is_read = |part: &f64| (c.head_dim as f32 * *part as f32) as usize == c.rope_dim;
    let part = [part, part.next_up(), f64::from((part as f32).next_up())].into_iter().find(is_read);
    let part = part.ok_or_else(|| {
        let problem = format!("{} of {} components have no factor", c.rope_dim, c.head_dim);
        Error::refused("rope.dimension_count", problem)
    })?;
    rope["rope_theta"] = shortest(c.rope_theta).into();
    rope["partial_rotary_factor"] = part.into();
    if let Some(sections) = sections(files) {
        rope["mrope_section"] = sections.into();
        rope["mrope_interleaved"] = true.into();
    }
    config["rope_parameters"] = rope;
    if let Some(fields) = config.as_object_mut() {
        fields.remove("rope_theta");
    }
    Ok(())
}

/// The pairs of components that follow each axis of images, of which text has one.
fn sections(files: &ModelFiles) -> Option<Vec<i64>> {
    let Container::Gguf(file) = files.container() else { return None };
    let name = file.metadata().get_str("general.architecture").ok()?;
    let value = file.metadata().value(&format!("{name}.rope.dimension_sections")).ok()??;
    let number = |value: Value<'_>| value.as_i64().filter(|number| *number >= 0);
    value.as_array()?.iter().take(3).map(number).collect()
}

/// Returns the settings of LongRoPE.
fn long_rope(c: &ModelConfig, long: &LongRopeScaling) -> Result<Json> {
    let limit = c.context_limit.filter(|limit| limit.reason == LimitReason::LongRope);
    let original = limit.map_or(c.context, |limit| limit.positions);
    let list = |factors: &[f32]| -> Json { factors.iter().copied().map(shortest).collect() };
    let longer = long.long_factors.as_deref().ok_or_else(|| {
        let problem = "missing, and config.json has the factors of longer sequences too";
        Error::refused("tensor rope_factors_long.weight", problem)
    })?;
    let mut rope = json!({
        "rope_type": "longrope",
        "short_factor": list(&long.short_factors),
        "long_factor": list(longer),
        "original_max_position_embeddings": original,
    });
    if long.attention_factor != LongRopeScaling::magnitude(c.context as f32, original as f32) {
        rope["attention_factor"] = shortest(long.attention_factor).into();
    }
    Ok(rope)
}

/// Returns `scale_depth` and `dim_model_base`: the shortest numbers that are read as the factors.
fn stream_factors(c: &ModelConfig, scales: &StreamScales) -> Result<(f32, f32)> {
    let found = |key: &str, near: f64, read: &dyn Fn(f32) -> f32, meant: f32| {
        let near = near as f32;
        let others = [near.next_down(), near, near.next_up(), near.round()];
        let exact = others.into_iter().filter(|&x| read(x) == meant);
        exact.min_by_key(|x| x.to_string().len()).ok_or_else(|| {
            let problem = format!("{meant}: config.json has no number of 32 bits that is read so");
            Error::refused(key, problem)
        })
    };
    let root = (c.layers as f64).sqrt();
    let of_depth = |depth: f32| (f64::from(depth) / root) as f32;
    let depth =
        found("residual_scale", f64::from(scales.residual) * root, &of_depth, scales.residual)?;
    let of_base = |base: f32| base / c.hidden as f32;
    let near = f64::from(scales.logits) * c.hidden as f64;
    Ok((depth, found("logit_scale", near, &of_base, scales.logits)?))
}

/// Writes the sizes of recurrent layers, and the kinds of all layers.
fn recurrent_fields(recurrent: &RecurrentConfig, config: &mut Json) {
    let shape = recurrent.shape;
    for (field, value) in [
        ("linear_conv_kernel_dim", shape.taps),
        ("linear_key_head_dim", shape.key_dim),
        ("linear_value_head_dim", shape.value_dim),
        ("linear_num_key_heads", shape.key_heads),
        ("linear_num_value_heads", shape.value_heads),
    ] {
        config[field] = value.into();
    }
    let kind = |kind: &LayerKind| match kind {
        LayerKind::Recurrent => "linear_attention",
        LayerKind::Attention | LayerKind::Draft => "full_attention",
    };
    config["layer_types"] = recurrent.kinds.iter().map(kind).collect();
    if let Some(interval) = recurrent.interval() {
        config["full_attention_interval"] = interval.into();
    }
}

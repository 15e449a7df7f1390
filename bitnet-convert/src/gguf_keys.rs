//! The keys of a GGUF file about the model: sizes and constants.

use std::path::Path;

use bitnet_core::backend::Activation;
use bitnet_formats::gguf::{GgufWriter, Value};
use bitnet_inference::loader::{Container, INPUT_NORM_EPSILON, gguf_pooling_type};
use bitnet_inference::models::{
    ContextLimit, LayerKind, LimitReason, LongRopeScaling, ModelConfig, RecurrentConfig,
    RopeScaling, StreamScales, YarnScaling, activation_name,
};
use bitnet_inference::{LoadOptions, ModelFiles, Pooling};
use serde_json::Value as Json;

use crate::{Error, Result};

/// Writes the keys about the model, for a file of the family's `architecture`.
///
/// # Errors
/// [`Error::Refused`] naming the key that can't say what the folder says.
pub(crate) fn model_keys(
    writer: &mut GgufWriter,
    files: &ModelFiles,
    architecture: &str,
    folder: &Path,
) -> Result<()> {
    let (c, input_norm_eps) = (files.config(), files.input_norm_eps());
    writer.put("general.architecture", Value::String(architecture))?;
    if let Some(name) = folder.canonicalize().ok().as_deref().and_then(Path::file_name) {
        writer.put("general.name", Value::String(&name.to_string_lossy()))?;
    }
    let key = |name: &str| format!("{architecture}.{name}");
    for (name, value) in [
        ("vocab_size", c.vocab_size),
        ("context_length", c.context),
        ("embedding_length", c.hidden),
        ("block_count", c.layers + c.drafts_read),
        ("feed_forward_length", c.intermediate),
        ("rope.dimension_count", c.rope_dim),
        ("attention.head_count", c.heads),
        ("attention.head_count_kv", c.kv_heads),
        ("attention.key_length", c.head_dim),
        ("attention.value_length", c.head_dim),
    ] {
        put_count(writer, &key(name), value)?;
    }
    writer.put(&key("attention.layer_norm_rms_epsilon"), Value::F32(c.norm_eps))?;
    writer.put(&key("rope.freq_base"), Value::F32(c.rope_theta))?;
    if input_norm_eps != c.norm_eps {
        writer.put(&key(INPUT_NORM_EPSILON), Value::F32(input_norm_eps))?;
    }
    if let RopeScaling::Linear(factor) = c.rope_scaling {
        writer.put(&key("rope.scaling.type"), Value::String("linear"))?;
        writer.put(&key("rope.scaling.factor"), Value::F32(factor))?;
    }
    if let RopeScaling::Yarn(yarn) = c.rope_scaling {
        yarn_keys(writer, &key, &yarn)?;
    }
    if let RopeScaling::LongRope(long) = &c.rope_scaling {
        long_rope_keys(writer, &key, long, c)?;
    }
    let table = c.architecture.table();
    if let Some(scales) = c.scales.as_ref().filter(|_| table.scaled_stream) {
        scale_keys(writer, &key, scales)?;
    }
    if table.query_scalar {
        attention_scale(writer, &key, c)?;
    }
    if let Some(recurrent) = &c.recurrent {
        recurrent_keys(writer, &key, recurrent)?;
        rope_sections(writer, &key, files)?;
    }
    if c.drafts_read > 0 {
        writer.put(&key("nextn_predict_layers"), Value::U32(1))?;
    }
    let limit = match c.context_limit {
        Some(ContextLimit { positions, reason: LimitReason::SlidingWindow }) => Some(positions),
        _ => None,
    };
    let window = c.local.as_ref().map(|local| local.positions).or(limit);
    if let Some(positions) = window {
        let positions = u32::try_from(positions).unwrap_or(u32::MAX);
        writer.put(&key("attention.sliding_window"), Value::U32(positions))?;
    }
    if let Some(local) = &c.local {
        let name = key("attention.sliding_window_pattern");
        match table.windowed.and_then(|defaults| period(&local.layers, defaults.full_every)) {
            Some(every) => put_count(writer, &name, every)?,
            None => writer.put_bools(&name, &local.layers)?,
        }
        if let Some(theta) = local.rope_theta {
            writer.put(&key("rope.freq_base_swa"), Value::F32(theta))?;
        }
    }
    // The official names mean ReLU²; readers of other names assume SiLU.
    if architecture == "bitnet" && c.activation != Activation::Silu {
        writer.put(&key("hidden_activation"), Value::String(activation_name(c.activation)))?;
    }
    Ok(())
}

/// Returns the period of layers without a window, if one in so many is such a layer: the `usual` one where it fits.
fn period(is_local: &[bool], usual: usize) -> Option<usize> {
    let fits = |every: usize| {
        is_local
            .iter()
            .zip(1..)
            .all(|(is_local, number)| *is_local != usize::is_multiple_of(number, every))
    };
    let first = is_local.iter().position(|is_local| !is_local).map(|index| index + 1);
    [Some(usual), first, Some(is_local.len() + 1)].into_iter().flatten().find(|&every| fits(every))
}

/// Writes what scores of attention are multiplied by.
fn attention_scale(
    writer: &mut GgufWriter,
    key: &dyn Fn(&str) -> String,
    c: &ModelConfig,
) -> Result<()> {
    let scalar = c.query_scalar.unwrap_or(c.head_dim as f32);
    Ok(writer.put(&key("attention.scale"), Value::F32(1.0 / scalar.sqrt()))?)
}

/// Writes how states become embeddings, of a model without a head: readers take a file with this key and without
/// `output.weight` for such a model. Returns remarks.
///
/// # Errors
/// [`Error::Inference`] naming a pooling that is not supported.
pub(crate) fn pooling_key(
    writer: &mut GgufWriter,
    files: &ModelFiles,
    architecture: &str,
) -> Result<Option<String>> {
    let pooling = files.pooling(&LoadOptions::default());
    if files.config().has_head {
        let stated = pooling.ok().flatten();
        return Ok(stated.map(|pooling| {
            format!("the pooling {pooling} of its embeddings is not written, as it has a head: use `bitnet embed --pooling {pooling}`")
        }));
    }
    let stated = pooling?;
    let pooling = stated.unwrap_or(Pooling::Mean);
    let key = format!("{architecture}.pooling_type");
    writer.put(&key, Value::U32(gguf_pooling_type(pooling)))?;
    Ok(stated
        .is_none()
        .then(|| format!("the folder says no pooling: {pooling} is written, the usual one")))
}

/// Writes the keys of YaRN, in the meaning of llama.cpp: `attn_factor` multiplies the usual magnitude.
fn yarn_keys(
    writer: &mut GgufWriter,
    key: &dyn Fn(&str) -> String,
    yarn: &YarnScaling,
) -> Result<()> {
    if !yarn.truncate {
        let problem = "false has no key in GGUF files; write a folder";
        return Err(Error::refused("rope_parameters.truncate".to_owned(), problem));
    }
    let original = yarn.original_context as u32;
    writer.put(&key("rope.scaling.type"), Value::String("yarn"))?;
    writer.put(&key("rope.scaling.factor"), Value::F32(yarn.factor))?;
    writer.put(&key("rope.scaling.original_context_length"), Value::U32(original))?;
    let usual = YarnScaling::magnitude(yarn.factor, 1.0);
    let near = yarn.attention_factor / usual;
    let others = [near, near.next_down(), near.next_up()];
    let more = others.into_iter().find(|more| usual * more == yarn.attention_factor);
    let more = more.unwrap_or(near);
    for (name, value, usual) in [
        ("attn_factor", more, 1.0),
        ("yarn_beta_fast", yarn.beta_fast, YarnScaling::BETA_FAST),
        ("yarn_beta_slow", yarn.beta_slow, YarnScaling::BETA_SLOW),
    ] {
        if value != usual {
            writer.put(&key(&format!("rope.scaling.{name}")), Value::F32(value))?;
        }
    }
    Ok(())
}

/// Writes a key that counts.
fn put_count(writer: &mut GgufWriter, key: &str, count: usize) -> Result<()> {
    let count = u32::try_from(count)
        .map_err(|_| Error::refused(key, format!("{count} does not fit 32 bits")))?;
    Ok(writer.put(key, Value::U32(count))?)
}

/// Writes the keys of LongRoPE, whose factors are tensors.
fn long_rope_keys(
    writer: &mut GgufWriter,
    key: &dyn Fn(&str) -> String,
    long: &LongRopeScaling,
    config: &ModelConfig,
) -> Result<()> {
    let limit = config.context_limit.filter(|limit| limit.reason == LimitReason::LongRope);
    let original = limit.map_or(config.context, |limit| limit.positions);
    writer.put(&key("rope.scaling.type"), Value::String("longrope"))?;
    writer.put(&key("rope.scaling.attn_factor"), Value::F32(long.attention_factor))?;
    put_count(writer, &key("rope.scaling.original_context_length"), original)
}

/// Writes the factors on embeddings, residual branches and logits; the last divides.
fn scale_keys(
    writer: &mut GgufWriter,
    key: &dyn Fn(&str) -> String,
    scales: &StreamScales,
) -> Result<()> {
    writer.put(&key("embedding_scale"), Value::F32(scales.embedding))?;
    writer.put(&key("residual_scale"), Value::F32(scales.residual))?;
    let near = 1.0 / scales.logits;
    let others = [near, near.next_down(), near.next_up()];
    let divisor = others.into_iter().find(|divisor| 1.0 / divisor == scales.logits);
    let divisor = divisor.ok_or_else(|| {
        let problem = format!("no number of 32 bits has the inverse {}", scales.logits);
        Error::refused(key("logit_scale"), problem)
    })?;
    Ok(writer.put(&key("logit_scale"), Value::F32(divisor))?)
}

/// Writes the sizes of recurrent layers, and which layers are recurrent.
fn recurrent_keys(
    writer: &mut GgufWriter,
    key: &dyn Fn(&str) -> String,
    recurrent: &RecurrentConfig,
) -> Result<()> {
    let shape = recurrent.shape;
    for (name, value) in [
        ("ssm.conv_kernel", shape.taps),
        ("ssm.state_size", shape.key_dim),
        ("ssm.group_count", shape.key_heads),
        ("ssm.time_step_rank", shape.value_heads),
        ("ssm.inner_size", shape.values()),
    ] {
        put_count(writer, &key(name), value)?;
    }
    let is_recurrent = |kind: &LayerKind| *kind == LayerKind::Recurrent;
    match recurrent.interval() {
        Some(interval) => put_count(writer, &key("full_attention_interval"), interval),
        None => {
            let flags: Vec<bool> = recurrent.kinds.iter().map(is_recurrent).collect();
            Ok(writer.put_bools(&key("attention.recurrent_layers"), &flags)?)
        }
    }
}

/// Writes how many pairs of components follow each axis of images; for text they are all the same, and a fourth axis has
/// none.
fn rope_sections(
    writer: &mut GgufWriter,
    key: &dyn Fn(&str) -> String,
    files: &ModelFiles,
) -> Result<()> {
    let pairs = files.config().rope_dim / 2;
    let stated = match files.container() {
        Container::HuggingFace { config, .. } | Container::Onnx { config, .. } => {
            stated_sections(config)
        }
        Container::Gguf(_) => None,
    };
    let usual = [pairs.div_ceil(3), (pairs - pairs.div_ceil(3)).div_ceil(2), pairs / 3];
    let sections = stated.unwrap_or(usual);
    if sections.iter().try_fold(0_usize, |sum, n| sum.checked_add(*n)) != Some(pairs) {
        let problem =
            format!("{sections:?} are not the {pairs} pairs of components that are rotated");
        return Err(Error::refused("rope_parameters.mrope_section", problem));
    }
    let sections: Vec<i32> =
        sections.iter().chain([&0]).map(|&n| i32::try_from(n).unwrap_or(i32::MAX)).collect();
    Ok(writer.put_i32s(&key("rope.dimension_sections"), &sections)?)
}

/// The sections that a `config.json` states.
fn stated_sections(config: &Json) -> Option<[usize; 3]> {
    let text = config.get("text_config").filter(|text| text.is_object()).unwrap_or(config);
    let rope = ["rope_scaling", "rope_parameters"].into_iter();
    let stated =
        rope.filter_map(|field| text.get(field)?.get("mrope_section")?.as_array()).next()?;
    let numbers: Option<Vec<usize>> =
        stated.iter().map(|n| usize::try_from(n.as_u64()?).ok()).collect();
    numbers?.try_into().ok()
}

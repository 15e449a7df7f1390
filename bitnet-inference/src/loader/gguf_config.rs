//! Shapes and constants of a GGUF model, from its keys; defaults are those of llama.cpp.

use bitnet_core::backend::Activation;
use bitnet_formats::gguf::{GgufFile, Metadata};

use super::gguf_mixture::{local_attention, mixture, rope_theta, rotated, windows};
use super::gguf_recurrent::recurrent_config;
use super::gguf_rope::rope_scaling;
use crate::models::{
    Architecture, ContextLimit, LimitReason, ModelConfig, StreamScales, activation_by_name,
    unknown_name,
};
use crate::{InferenceError, Result};

/// Reads shapes and constants from the keys of architecture `arch`.
pub(super) fn read_config(file: &GgufFile, arch: &str) -> Result<ModelConfig> {
    let metadata = file.metadata();
    let key = |name: &str| format!("{arch}.{name}");
    let Some((architecture, named)) = Architecture::from_gguf(arch) else {
        let known: Vec<&str> = Architecture::gguf_names().collect();
        let what = format!("{}: the architecture {arch:?}", file.name());
        return Err(InferenceError::unsupported(what, format!("{} are", known.join(", "))));
    };
    let bad =
        |name: &str, problem: String| InferenceError::config(file.name(), &key(name), problem);
    let count = |name: &str| -> Result<usize> { Ok(metadata.get_u64(&key(name))? as usize) };
    let opt_count = |name: &str| -> Result<Option<usize>> {
        Ok(metadata.opt_u64(&key(name))?.map(|n| n as usize))
    };
    let hidden = count("embedding_length")?;
    let heads = count("attention.head_count")?;
    if heads == 0 {
        return Err(bad("attention.head_count", "0; a model has at least one head".into()));
    }
    let kv_heads = opt_count("attention.head_count_kv")?.unwrap_or(heads);
    let head_dim = opt_count("attention.key_length")?.unwrap_or(hidden / heads);
    if let Some(values) = opt_count("attention.value_length")?.filter(|&n| n != head_dim) {
        let problem = format!("{values} differs from the key length {head_dim}");
        return Err(bad("attention.value_length", problem));
    }
    let table = architecture.table();
    let rope_dim = rotated(metadata, &key, table)?.unwrap_or(head_dim);
    let is_possible =
        rope_dim == head_dim || table.partial_rope && (1..head_dim).contains(&rope_dim);
    if !is_possible {
        let rotated = rope_dim;
        let problem = format!(
            "{rotated} of {head_dim} components; rotating a part of a head is not supported"
        );
        return Err(bad("rope.dimension_count", problem));
    }
    let given = metadata.opt_str(&key("hidden_activation"))?.map(activation_by_name).transpose();
    let given = given.map_err(|name| bad("hidden_activation", unknown_name(&name)))?;
    let activation = match (named.activation, given) {
        (Some(fixed), Some(given)) if fixed != given => {
            let problem = format!("{given}, but models of this architecture have {fixed}");
            return Err(bad("hidden_activation", problem));
        }
        (fixed, given) => given.or(fixed).unwrap_or(Activation::Silu),
    };
    let vocab_size = vocab_size(file, metadata, &key("vocab_size"))?;
    let context = count("context_length")?;
    // Layers that draft further tokens stand after the model's own.
    let drafts = if table.recurrent { opt_count("nextn_predict_layers")?.unwrap_or(0) } else { 0 };
    let blocks = count("block_count")?;
    let Some(layers) = blocks.checked_sub(drafts).filter(|&layers| layers > 0 && layers <= 512)
    else {
        let problem = format!("{blocks}, of which {drafts} draft tokens; 1 to 512 layers are read");
        return Err(bad("block_count", problem));
    };
    let recurrent = table.recurrent.then(|| recurrent_config(file, arch, layers)).transpose()?;
    let local = match table.windowed {
        Some(defaults) => windows(file, arch, defaults, layers)?,
        None => local_attention(file, arch, layers)?,
    };
    let mixture = table.experts.then(|| mixture(file, arch, layers)).transpose()?;
    Ok(ModelConfig {
        architecture,
        vocab_size,
        hidden,
        layers,
        heads,
        kv_heads,
        head_dim,
        intermediate: match mixture {
            Some((_, width)) => width,
            None => count("feed_forward_length")?,
        },
        context,
        context_limit: [
            match local {
                None => sliding_window(metadata, &key("attention.sliding_window"))?,
                Some(_) => None,
            },
            long_rope_limit(metadata, &key, context)?,
        ]
        .into_iter()
        .flatten()
        .min_by_key(|limit| limit.positions),
        norm_eps: metadata.get_f32(&key("attention.layer_norm_rms_epsilon"))?,
        activation,
        rope_theta: rope_theta(metadata, &key, table)?,
        rope_order: architecture.table().gguf_rope_order,
        rope_scaling: rope_scaling(file, metadata, arch, rope_dim)?,
        rope_dim,
        local,
        mixture: mixture.map(|(mixture, _)| mixture),
        recurrent,
        rotations: None,
        draft_layers: drafts,
        drafts_read: 0,
        scales: match table.root_scaled {
            true => Some(StreamScales::root_of(hidden)),
            false => stream_scales(metadata, &key, table.scaled_stream)?,
        },
        query_scalar: match table.query_scalar {
            true => query_scalar(metadata, &key, [hidden, heads, head_dim, layers])?,
            false => None,
        },
        has_head: has_head(file, arch)?,
    })
}

/// The factors on embeddings, residual branches and logits. llama.cpp takes those of an early model where a file has no
/// keys for them; they are not guessed here.
fn stream_scales(
    metadata: &Metadata,
    key: &dyn Fn(&str) -> String,
    is_scaled: bool,
) -> Result<Option<StreamScales>> {
    if !is_scaled {
        return Ok(None);
    }
    Ok(Some(StreamScales {
        embedding: metadata.get_f32(&key("embedding_scale"))?,
        residual: metadata.get_f32(&key("residual_scale"))?,
        logits: 1.0 / metadata.get_f32(&key("logit_scale"))?,
    }))
}

/// Whether a file has a head. One without `output` that says how states become an embedding was made for embeddings: the
/// embedding table is no head then.
fn has_head(file: &GgufFile, arch: &str) -> Result<bool> {
    let pools = file.metadata().opt_u64(&pooling_key(arch))?.is_some_and(|pooling| pooling != 0);
    Ok(file.find("output.weight").is_some() || !pools)
}

/// The key that says how states become an embedding.
pub(super) fn pooling_key(arch: &str) -> String {
    format!("{arch}.pooling_type")
}

/// What scores of attention are divided by the root of; `None` where it is the size of a head. llama.cpp knows the largest
/// Gemma 3 by its number of layers, and has no key for others.
fn query_scalar(
    metadata: &Metadata,
    key: &dyn Fn(&str) -> String,
    [hidden, heads, head_dim, layers]: [usize; 4],
) -> Result<Option<f32>> {
    const LAYERS_OF_27B: usize = 62;
    let scale = metadata.opt_f32(&key("attention.scale"))?.filter(|&scale| scale != 0.0);
    let scalar = match scale {
        Some(scale) => scalar_of(scale),
        None if layers == LAYERS_OF_27B => (hidden / heads) as f32,
        None => head_dim as f32,
    };
    Ok((scalar != head_dim as f32).then_some(scalar))
}

/// The number of which the inverse root is `scale`: a whole one where there is one.
fn scalar_of(scale: f32) -> f32 {
    let near = (1.0 / (f64::from(scale) * f64::from(scale))) as f32;
    let whole = near.round();
    if 1.0 / whole.sqrt() == scale { whole } else { near }
}

/// The original context of LongRoPE, if the model's is longer.
fn long_rope_limit(
    metadata: &Metadata,
    key: &dyn Fn(&str) -> String,
    context: usize,
) -> Result<Option<ContextLimit>> {
    if metadata.opt_str(&key("rope.scaling.type"))? != Some("longrope") {
        return Ok(None);
    }
    let original = metadata.opt_u64(&key("rope.scaling.original_context_length"))?;
    let positions = original.map_or(context, |original| original as usize);
    let reason = LimitReason::LongRope;
    Ok((positions < context).then_some(ContextLimit { positions, reason }))
}

/// The longest sequence in which a window of attention changes nothing; 0 is no window.
fn sliding_window(metadata: &Metadata, key: &str) -> Result<Option<ContextLimit>> {
    let window = metadata.opt_u64(key)?.filter(|&window| window > 0);
    Ok(window.map(|window| ContextLimit {
        positions: usize::try_from(window).unwrap_or(usize::MAX),
        reason: LimitReason::SlidingWindow,
    }))
}

/// Rows of the embedding table: it decides, the key is optional.
fn vocab_size(file: &GgufFile, metadata: &Metadata, key: &str) -> Result<usize> {
    let tensor = file.tensor("token_embd.weight")?;
    let rows = tensor.dims.get(1).copied().unwrap_or(0);
    match metadata.opt_u64(key)? {
        Some(declared) if declared != rows => {
            let problem = format!("{declared}, but token_embd.weight has {rows} rows");
            Err(InferenceError::config(file.name(), key, problem))
        }
        _ => Ok(rows as usize),
    }
}

//! Shapes and constants of a GGUF model, from its keys; defaults are those of llama.cpp.

use bitnet_core::backend::Activation;
use bitnet_formats::gguf::{GgufFile, Metadata};

use super::gguf_rope::rope_scaling;
use crate::models::{
    Architecture, ContextLimit, LimitReason, ModelConfig, activation_by_name, unknown_name,
};
use crate::{InferenceError, Result};

/// Reads shapes and constants from the keys of architecture `arch`.
pub(super) fn read_config(file: &GgufFile, arch: &str) -> Result<ModelConfig> {
    let metadata = file.metadata();
    let key = |name: &str| format!("{arch}.{name}");
    let Some((architecture, named)) = Architecture::from_gguf(arch) else {
        let known: Vec<&str> = Architecture::gguf_names().collect();
        return Err(InferenceError::UnsupportedOperation {
            what: format!("{}: the architecture {arch:?}", file.name()),
            instead: format!("{} are", known.join(", ")),
        });
    };
    let bad = |name: &str, problem: String| InferenceError::Config {
        file: file.name().into(),
        field: key(name),
        problem,
    };
    let count = |name: &str| -> Result<usize> { Ok(metadata.get_u64(&key(name))? as usize) };
    let hidden = count("embedding_length")?;
    let heads = count("attention.head_count")?;
    if heads == 0 {
        return Err(bad("attention.head_count", "0; a model has at least one head".into()));
    }
    let kv_heads = metadata.opt_u64(&key("attention.head_count_kv"))?.map_or(heads, |n| n as usize);
    let head_dim = match metadata.opt_u64(&key("attention.key_length"))? {
        Some(length) => length as usize,
        None => hidden / heads,
    };
    if let Some(values) = metadata.opt_u64(&key("attention.value_length"))?
        && values as usize != head_dim
    {
        return Err(bad(
            "attention.value_length",
            format!("{values} differs from the key length {head_dim}"),
        ));
    }
    if let Some(rotated) = metadata.opt_u64(&key("rope.dimension_count"))?
        && rotated as usize != head_dim
    {
        return Err(bad(
            "rope.dimension_count",
            format!(
                "{rotated} of {head_dim} components; rotating a part of a head is not supported"
            ),
        ));
    }
    let given = metadata.opt_str(&key("hidden_activation"))?;
    let given = given
        .map(|name| {
            activation_by_name(name).map_err(|name| bad("hidden_activation", unknown_name(&name)))
        })
        .transpose()?;
    let activation = match (named.activation, given) {
        (Some(fixed), Some(given)) if fixed != given => {
            let problem = format!("{given}, but models of this architecture have {fixed}");
            return Err(bad("hidden_activation", problem));
        }
        (fixed, given) => given.or(fixed).unwrap_or(Activation::Silu),
    };
    let vocab_size = vocab_size(file, metadata, &key("vocab_size"))?;
    let context = count("context_length")?;
    Ok(ModelConfig {
        architecture,
        vocab_size,
        hidden,
        layers: count("block_count")?,
        heads,
        kv_heads,
        head_dim,
        intermediate: count("feed_forward_length")?,
        context,
        context_limit: sliding_window(metadata, &key("attention.sliding_window"))?,
        norm_eps: metadata.get_f32(&key("attention.layer_norm_rms_epsilon"))?,
        activation,
        rope_theta: metadata.opt_f32(&key("rope.freq_base"))?.unwrap_or(10_000.0),
        rope_order: architecture.table().gguf_rope_order,
        rope_scaling: rope_scaling(file, metadata, arch, head_dim)?,
    })
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
        Some(declared) if declared != rows => Err(InferenceError::Config {
            file: file.name().into(),
            field: key.into(),
            problem: format!("{declared}, but token_embd.weight has {rows} rows"),
        }),
        _ => Ok(rows as usize),
    }
}

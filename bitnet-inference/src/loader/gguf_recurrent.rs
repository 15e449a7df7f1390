//! The recurrent layers of a GGUF model, from its keys.

use bitnet_core::backend::HeadOrder;
use bitnet_core::kv::RecurrentShape;
use bitnet_formats::gguf::{GgufFile, Value};

use crate::models::{LayerKind, RecurrentConfig};
use crate::{InferenceError, Result};

/// One layer in this many has attention, where a file does not say.
const FULL_ATTENTION_INTERVAL: usize = 4;

/// Reads the keys `ssm.*` and those that tell the kinds of `layers` layers.
pub(super) fn recurrent_config(
    file: &GgufFile,
    arch: &str,
    layers: usize,
) -> Result<RecurrentConfig> {
    let metadata = file.metadata();
    let key = |name: &str| format!("{arch}.{name}");
    let bad =
        |name: &str, problem: String| InferenceError::config(file.name(), &key(name), problem);
    let count = |name: &str| -> Result<usize> {
        let value = metadata.get_u64(&key(name))?;
        let in_range = usize::try_from(value).ok().filter(|value| (1..=1 << 20).contains(value));
        in_range.ok_or_else(|| bad(name, format!("{value} is outside 1..=1048576")))
    };
    let (inner, value_heads) = (count("ssm.inner_size")?, count("ssm.time_step_rank")?);
    let key_heads = count("ssm.group_count")?;
    if !inner.is_multiple_of(value_heads) {
        let problem = format!("{value_heads} heads do not divide the inner size {inner}");
        return Err(bad("ssm.time_step_rank", problem));
    }
    if !value_heads.is_multiple_of(key_heads) {
        let problem = format!("{key_heads} key heads do not divide the {value_heads} value heads");
        return Err(bad("ssm.group_count", problem));
    }
    let shape = RecurrentShape {
        layers,
        key_heads,
        value_heads,
        key_dim: count("ssm.state_size")?,
        value_dim: inner / value_heads,
        taps: count("ssm.conv_kernel")?,
    };
    Ok(RecurrentConfig::new(kinds(file, arch, layers)?, shape, HeadOrder::Tiled))
}

/// What mixes the tokens of each layer: by a list, or by the interval of layers with attention.
fn kinds(file: &GgufFile, arch: &str, layers: usize) -> Result<Vec<LayerKind>> {
    let metadata = file.metadata();
    let list = format!("{arch}.attention.recurrent_layers");
    if let Some(value) = metadata.value(&list)? {
        let bad = |problem: String| InferenceError::config(file.name(), &list, problem);
        let array = value.as_array().ok_or_else(|| bad("not a list".into()))?;
        if array.len() < layers {
            return Err(bad(format!("{} of them for {layers} layers", array.len())));
        }
        let flags: Option<Vec<bool>> = array.iter().take(layers).map(flag).collect();
        let flags = flags.ok_or_else(|| bad("not a list of true and false".into()))?;
        let kind = |is_recurrent| match is_recurrent {
            true => LayerKind::Recurrent,
            false => LayerKind::Attention,
        };
        return Ok(flags.into_iter().map(kind).collect());
    }
    let interval = format!("{arch}.full_attention_interval");
    let every = metadata.opt_u64(&interval)?.unwrap_or(FULL_ATTENTION_INTERVAL as u64);
    if every == 0 {
        let problem = "0; one layer in so many has attention".to_owned();
        return Err(InferenceError::config(file.name(), &interval, problem));
    }
    let every = usize::try_from(every).unwrap_or(usize::MAX);
    Ok(RecurrentConfig::kinds_by_interval(layers, every))
}

fn flag(value: Value<'_>) -> Option<bool> {
    value.as_bool().or_else(|| value.as_u64().map(|number| number != 0))
}

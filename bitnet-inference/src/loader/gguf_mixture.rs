//! Mixtures of experts, and layers that attend to a window, in a GGUF model's keys (`maple`).

use std::sync::Arc;

use bitnet_formats::architecture::{ArchitectureTable, Windowed};
use bitnet_formats::gguf::{Array, GgufFile, Metadata, Value};

use crate::models::{Architecture, LocalAttention, MixtureConfig};
use crate::{InferenceError, Result};

/// llama.cpp's number for a softmax over all experts.
const SOFTMAX: u64 = 1;

/// Components of a head that RoPE rotates, if the file says so. Where only layers with a window have RoPE, the number for
/// them comes first: the authors' files give 0 for the others.
pub(super) fn rotated(
    metadata: &Metadata,
    key: &dyn Fn(&str) -> String,
    table: &ArchitectureTable,
) -> Result<Option<usize>> {
    let of_windows = match table.local_rope {
        true => metadata.opt_u64(&key("rope.dimension_count_swa"))?,
        false => None,
    };
    let found = match of_windows {
        None => metadata.opt_u64(&key("rope.dimension_count"))?,
        found => found,
    };
    Ok(found.map(|count| usize::try_from(count).unwrap_or(usize::MAX)))
}

/// The base of the RoPE frequencies; that of layers with a window where only they have RoPE.
pub(super) fn rope_theta(
    metadata: &Metadata,
    key: &dyn Fn(&str) -> String,
    table: &ArchitectureTable,
) -> Result<f32> {
    let of_windows = match table.local_rope {
        true => metadata.opt_f32(&key("rope.freq_base_swa"))?,
        false => None,
    };
    let found = match of_windows {
        None => metadata.opt_f32(&key("rope.freq_base"))?,
        found => found,
    };
    Ok(found.unwrap_or(10_000.0))
}

/// Reads which of `layers` layers attend to a window, and its size; `None` if the file does not say it of each layer.
///
/// # Errors
/// [`InferenceError::Config`] naming a key with an impossible value, or one that is missing in a family in which RoPE
/// depends on it.
pub(super) fn local_attention(
    file: &GgufFile,
    arch: &str,
    layers: usize,
) -> Result<Option<LocalAttention>> {
    let table = Architecture::from_gguf(arch).map(|(own, _)| own.table());
    let Some(table) = table.filter(|table| table.sliding_window) else { return Ok(None) };
    let key = |name: &str| format!("{arch}.{name}");
    let name = key("attention.sliding_window_pattern");
    let bad = |problem: String| InferenceError::config(file.name(), &name, problem);
    let list = file.metadata().value(&name)?;
    let array = match list.map(|list| list.as_array()) {
        Some(Some(array)) => array,
        _ if !table.local_rope => return Ok(None),
        Some(None) => return Err(bad("not a list".into())),
        None => return Err(bad("missing; it says which layers attend to a window".into())),
    };
    let window = count_of(file, &key("attention.sliding_window"), 1 << 24)?;
    let positions = window + table.window_beyond;
    let layers = flags(array, layers).map_err(bad)?;
    Ok(Some(LocalAttention { positions, layers, rope_theta: None }))
}

/// A flag for each of `layers` layers.
fn flags(array: Array<'_>, layers: usize) -> std::result::Result<Arc<[bool]>, String> {
    if array.len() != layers {
        return Err(format!("{} of them for {layers} layers", array.len()));
    }
    let flag = |value: Value<'_>| value.as_bool().or_else(|| Some(value.as_u64()? != 0));
    let flags: Option<Arc<[bool]>> = array.iter().map(flag).collect();
    flags.ok_or_else(|| "not a list of true and false".into())
}

/// Reads which of `layers` layers attend to a window where windows are the rule (`gemma3`), by a period or a list, and their
/// RoPE; `None` if the file names no size of a window, as in llama.cpp.
///
/// # Errors
/// [`InferenceError::Config`] naming a key with an impossible value.
pub(super) fn windows(
    file: &GgufFile,
    arch: &str,
    defaults: Windowed,
    layers: usize,
) -> Result<Option<LocalAttention>> {
    let key = |name: &str| format!("{arch}.{name}");
    let metadata = file.metadata();
    let size = key("attention.sliding_window");
    if metadata.opt_u64(&size)?.is_none_or(|window| window == 0) {
        return Ok(None);
    }
    let positions = count_of(file, &size, 1 << 24)?;
    let name = key("attention.sliding_window_pattern");
    let bad = |problem: String| InferenceError::config(file.name(), &name, problem);
    let pattern = metadata.value(&name)?;
    let kinds = match pattern.map(|value| (value.as_array(), value.as_u64())) {
        Some((Some(array), _)) => flags(array, layers).map_err(bad)?,
        Some((None, Some(0) | None)) => {
            return Err(bad("neither a period of at least 1 nor a list of true and false".into()));
        }
        Some((None, Some(every))) => every_so_many(every, layers),
        None => every_so_many(defaults.full_every as u64, layers),
    };
    let theta = metadata.opt_f32(&key("rope.freq_base_swa"))?.unwrap_or(defaults.rope_theta);
    let is_local = kinds.contains(&true);
    let local = LocalAttention { positions, layers: kinds, rope_theta: Some(theta) };
    Ok(is_local.then_some(local))
}

/// Whether each layer attends to a window, where one in `every` does not.
fn every_so_many(every: u64, layers: usize) -> Arc<[bool]> {
    (1..=layers as u64).map(|number| !number.is_multiple_of(every)).collect()
}

/// Reads the mixtures of `layers` layers, and the width of an expert.
pub(super) fn mixture(
    file: &GgufFile,
    arch: &str,
    layers: usize,
) -> Result<(MixtureConfig, usize)> {
    let key = |name: &str| format!("{arch}.{name}");
    let metadata = file.metadata();
    let experts = count_of(file, &key("expert_count"), 1 << 12)?;
    let used = count_of(file, &key("expert_used_count"), 1 << 12)?;
    if used > experts {
        let problem = format!("{used}, but there are {experts} experts");
        return Err(InferenceError::config(file.name(), &key("expert_used_count"), problem));
    }
    let gating = key("expert_gating_func");
    if let Some(other) = metadata.opt_u64(&gating)?.filter(|&gating| gating > SOFTMAX) {
        let problem = format!("{other} is not supported; {SOFTMAX} (softmax) is");
        return Err(InferenceError::config(file.name(), &gating, problem));
    }
    let widths = numbers(file, &key("expert_feed_forward_length"), layers, |value| {
        value.as_u64().filter(|width| (1..=1 << 20).contains(width))
    })?;
    let width = widths.first().copied().unwrap_or(0);
    if widths.iter().any(|&other| other != width) {
        let name = key("expert_feed_forward_length");
        let problem = "it differs between layers, which is not supported".to_owned();
        return Err(InferenceError::config(file.name(), &name, problem));
    }
    let limits = numbers(file, &key("swiglu_clamp_exp"), layers, |value| {
        value.as_f32().filter(|limit| limit.is_finite() && *limit >= 0.0)
    })?;
    // As in llama.cpp, a limit of nearly 0 stands for none.
    let limits = limits.into_iter().map(|limit| if limit > 1e-6 { limit } else { 0.0 }).collect();
    Ok((MixtureConfig { experts, used, limits }, width as usize))
}

/// A count of 1 to `most`.
fn count_of(file: &GgufFile, key: &str, most: u64) -> Result<usize> {
    let value = file.metadata().get_u64(key)?;
    let in_range = usize::try_from(value).ok().filter(|_| (1..=most).contains(&value));
    in_range.ok_or_else(|| {
        InferenceError::config(file.name(), key, format!("{value} is outside 1..={most}"))
    })
}

/// A number for each layer: a list, or one for all.
fn numbers<T: Copy>(
    file: &GgufFile,
    key: &str,
    layers: usize,
    number: impl Fn(Value<'_>) -> Option<T>,
) -> Result<Vec<T>> {
    let bad = |problem: String| InferenceError::config(file.name(), key, problem);
    let value = file.metadata().value(key)?.ok_or_else(|| bad("missing".into()))?;
    let found = match value.as_array() {
        Some(array) if array.len() < layers => {
            return Err(bad(format!("{} of them for {layers} layers", array.len())));
        }
        Some(array) => array.iter().take(layers).map(number).collect::<Option<Vec<T>>>(),
        None => number(value).map(|number| vec![number; layers]),
    };
    found.ok_or_else(|| bad("not a number in the range of its kind for each layer".into()))
}

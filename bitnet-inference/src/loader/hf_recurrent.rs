//! The recurrent layers of a Hugging Face checkpoint, from its `config.json`.

use bitnet_core::backend::HeadOrder;
use bitnet_core::kv::RecurrentShape;

use super::class_defaults::Settings;
use crate::Result;
use crate::models::{LayerKind, RecurrentConfig};

/// Reads the fields `linear_*` and the kinds of `layers` layers; `None` for families without recurrent layers.
///
/// Defaults are those of `Qwen3_5TextConfig` in transformers 5.
pub(super) fn recurrent_config(
    settings: &mut Settings<'_>,
    layers: usize,
) -> Result<Option<RecurrentConfig>> {
    if !settings.class.architecture.table().recurrent {
        return Ok(None);
    }
    let kinds = kinds(settings, layers)?;
    let mut count = |field: &str, default| {
        let value = settings.count(field, default)?;
        let problem = || settings.object.bad(field, format!("{value} is outside 1..=1048576"));
        (1..=1 << 20).contains(&value).then_some(value).ok_or_else(problem)
    };
    let shape = RecurrentShape {
        layers,
        key_heads: count("linear_num_key_heads", 16)?,
        value_heads: count("linear_num_value_heads", 32)?,
        key_dim: count("linear_key_head_dim", 128)?,
        value_dim: count("linear_value_head_dim", 128)?,
        taps: count("linear_conv_kernel_dim", 4)?,
    };
    if !shape.value_heads.is_multiple_of(shape.key_heads) {
        let problem = format!("{} does not divide the value heads", shape.key_heads);
        return Err(settings.object.bad("linear_num_key_heads", problem));
    }
    Ok(Some(RecurrentConfig::new(kinds, shape, HeadOrder::Grouped)))
}

/// What mixes the tokens of each layer: by `layer_types`, or by the interval of layers with attention.
fn kinds(settings: &Settings<'_>, layers: usize) -> Result<Vec<LayerKind>> {
    let o = settings.object;
    let Some(types) = o.opt_strings("layer_types")? else {
        let every = o.opt_usize("full_attention_interval")?.unwrap_or(4);
        if every == 0 {
            let problem = "0; one layer in so many has attention".into();
            return Err(o.bad("full_attention_interval", problem));
        }
        return Ok(RecurrentConfig::kinds_by_interval(layers, every));
    };
    if types.len() != layers {
        let problem = format!("{} of them for {layers} layers", types.len());
        return Err(o.bad("layer_types", problem));
    }
    let kind = |name: &&str| match *name {
        "linear_attention" => Ok(LayerKind::Recurrent),
        "full_attention" => Ok(LayerKind::Attention),
        other => {
            let problem =
                format!("{other:?} is not supported; full_attention and linear_attention are");
            Err(o.bad("layer_types", problem))
        }
    };
    types.iter().map(kind).collect()
}

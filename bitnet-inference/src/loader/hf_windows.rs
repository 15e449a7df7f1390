//! Windows of attention, and the RoPE of layers with and without one, in `config.json` of families in which windows are the
//! rule (`Gemma3ForCausalLM`).

use bitnet_formats::architecture::Windowed;
use serde_json::Value;

use super::class_defaults::Settings;
use super::hf_rope::{HfRope, rotated, scaling};
use super::json_object::Object;
use crate::Result;
use crate::models::{LocalAttention, RopeScaling};

const PARAMETERS: &str = "rope_parameters";
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";
const PATTERN: &str = "sliding_window_pattern";

/// Reads the RoPE of layers that attend to all tokens: `rope_parameters.full_attention`, or the older fields
/// `rope_scaling` and `rope_theta`; `context` is the trained length.
pub(super) fn rope_of_full_layers(
    settings: &mut Settings<'_>,
    context: usize,
    head_dim: usize,
) -> Result<HfRope> {
    let own = parameters_of(settings, FULL)?;
    let o = settings.object;
    // transformers prefers the older field where both are there.
    let older =
        o.get("rope_scaling").filter(|value| value.as_object().is_none_or(|p| !p.is_empty()));
    let (field, value) = match (older, own) {
        (Some(value), _) => ("rope_scaling", value),
        (None, Some(value)) => (PARAMETERS, value),
        (None, None) => ("", &Value::Null),
    };
    let dim = rotated(settings, Some(&Object { file: o.file, value }), head_dim)?;
    let (scaling, limit) = match value {
        Value::Null => (RopeScaling::None, None),
        value if value.is_object() => {
            scaling(settings, &Object { file: o.file, value }, field, context)?
        }
        _ => return Err(o.bad(field, "not an object".into())),
    };
    let theta = match theta_of(o, own)? {
        Some(theta) => theta,
        None => settings.number("rope_theta", settings.class.rope_theta)?,
    };
    Ok(HfRope { theta, scaling, limit, dim })
}

/// Reads which layers attend to a window, its size, and the RoPE of these layers: `rope_parameters.sliding_attention`, or
/// the older field `rope_local_base_freq`.
pub(super) fn windows(
    settings: &mut Settings<'_>,
    defaults: Windowed,
    layers: usize,
) -> Result<Option<LocalAttention>> {
    let o = settings.object;
    let every = o.opt_usize(PATTERN)?.unwrap_or(defaults.full_every);
    let kinds: Vec<bool> = match o.opt_strings("layer_types")? {
        None if every == 0 => {
            return Err(o.bad(PATTERN, "0; one layer in so many attends to all tokens".into()));
        }
        None => (1..=layers).map(|number| !number.is_multiple_of(every)).collect(),
        Some(types) if types.len() != layers => {
            let problem = format!("{} of them for {layers} layers", types.len());
            return Err(o.bad("layer_types", problem));
        }
        Some(types) => {
            let kind = |name: &&str| match *name {
                SLIDING => Ok(true),
                FULL => Ok(false),
                other => {
                    let problem = format!("{other:?} is not supported; {FULL} and {SLIDING} are");
                    Err(o.bad("layer_types", problem))
                }
            };
            types.iter().map(kind).collect::<Result<_>>()?
        }
    };
    let own = parameters_of(settings, SLIDING)?;
    if let Some(value) = own {
        let p = Object { file: o.file, value };
        let kind = p.opt_str("rope_type")?.unwrap_or("default");
        if kind != "default" {
            let problem = format!("{kind:?} is not supported in layers with a window; default is");
            return Err(o.bad(&format!("{PARAMETERS}.{SLIDING}.rope_type"), problem));
        }
    }
    if !kinds.contains(&true) {
        return Ok(None);
    }
    let theta = match theta_of(o, own)? {
        Some(theta) => theta,
        None => settings.number("rope_local_base_freq", defaults.rope_theta)?,
    };
    let positions = settings.count("sliding_window", defaults.positions)?;
    if positions == 0 {
        return Err(o.bad("sliding_window", "0; a window has at least 1 token".into()));
    }
    Ok(Some(LocalAttention { positions, layers: kinds.into(), rope_theta: Some(theta) }))
}

fn theta_of(o: &Object<'_>, parameters: Option<&Value>) -> Result<Option<f32>> {
    let read = |value| Object { file: o.file, value }.opt_f32("rope_theta");
    Ok(parameters.map(read).transpose()?.flatten())
}

/// The object of a kind of layers in `rope_parameters`.
fn parameters_of<'a>(settings: &Settings<'a>, kind: &str) -> Result<Option<&'a Value>> {
    let o = settings.object;
    let Some(all) = o.get(PARAMETERS) else { return Ok(None) };
    let problem = || format!("not an object with {FULL} and {SLIDING}, each an object");
    let Some(objects) = all.as_object() else { return Err(o.bad(PARAMETERS, problem())) };
    if let Some((other, _)) = objects.iter().find(|(name, _)| ![FULL, SLIDING].contains(&&***name))
    {
        let problem = format!("{} beside the kinds of layers; {}", other.escape_debug(), problem());
        return Err(o.bad(PARAMETERS, problem));
    }
    match objects.get(kind).filter(|value| !value.is_null()) {
        Some(value) if !value.is_object() => Err(o.bad(PARAMETERS, problem())),
        found => Ok(found),
    }
}

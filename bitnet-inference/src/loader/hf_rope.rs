//! The frequencies of RoPE in `config.json`.

use std::sync::Arc;

use serde_json::Value;

use super::class_defaults::Settings;
use super::json_object::Object;
use crate::Result;
use crate::models::{ContextLimit, LimitReason, LongRopeScaling, RopeScaling, YarnScaling};

/// RoPE of a Hugging Face checkpoint.
pub(super) struct HfRope {
    pub(super) theta: f32,
    pub(super) scaling: RopeScaling,
    /// The longest sequence with these frequencies.
    pub(super) limit: Option<ContextLimit>,
    /// Components of a head that are rotated.
    pub(super) dim: usize,
}

/// Reads `rope_scaling` or `rope_parameters`, and `rope_theta`; `context` is the trained length.
pub(super) fn rope(settings: &mut Settings<'_>, context: usize, head_dim: usize) -> Result<HfRope> {
    let o = settings.object;
    // transformers 5 keeps everything in `rope_parameters`, earlier versions in two fields. It prefers the older one.
    let found = ["rope_scaling", "rope_parameters"].into_iter().find_map(|field| {
        let value = o.get(field)?;
        (value.as_object().is_none_or(|object| !object.is_empty())).then_some((field, value))
    });
    let Some((field, value)) = found else {
        let theta = theta(settings, None)?;
        let dim = rotated(settings, None, head_dim)?;
        return Ok(HfRope { theta, scaling: RopeScaling::None, limit: None, dim });
    };
    let Some(object) = value.as_object() else {
        return Err(o.bad(field, "not an object".into()));
    };
    if let Some((layers, _)) = object.iter().find(|(_, value)| value.is_object()) {
        let problem = format!(
            "settings of their own for {}; one RoPE for all layers is supported",
            layers.escape_debug()
        );
        return Err(o.bad(field, problem));
    }
    let p = Object { file: o.file, value };
    let dim = rotated(settings, Some(&p), head_dim)?;
    let (scaling, limit) = scaling(settings, &p, field, context)?;
    Ok(HfRope { theta: theta(settings, Some(value))?, scaling, limit, dim })
}

/// How the RoPE settings `p`, the value of `field`, stretch frequencies, and up to which length.
pub(super) fn scaling(
    settings: &mut Settings<'_>,
    p: &Object<'_>,
    field: &str,
    context: usize,
) -> Result<(RopeScaling, Option<ContextLimit>)> {
    let kind = p.opt_str("rope_type")?.or(p.opt_str("type")?).unwrap_or("default");
    let mut limit = None;
    let scaling = match kind {
        "default" => RopeScaling::None,
        "dynamic" => {
            limit = Some(ContextLimit { positions: context, reason: LimitReason::DynamicRope });
            RopeScaling::None
        }
        "longrope" => {
            let (scaling, original) = long_rope(settings, p, context)?;
            let reason = LimitReason::LongRope;
            limit = (original < context).then_some(ContextLimit { positions: original, reason });
            scaling
        }
        "linear" => RopeScaling::Linear(number(p, "factor")?),
        "llama3" => RopeScaling::Llama3 {
            factor: number(p, "factor")?,
            low_freq_factor: number(p, "low_freq_factor")?,
            high_freq_factor: number(p, "high_freq_factor")?,
            original_context: original_context(settings, p, context)?,
        },
        "yarn" => RopeScaling::Yarn(yarn(settings, p, context)?),
        other => {
            let problem = format!(
                "{other:?} is not supported; default, linear, dynamic, yarn, longrope and llama3 are"
            );
            return Err(p.bad(&format!("{field}.rope_type"), problem));
        }
    };
    Ok((scaling, limit))
}

/// The settings of LongRoPE up to the original context, and that context.
fn long_rope(
    settings: &mut Settings<'_>,
    p: &Object<'_>,
    context: usize,
) -> Result<(RopeScaling, usize)> {
    let original = original_context(settings, p, context)?;
    let numbers = |field: &str| -> Result<Arc<[f32]>> {
        let array = p.get(field).and_then(Value::as_array);
        let numbers: Option<Arc<[f32]>> =
            array.and_then(|array| array.iter().map(|x| Some(x.as_f64()? as f32)).collect());
        numbers.ok_or_else(|| p.bad(field, "missing, or not a list of numbers".into()))
    };
    let usual = match p.opt_f32("factor")? {
        Some(factor) => LongRopeScaling::magnitude(factor * original, original),
        None => LongRopeScaling::magnitude(context as f32, original),
    };
    let scaling = LongRopeScaling {
        short_factors: numbers("short_factor")?,
        long_factors: Some(numbers("long_factor")?),
        attention_factor: p.opt_f32("attention_factor")?.unwrap_or(usual),
    };
    Ok((RopeScaling::LongRope(scaling), original as usize))
}

/// The settings of YaRN, with the defaults of transformers.
fn yarn(settings: &mut Settings<'_>, p: &Object<'_>, context: usize) -> Result<YarnScaling> {
    let original_context = original_context(settings, p, context)?;
    let factor = p.opt_f32("factor")?.unwrap_or(context as f32 / original_context);
    let given = |field: &str| -> Result<Option<f32>> {
        Ok(p.opt_f32(field)?.filter(|&value| value != 0.0))
    };
    let attention_factor =
        match (p.opt_f32("attention_factor")?, given("mscale")?, given("mscale_all_dim")?) {
            (Some(factor), ..) => factor,
            (None, Some(above), Some(below)) => {
                YarnScaling::magnitude(factor, above) / YarnScaling::magnitude(factor, below)
            }
            _ => YarnScaling::magnitude(factor, 1.0),
        };
    Ok(YarnScaling {
        factor,
        original_context,
        beta_fast: given("beta_fast")?.unwrap_or(YarnScaling::BETA_FAST),
        beta_slow: given("beta_slow")?.unwrap_or(YarnScaling::BETA_SLOW),
        truncate: p.opt_bool("truncate")?.unwrap_or(true),
        attention_factor,
    })
}

/// Components of a head that are rotated, by the RoPE settings or by the file itself.
pub(super) fn rotated(
    settings: &Settings<'_>,
    parameters: Option<&Object<'_>>,
    head_dim: usize,
) -> Result<usize> {
    const FIELD: &str = "partial_rotary_factor";
    let o = settings.object;
    let own = parameters.map(|p| p.opt_f32(FIELD)).transpose()?.flatten();
    let given = own.or(o.opt_f32(FIELD)?);
    if !settings.class.architecture.table().partial_rope {
        return match given.filter(|&factor| factor != 1.0) {
            Some(_) => Err(o.bad(FIELD, "rotating a part of a head is not supported".into())),
            None => Ok(head_dim),
        };
    }
    // The default of Qwen3_5TextConfig.
    let factor = given.unwrap_or(0.25);
    let dim = (head_dim as f32 * factor) as usize;
    if !(factor > 0.0 && factor <= 1.0) || dim == 0 || !dim.is_multiple_of(2) {
        let problem = format!("{factor} of {head_dim} components is not an even number of them");
        return Err(o.bad(FIELD, problem));
    }
    Ok(dim)
}

/// The base: that of the RoPE settings, else `rope_theta`, else the default of the class.
fn theta(settings: &mut Settings<'_>, parameters: Option<&Value>) -> Result<f32> {
    let file = settings.object.file;
    let own = parameters.map(|value| Object { file, value }.opt_f32("rope_theta")).transpose()?;
    match own.flatten() {
        Some(theta) => Ok(theta),
        None => settings.number("rope_theta", settings.class.rope_theta),
    }
}

/// The context of the first training, before RoPE was stretched: a field of the file itself comes before one of the RoPE
/// settings, as in transformers; without either it is the trained length.
fn original_context(settings: &mut Settings<'_>, p: &Object<'_>, context: usize) -> Result<f32> {
    const FIELD: &str = "original_max_position_embeddings";
    match settings.object.opt_f32(FIELD)?.or(p.opt_f32(FIELD)?) {
        Some(original) => Ok(original),
        None => {
            settings.assume(FIELD, format_args!("max_position_embeddings, {context}"));
            Ok(context as f32)
        }
    }
}

fn number(p: &Object<'_>, field: &str) -> Result<f32> {
    p.opt_f32(field)?.ok_or_else(|| p.bad(field, "missing in the RoPE settings".into()))
}

//! The frequencies of RoPE in `config.json`.

use serde_json::Value;

use super::class_defaults::Settings;
use super::json_object::Object;
use crate::Result;
use crate::models::RopeScaling;

/// RoPE of a Hugging Face checkpoint.
pub(super) struct HfRope {
    pub(super) theta: f32,
    pub(super) scaling: RopeScaling,
    /// Whether the frequencies change beyond the trained length.
    pub(super) dynamic: bool,
}

/// Reads `rope_scaling` or `rope_parameters`, and `rope_theta`; `context` is the trained length.
pub(super) fn rope(settings: &mut Settings<'_>, context: usize) -> Result<HfRope> {
    let o = settings.object;
    refuse_partial(o)?;
    // transformers 5 keeps everything in `rope_parameters`, earlier versions in two fields. It prefers the older one.
    let found = ["rope_scaling", "rope_parameters"].into_iter().find_map(|field| {
        let value = o.get(field)?;
        (value.as_object().is_none_or(|object| !object.is_empty())).then_some((field, value))
    });
    let Some((field, value)) = found else {
        let theta = theta(settings, None)?;
        return Ok(HfRope { theta, scaling: RopeScaling::None, dynamic: false });
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
    refuse_partial(&p)?;
    let kind = p.opt_str("rope_type")?.or(p.opt_str("type")?).unwrap_or("default");
    let scaling = match kind {
        "default" | "dynamic" => RopeScaling::None,
        "linear" => RopeScaling::Linear(number(&p, "factor")?),
        "llama3" => RopeScaling::Llama3 {
            factor: number(&p, "factor")?,
            low_freq_factor: number(&p, "low_freq_factor")?,
            high_freq_factor: number(&p, "high_freq_factor")?,
            original_context: original_context(settings, &p, context)?,
        },
        other => {
            let problem =
                format!("{other:?} is not supported; default, linear, dynamic and llama3 are");
            return Err(p.bad(&format!("{field}.rope_type"), problem));
        }
    };
    Ok(HfRope { theta: theta(settings, Some(value))?, scaling, dynamic: kind == "dynamic" })
}

fn refuse_partial(o: &Object<'_>) -> Result<()> {
    if o.opt_f32("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
        let problem = "rotating a part of a head is not supported";
        return Err(o.bad("partial_rotary_factor", problem.into()));
    }
    Ok(())
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

/// The context of Llama 3's first training: a field of the file itself comes before one of the RoPE settings, as in
/// transformers; without either it is the trained length.
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

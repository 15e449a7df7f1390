//! Which earlier tokens each layer attends to by `config.json`: all of them, or those of a window.

use super::class_defaults::Settings;
use crate::Result;
use crate::models::LocalAttention;

/// The layers that attend to a window; `None` if there are none.
///
/// # Errors
/// [`crate::InferenceError::Config`] for a kind of attention that is not supported.
pub(super) fn windows(
    settings: &mut Settings<'_>,
    layers: usize,
) -> Result<Option<LocalAttention>> {
    let o = settings.object;
    let may_slide = settings.class.architecture.table().sliding_window;
    let window = o.opt_usize("sliding_window")?;
    let uses_window = o.opt_bool("use_sliding_window")?;
    if settings.class.architecture.table().recurrent {
        return Ok(None);
    }
    let types = o.opt_strings("layer_types")?;
    let slides: Vec<bool> = match &types {
        None if may_slide => {
            let first = o.opt_usize("max_window_layers")?.unwrap_or(28);
            (0..layers).map(|layer| layer >= first).collect()
        }
        None => Vec::new(),
        Some(types) => {
            if types.len() != layers {
                let problem = format!("{} of them for {layers} layers", types.len());
                return Err(o.bad("layer_types", problem));
            }
            let known = ["full_attention", "attention", "sliding_attention"];
            if let Some(other) = types.iter().find(|kind| !known.contains(kind)) {
                let problem =
                    format!("{other:?} is not supported; full_attention and sliding_attention are");
                return Err(o.bad("layer_types", problem));
            }
            types.iter().map(|kind| *kind == "sliding_attention").collect()
        }
    };
    let sliding = slides.contains(&true);
    if !may_slide {
        if sliding {
            let problem = format!("{} has no sliding_attention", settings.class.name);
            return Err(o.bad("layer_types", problem));
        }
        if let Some(window) = window {
            settings.assumptions.push(format!(
                "{}: sliding_window {window} has no effect, as {} attends to all tokens",
                o.file, settings.class.name
            ));
        }
        return Ok(None);
    }
    match (sliding, uses_window == Some(true)) {
        (false, _) => Ok(None),
        (true, true) => {
            // null switches the window off; absence stands for the default of the class.
            let window = match window {
                None if o.value.get("sliding_window").is_none() => {
                    settings.assume("sliding_window", 4096);
                    Some(4096)
                }
                other => other,
            };
            match window {
                Some(0) => Err(o.bad("sliding_window", "0; a window has at least 1 token".into())),
                None if types.is_some() => {
                    let problem = "null, but layer_types names sliding_attention";
                    Err(o.bad("sliding_window", problem.into()))
                }
                None => Ok(None),
                Some(positions) => {
                    let layers = slides.into();
                    Ok(Some(LocalAttention { positions, layers, rope_theta: None }))
                }
            }
        }
        (true, false) if types.is_some() => {
            let problem = "sliding_attention, but use_sliding_window is not true";
            Err(o.bad("layer_types", problem.into()))
        }
        (true, false) => Ok(None),
    }
}

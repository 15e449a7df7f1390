//! Mixtures of experts, and layers that attend to a window, in `config.json` (`MapleForCausalLM`).

use super::class_defaults::Settings;
use crate::Result;
use crate::models::{LocalAttention, MixtureConfig};

/// What bounds the gates of experts: a constant of the model's code, which has no field for it.
const LIMIT: f32 = 7.0;

/// Which layers attend to a window, where only such layers have RoPE.
pub(super) fn local_attention(
    settings: &mut Settings<'_>,
    layers: usize,
) -> Result<LocalAttention> {
    let (o, table) = (settings.object, settings.class.architecture.table());
    const NOPE: &str = "nope_on_global_attention";
    if o.opt_bool(NOPE)? != Some(true) {
        let problem = "not true: layers that attend to all tokens have no RoPE here".to_owned();
        return Err(o.bad(NOPE, problem));
    }
    let Some(types) = o.opt_strings("layer_types")? else {
        let problem = "missing; it says which layers attend to a window".to_owned();
        return Err(o.bad("layer_types", problem));
    };
    if types.len() != layers {
        let problem = format!("{} of them for {layers} layers", types.len());
        return Err(o.bad("layer_types", problem));
    }
    let is_local = |kind: &&str| match *kind {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => {
            let problem =
                format!("{other:?} is not supported; full_attention and sliding_attention are");
            Err(o.bad("layer_types", problem))
        }
    };
    let layers = types.iter().map(is_local).collect::<Result<Vec<_>>>()?;
    let window = settings.count("sliding_window", 512)?;
    if window == 0 {
        return Err(o.bad("sliding_window", "0; a window has at least 1 token".into()));
    }
    let positions = window.saturating_add(table.window_beyond);
    Ok(LocalAttention { positions, layers: layers.into(), rope_theta: None })
}

/// The mixtures of a family that has them.
pub(super) fn mixture(settings: &mut Settings<'_>, layers: usize) -> Result<Option<MixtureConfig>> {
    if !settings.class.architecture.table().experts {
        return Ok(None);
    }
    let experts = settings.count("num_experts", 256)?;
    let used = settings.count("num_experts_per_tok", 8)?;
    let o = settings.object;
    if experts == 0 {
        return Err(o.bad("num_experts", "0; a layer has at least one expert".into()));
    }
    if !(1..=experts).contains(&used) {
        let problem = format!("{used} of {experts} experts");
        return Err(o.bad("num_experts_per_tok", problem));
    }
    Ok(Some(MixtureConfig { experts, used, limits: vec![LIMIT; layers].into() }))
}

//! Layers that draft tokens (multi-token prediction) in Hugging Face folders: the tensors `mtp.*`.

use bitnet_formats::names::DRAFT_MODULE;
use bitnet_formats::safetensors::SafeTensors;
use serde_json::Value;

use super::hf_config::HfConfig;
use super::json_object::Object;
use super::{DraftSource, LoadOptions, NormForm};
use crate::{InferenceError, Result};

/// Most layers of a file that draft tokens.
const MAX_LAYERS: usize = 64;
/// Tables that such layers may have in place of the model's own.
const OWN_TABLES: [&str; 2] = ["embed_tokens.weight", "lm_head.weight"];

/// The name of a tensor in the module of these layers; `None` for other tensors.
fn in_module(name: &str) -> Option<&str> {
    name.strip_prefix("language_model.").unwrap_or(name).strip_prefix(DRAFT_MODULE)
}

/// Sets how many layers that draft tokens the file has and how many are read, for families that have such layers. Files
/// often lack them, though their settings count them: these draft nothing.
///
/// # Errors
/// [`InferenceError::Config`] naming `mtp_num_hidden_layers` if the file has other layers,
/// [`InferenceError::Unsupported`] if they are to be read and have tables of their own, or norms of an unknown form.
pub(super) fn read_drafts(
    config: &mut HfConfig,
    tensors: &SafeTensors,
    json: &Value,
    norms: NormForm,
    options: &LoadOptions,
) -> Result<()> {
    if config.model.recurrent.is_none() {
        return Ok(());
    }
    let numbers = tensors
        .names()
        .filter_map(in_module)
        .filter_map(|name| name.strip_prefix("layers.")?.split_once('.')?.0.parse::<usize>().ok());
    let Some(last) = numbers.max() else { return Ok(()) };
    let found = last.saturating_add(1);
    let text = json.get("text_config").filter(|text| text.is_object()).unwrap_or(json);
    let o = Object { file: tensors.name(), value: text };
    let declared = o.opt_usize("mtp_num_hidden_layers")?.unwrap_or(found);
    if declared != found || found > MAX_LAYERS {
        let problem = format!(
            "{declared}, but the file has {found} layers that draft tokens (mtp.layers.*); 1 to {MAX_LAYERS} are read"
        );
        return Err(o.bad("mtp_num_hidden_layers", problem));
    }
    let is_read = options.draft == DraftSource::Own;
    if is_read && norms == NormForm::Multiplier {
        let name = tensors.names().find(|name| in_module(name).is_some()).unwrap_or(DRAFT_MODULE);
        let what = format!(
            "{}: {name}: whether the norms of layers that draft tokens are stored with their offset is not known in folders \
             of MLX",
            tensors.name()
        );
        return Err(InferenceError::unsupported(
            what,
            "--draft ngram is; or remove the tensors mtp.*",
        ));
    }
    config.model.draft_layers = found;
    config.model.drafts_read = usize::from(is_read);
    let declares_tables = o.opt_bool("mtp_use_dedicated_embeddings")? == Some(true);
    let table =
        tensors.names().find(|name| in_module(name).is_some_and(|own| OWN_TABLES.contains(&own)));
    if is_read && (declares_tables || table.is_some()) {
        let table = table.unwrap_or("mtp_use_dedicated_embeddings");
        let what = format!("{}: {table}: a table of its own for drafts", tensors.name());
        return Err(InferenceError::unsupported(what, "--draft ngram is"));
    }
    Ok(())
}

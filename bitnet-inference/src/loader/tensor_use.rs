//! Which tensors of a checkpoint the engine reads: names of the rest,
//! and files with other layers than their settings say.

use std::collections::HashSet;

use bitnet_formats::names::{Part, Role, TensorName, strip_text_prefix};

use super::Checkpoint;
use crate::models::{ModelConfig, TensorSpec, tensors};
use crate::{InferenceError, Result};

/// The weight of every linear layer of a model of these settings.
pub(super) fn linears(config: &ModelConfig) -> impl Iterator<Item = TensorSpec> {
    let is_linear = |t: &TensorSpec| t.name.role.is_projection() && t.name.part == Part::Weight;
    tensors(config).into_iter().filter(is_linear)
}

/// Names of the file's tensors that nothing reads, in file order.
pub(super) fn unused(checkpoint: &dyn Checkpoint) -> Vec<String> {
    let is_tied = checkpoint.tied() == Some(true);
    let used: HashSet<String> = tensors(checkpoint.config())
        .iter()
        .filter(|tensor| !(is_tied && tensor.name.role == Role::Output))
        .filter(|tensor| tensor.name.role != Role::RopeLongFactors)
        .flat_map(|tensor| checkpoint.stored_names(&tensor.name.stem()))
        .collect();
    checkpoint.tensor_names().into_iter().filter(|name| !used.contains(name)).collect()
}

/// Tensors that files carry though nothing here reads them: tables of rotary angles, which follow from the settings, and
/// the factors of sequences that are longer than any that are run.
fn is_rotary_table(name: &str) -> bool {
    ["attn_rot_embd.weight", "rotary_emb.inv_freq", "rope_factors_long.weight"]
        .iter()
        .any(|table| name.ends_with(table))
}

/// Refuses a file with a tensor that the architecture does not have: its author's program computes something with it.
///
/// llama.cpp refuses such GGUF files as well ("wrong number of tensors").
///
/// # Errors
/// [`InferenceError::UnknownTensor`] naming the first.
pub(super) fn refuse_unknown(checkpoint: &dyn Checkpoint) -> Result<()> {
    let config = checkpoint.config();
    let drafts = config.layers..config.layers + config.draft_layers;
    let is_of_draft = |name: &str| layer_of(name).is_some_and(|layer| drafts.contains(&layer));
    let has_use = |name: &String| !is_rotary_table(name) && !is_of_draft(name);
    match unused(checkpoint).into_iter().find(has_use) {
        None => Ok(()),
        Some(tensor) => Err(InferenceError::UnknownTensor {
            file: checkpoint.file().into(),
            tensor,
            architecture: checkpoint.config().architecture.to_string(),
        }),
    }
}

/// Checks that the file's layers are those that its settings announce.
///
/// # Errors
/// [`InferenceError::Config`] naming the setting and a tensor.
pub(super) fn check_layers(checkpoint: &dyn Checkpoint) -> Result<()> {
    let declared = checkpoint.config().layers;
    let drafts = declared..declared + checkpoint.config().draft_layers;
    let names = checkpoint.tensor_names();
    let numbered = names.iter().filter_map(|name| Some((layer_of(name)?, name)));
    let numbered = numbered.filter(|(layer, _)| !drafts.contains(layer));
    let Some((last, name)) = numbered.max_by_key(|(layer, _)| *layer) else { return Ok(()) };
    let problem = if last >= declared {
        format!(
            "{declared}, but the file has {} layers (tensor {name}); correct the number, or remove the tensors the \
             model does not have",
            last.saturating_add(1)
        )
    } else if last.saturating_add(1) < declared {
        let absent = checkpoint.name_in_file(&format!("blk.{}.attn_q", last + 1));
        format!("{declared}, but the file has {} layers ({absent} is missing)", last + 1)
    } else {
        return Ok(());
    };
    Err(InferenceError::config(checkpoint.file(), &checkpoint.layers_field(), problem))
}

/// Checks that tensors of plain numbers have the shapes that the settings
/// ask for; dimensions of 1 say nothing.
///
/// # Errors
/// [`InferenceError::TensorShape`] naming the first that differs.
pub(super) fn check_shapes(checkpoint: &dyn Checkpoint) -> Result<()> {
    fn significant(shape: &[usize]) -> Vec<usize> {
        shape.iter().copied().filter(|&dim| dim != 1).collect()
    }
    for TensorSpec { name, shape, .. } in tensors(checkpoint.config()) {
        let Some(stored) = checkpoint.stored_bytes(&name.stem())? else { continue };
        let dims = checkpoint.config().dims(name, shape);
        let is_stack = name.role.is_stacked();
        let checked = stored.storage.is_plain() || is_stack;
        if checked && significant(&stored.shape) != significant(&dims) {
            let (tensor, got) = (&stored.tensor, &stored.shape);
            let expected = if dims[0] == 1 && !is_stack { &dims[1..] } else { &dims[..] };
            return Err(InferenceError::shape(checkpoint.file(), tensor, got, expected));
        }
    }
    Ok(())
}

/// Checks that every ternary projection of a file in which some have norms on their inputs has its own.
///
/// # Errors
/// [`InferenceError::MissingTensor`] naming the first norm that is missing.
pub(super) fn check_input_norms(checkpoint: &dyn Checkpoint) -> Result<()> {
    let stored = |name: TensorName| checkpoint.stored_bytes(&name.stem());
    let mut missing = None;
    let mut has_norms = false;
    for TensorSpec { name, .. } in linears(checkpoint.config()) {
        let norm = name.with(Part::InputNorm);
        if stored(norm)?.is_some() {
            has_norms = true;
        } else if missing.is_none() && stored(name)?.is_some_and(|own| !own.storage.is_plain()) {
            missing = Some(norm.stem());
        }
    }
    match missing.filter(|_| has_norms) {
        None => Ok(()),
        Some(norm) => Err(checkpoint.missing(&norm)),
    }
}

/// The layer in a tensor's name: `model.layers.3.…`, `layers.3.…` or `blk.3.…`.
fn layer_of(name: &str) -> Option<usize> {
    let bare = strip_text_prefix(name);
    let rest = bare.strip_prefix("layers.").or_else(|| bare.strip_prefix("blk."))?;
    rest.split_once('.')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_numbers_are_read_from_names_of_both_kinds() {
        assert_eq!(layer_of("model.layers.12.mlp.up_proj.weight"), Some(12));
        assert_eq!(layer_of("layers.0.anything"), Some(0));
        assert_eq!(layer_of("blk.3.ffn_up.weight"), Some(3));
        for other in ["lm_head.weight", "mtp.layers.1.x", "blk.x.y", "blk.7", "layers."] {
            assert_eq!(layer_of(other), None, "{other}");
        }
    }
}

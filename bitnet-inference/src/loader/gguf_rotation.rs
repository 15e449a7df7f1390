//! Rotated weights of a GGUF file: the keys `prism.hadamard.*`, version 1. A file whose rotation is not understood in
//! full is refused: read without it, it would load and write nonsense.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bitnet_core::backend::Rotation;
use bitnet_formats::gguf::GgufFile;
use bitnet_formats::names::{Part, Role, TensorName};

use crate::models::{ModelConfig, WeightRotations, tensors};
use crate::{InferenceError, Result};

const PREFIX: &str = "prism.hadamard.";

/// The keys that are known.
const KEYS: [&str; 10] = [
    "version",
    "transform",
    "block_size",
    "axis",
    "sign_mode",
    "sign_widths",
    "sign_values",
    "weight_names",
    "inverse_weight_names",
    "gdn_v_grouped",
];

struct Keys<'a> {
    file: &'a GgufFile,
}

impl Keys<'_> {
    fn bad(&self, key: &str, problem: impl Into<String>) -> InferenceError {
        InferenceError::config(self.file.name(), &format!("{PREFIX}{key}"), problem.into())
    }

    /// Returns an error unless the text of a key is `expected`.
    fn expect(&self, key: &str, expected: &str) -> Result<()> {
        match self.file.metadata().get_str(&format!("{PREFIX}{key}"))? {
            found if found == expected => Ok(()),
            found => Err(self.bad(key, format!("{found:?} is not known; {expected} is"))),
        }
    }

    fn names(&self, key: &str) -> Result<Vec<&str>> {
        Ok(self.file.metadata().opt_array_str(&format!("{PREFIX}{key}"))?.unwrap_or_default())
    }
}

/// Returns the rotations that a file declares for a model of these settings; `None` if it declares none.
///
/// # Errors
/// [`InferenceError::Config`] naming the key that is missing, unknown or wrong.
pub(super) fn rotations(file: &GgufFile, config: &ModelConfig) -> Result<Option<WeightRotations>> {
    let (metadata, keys) = (file.metadata(), Keys { file });
    let mut found = metadata.iter().filter_map(|(key, _)| key.strip_prefix("prism.")).peekable();
    if found.peek().is_none() {
        return Ok(None);
    }
    for key in found {
        let known = key.strip_prefix("hadamard.").is_some_and(|key| KEYS.contains(&key));
        if !known {
            let problem = "is not known, and may change what the weights mean".to_owned();
            return Err(InferenceError::config(file.name(), &format!("prism.{key}"), problem));
        }
    }
    let version = metadata.get_u64(&format!("{PREFIX}version"))?;
    if version != 1 {
        return Err(keys.bad("version", format!("{version} is not known; 1 is")));
    }
    keys.expect("transform", "normalized-sylvester-walsh-hadamard")?;
    keys.expect("axis", "input-last-dimension")?;
    let (weights, embedding) = (rotated_weights(&keys, config)?, rotated_embedding(&keys)?);
    let mut widths: BTreeSet<usize> = weights.iter().map(|(_, width)| *width).collect();
    if embedding {
        widths.insert(config.hidden);
    }
    let by_width = rotations_of(&keys, &widths)?;
    let table =
        embedding.then(|| (TensorName::outside(Role::TokenEmbedding).stem(), config.hidden));
    let grouped_values = metadata.opt_bool(&format!("{PREFIX}gdn_v_grouped"))?.unwrap_or(false);
    let rotated = weights.into_iter().chain(table);
    let rotated = rotated.filter_map(|(name, width)| Some((name, by_width.get(&width)?.clone())));
    Ok(Some(WeightRotations { by_weight: rotated.collect(), grouped_values }))
}

/// The rotated weights with the widths of their inputs.
fn rotated_weights(keys: &Keys<'_>, config: &ModelConfig) -> Result<Vec<(String, usize)>> {
    const KEY: &str = "weight_names";
    let of_model: BTreeMap<String, usize> = tensors(config)
        .into_iter()
        .filter(|tensor| tensor.name.part == Part::Weight)
        .filter(|tensor| tensor.name.role.is_projection() || tensor.name.role == Role::Output)
        .map(|tensor| (tensor.name.stem(), tensor.shape[1]))
        .collect();
    let names = keys.names(KEY)?;
    if names.is_empty() {
        return Err(keys.bad(KEY, "missing; it lists the weights that are stored rotated"));
    }
    let weight = |name: &str| {
        let stem = TensorName::from_gguf(name).map(TensorName::stem);
        let width = stem.as_ref().and_then(|stem| of_model.get(stem));
        match (stem.clone(), width) {
            (Some(stem), Some(width)) => Ok((stem, *width)),
            _ => Err(keys
                .bad(KEY, format!("{} is not a linear layer of the model", name.escape_debug()))),
        }
    };
    names.into_iter().map(weight).collect()
}

fn rotated_embedding(keys: &Keys<'_>) -> Result<bool> {
    const KEY: &str = "inverse_weight_names";
    let names = keys.names(KEY)?;
    match names.iter().find(|name| **name != "token_embd.weight") {
        Some(other) => Err(keys.bad(
            KEY,
            format!(
                "{} is not the embedding table, the one weight that is rotated back",
                other.escape_debug()
            ),
        )),
        None => Ok(!names.is_empty()),
    }
}

/// The rotation of each width.
fn rotations_of(
    keys: &Keys<'_>,
    widths: &BTreeSet<usize>,
) -> Result<BTreeMap<usize, Arc<Rotation>>> {
    let metadata = keys.file.metadata();
    let block = metadata.get_u64(&format!("{PREFIX}block_size"))?;
    let block = usize::try_from(block).unwrap_or(usize::MAX);
    let mut signs = signs(keys)?;
    let mut by_width = BTreeMap::new();
    for &width in widths {
        let own = match &mut signs {
            None => vec![1.0; width],
            Some(signs) => signs.remove(&width).ok_or_else(|| {
                keys.bad("sign_widths", format!("has no signs for inputs of {width} components"))
            })?,
        };
        let rotation = Rotation::new(block, own)
            .map_err(|error| keys.bad("block_size", format!("{block}: {error}")))?;
        by_width.insert(width, Arc::new(rotation));
    }
    Ok(by_width)
}

/// The signs of each width; `None` if all are 1.
fn signs(keys: &Keys<'_>) -> Result<Option<BTreeMap<usize, Vec<f32>>>> {
    let metadata = keys.file.metadata();
    match metadata.get_str(&format!("{PREFIX}sign_mode"))? {
        "identity" => return Ok(None),
        "explicit" => {}
        other => {
            let problem = format!("{other:?} is not known; identity and explicit are");
            return Err(keys.bad("sign_mode", problem));
        }
    }
    let numbers = |key: &str| -> Result<Vec<i64>> {
        let value = metadata.value(&format!("{PREFIX}{key}"))?;
        let array = value.and_then(|value| value.as_array());
        let array = array.ok_or_else(|| keys.bad(key, "missing, or not a list"))?;
        let numbers: Option<Vec<i64>> = array.iter().map(|number| number.as_i64()).collect();
        numbers.ok_or_else(|| keys.bad(key, "not a list of whole numbers"))
    };
    let (widths, values) = (numbers("sign_widths")?, numbers("sign_values")?);
    let mut rest = &values[..];
    let mut by_width = BTreeMap::new();
    for width in widths {
        let taken = usize::try_from(width).ok().and_then(|width| rest.split_at_checked(width));
        let Some((own, tail)) = taken.filter(|(own, _)| !own.is_empty()) else {
            let problem = format!("{} signs are not those of all widths", values.len());
            return Err(keys.bad("sign_values", problem));
        };
        rest = tail;
        if let Some(other) = own.iter().find(|sign| sign.abs() != 1) {
            return Err(keys.bad("sign_values", format!("{other} is neither 1 nor -1")));
        }
        let signs = own.iter().map(|&sign| sign as f32).collect();
        if by_width.insert(own.len(), signs).is_some() {
            return Err(keys.bad("sign_widths", format!("{width} is there twice")));
        }
    }
    if rest.is_empty() {
        return Ok(Some(by_width));
    }
    Err(keys.bad("sign_values", format!("{} signs more than the widths say", rest.len())))
}

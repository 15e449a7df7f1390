//! Rotated weights of an MLX folder: `model_type` `prism_hadamard_qwen35`, whose `config.json` lists the packed modules
//! and whose tensors `{path}.signs` hold the signs. A folder whose rotation is not understood in full is refused: read
//! without it, it would load and write nonsense.
//!
//! Source: `mlx_lm/models/prism_hadamard_qwen35.py` of mlx-lm 0.32.2.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bitnet_core::backend::Rotation;
use bitnet_formats::architecture::ModelClass;
use bitnet_formats::names::{Part, Role, TensorName};
use bitnet_formats::safetensors::{Dtype, TensorView};
use serde_json::Value;

use super::Checkpoint;
use super::hf_config::module_of;
use super::huggingface::HfCheckpoint;
use super::json_object::Object;
use crate::models::{ModelConfig, RecurrentConfig, WeightRotations, tensors};
use crate::{InferenceError, Result};

/// The `model_type` of these folders.
pub const ROTATED_MODEL_TYPE: &str = "prism_hadamard_qwen35";
/// The blocks that its readers know beside 0, which stands for a module that is not rotated.
pub const ROTATED_BLOCKS: [usize; 5] = [512, 1024, 2048, 4096, 8192];
/// The settings `schema_version` and `tensor_namespace` that go together: text alone, and text with vision.
pub const ROTATED_SCHEMAS: [(usize, &str); 2] = [(1, "mlx-lm-text"), (2, "mlx-vlm-qwen3_5")];
/// The end of the names of tensors that hold signs.
const SIGNS: &str = ".signs";
/// The fields of a module.
const FIELDS: [&str; 4] = ["path", "block", "embedding", "dtype"];
/// Names of the model that the folder's layers are those of.
const BASES: [&str; 2] = ["qwen3_5", "qwen3_5_text"];

/// A module whose weights are packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackedModule {
    path: String,
    /// Inputs that are rotated together; 0 if none are.
    block: usize,
    embedding: bool,
}

/// Returns the packed modules that the settings list; `None` unless they are those of a rotated folder.
///
/// # Errors
/// [`InferenceError::Config`] naming the field that is missing, unknown or wrong.
pub(super) fn packed_modules(whole: &Object<'_>) -> Result<Option<Vec<PackedModule>>> {
    if whole.opt_str("model_type")? != Some(ROTATED_MODEL_TYPE) {
        return Ok(None);
    }
    let schema = whole.usize("schema_version")?;
    let Some((_, namespace)) = ROTATED_SCHEMAS.iter().find(|(version, _)| *version == schema)
    else {
        return Err(whole.bad("schema_version", format!("{schema} is not known; 1 and 2 are")));
    };
    for (field, known, needed) in [
        ("tensor_namespace", &[*namespace][..], true),
        ("gdn_activation_layout", &["grouped"], true),
        ("base_model_type", &BASES, false),
    ] {
        match whole.opt_str(field)? {
            Some(found) if known.contains(&found) => {}
            None if !needed => {}
            None => return Err(whole.bad(field, format!("missing; {} is known", known[0]))),
            Some(found) => {
                let problem =
                    format!("{found:?} is not known with schema {schema}; {} is", known[0]);
                return Err(whole.bad(field, problem));
            }
        }
    }
    let quantization = serde_json::json!({"bits": 2, "group_size": 128, "mode": "affine"});
    match whole.get("quantization") {
        Some(found) if *found == quantization => {}
        Some(_) => {
            let problem = format!("not {quantization}, the only one that is known here");
            return Err(whole.bad("quantization", problem));
        }
        None => return Err(whole.bad("quantization", format!("missing; it is {quantization}"))),
    }
    if !whole.get("text_config").is_some_and(Value::is_object) {
        return Err(whole.bad("text_config", "missing, or not an object".into()));
    }
    let Some(list) = whole.get("modules").and_then(Value::as_array).filter(|list| !list.is_empty())
    else {
        let problem = "missing, empty or not a list; it says which weights are rotated";
        return Err(whole.bad("modules", problem.into()));
    };
    let mut seen = BTreeSet::new();
    let mut modules = Vec::new();
    for (index, value) in list.iter().enumerate() {
        let module = packed_module(whole.file, index, value)?;
        if !seen.insert(module.path.clone()) {
            let problem = format!("{} is there twice", module.path.escape_debug());
            return Err(whole.bad(&field_of(index, "path"), problem));
        }
        modules.push(module);
    }
    Ok(Some(modules))
}

fn field_of(index: usize, field: &str) -> String {
    format!("modules[{index}].{field}")
}

fn packed_module(file: &str, index: usize, value: &Value) -> Result<PackedModule> {
    let bad = |field: &str, problem: String| {
        InferenceError::config(file, &field_of(index, field), problem)
    };
    let Some(fields) = value.as_object() else {
        return Err(InferenceError::config(file, &format!("modules[{index}]"), "not an object"));
    };
    if let Some(other) = fields.keys().find(|field| !FIELDS.contains(&field.as_str())) {
        let shown: String = other.chars().take(40).flat_map(char::escape_debug).collect();
        return Err(bad(&shown, "is not known, and may change what the weights mean".into()));
    }
    let wrong = |field: &str, kind: &str| bad(field, format!("missing, or not {kind}"));
    let path = fields.get("path").and_then(Value::as_str);
    let path = path.ok_or_else(|| wrong("path", "a string"))?.to_owned();
    let block = fields.get("block").and_then(Value::as_u64);
    let block = block.ok_or_else(|| wrong("block", "a whole number"))?;
    let known = usize::try_from(block).ok();
    let known = known.filter(|block| *block == 0 || ROTATED_BLOCKS.contains(block));
    let block = known.ok_or_else(|| {
        let problem = format!(
            "{block} of {} is not known; 0 and {ROTATED_BLOCKS:?} are",
            path.escape_debug()
        );
        bad("block", problem)
    })?;
    let embedding = fields.get("embedding").and_then(Value::as_bool);
    let embedding = embedding.ok_or_else(|| wrong("embedding", "true or false"))?;
    match fields.get("dtype").and_then(Value::as_str) {
        Some("float16") => Ok(PackedModule { path, block, embedding }),
        Some(other) => Err(bad("dtype", format!("{other:?} is not known; float16 is"))),
        None => Err(wrong("dtype", "a string")),
    }
}

/// Checks that the kinds of layers are those of `full_attention_interval`, which alone decides in mlx-lm.
///
/// # Errors
/// [`InferenceError::Config`] naming the field.
pub(super) fn check_interval(text: &Object<'_>, recurrent: &RecurrentConfig) -> Result<()> {
    const FIELD: &str = "full_attention_interval";
    let every = text.opt_usize(FIELD)?.unwrap_or(4);
    let layers = recurrent.kinds.len();
    if every > 0 && *recurrent.kinds == RecurrentConfig::kinds_by_interval(layers, every)[..] {
        return Ok(());
    }
    Err(text.bad(FIELD, format!("{every} does not give the kinds of layers of layer_types")))
}

/// Returns the rotations of a folder's weights; `None` if it has none.
///
/// # Errors
/// [`InferenceError::Config`] naming the field or tensor that is wrong, [`InferenceError::MissingTensor`],
/// [`InferenceError::TensorShape`] for signs of another length.
pub(super) fn rotations(checkpoint: &HfCheckpoint) -> Result<Option<WeightRotations>> {
    let bad = |field: &str, problem: String| {
        let file = checkpoint.folder.join("config.json").display().to_string();
        InferenceError::config(&file, field, problem)
    };
    let mut unused: BTreeSet<String> = checkpoint
        .tensors
        .names()
        .filter(|name| name.ends_with(SIGNS))
        .map(str::to_owned)
        .collect();
    let Some(modules) = &checkpoint.config.packed else {
        let problem = |name: &String| {
            format!(
                "{name} says that weights are stored rotated, which is read with {ROTATED_MODEL_TYPE}"
            )
        };
        return unused.first().map_or(Ok(None), |name| Err(bad("model_type", problem(name))));
    };
    if checkpoint.config.tied == Some(true)
        && let Some(head) = checkpoint.find("output").filter(|head| head.name.contains("lm_head"))
    {
        return Err(bad("tie_word_embeddings", format!("true, but the file has {}", head.name)));
    }
    let widths = widths(&checkpoint.config.model);
    let mut listed = BTreeSet::new();
    let mut known: Vec<Arc<Rotation>> = Vec::new();
    let mut by_weight = BTreeMap::new();
    for (index, module) in modules.iter().enumerate() {
        let PackedModule { path, block, embedding } = module;
        let bad = |field: &str, problem: String| bad(&field_of(index, field), problem);
        let name = linear_at(path, &checkpoint.config.class);
        let width = name.and_then(|name| widths.get(&name.stem()));
        let (Some(name), Some(&width)) = (name, width) else {
            let problem = format!(
                "{} is neither a linear layer of the model nor its table",
                path.escape_debug()
            );
            return Err(bad("path", problem));
        };
        if *embedding != (name.role == Role::TokenEmbedding) {
            return Err(bad("embedding", format!("{embedding}, which {path} is not")));
        }
        let tensor = checkpoint.find(&name.stem());
        let tensor = tensor.ok_or_else(|| checkpoint.missing(&name.stem()))?;
        if tensor.dtype != Dtype::U32 {
            let problem =
                format!("{} is of type {}, not packed (U32)", tensor.name, tensor.dtype.name());
            return Err(bad("path", problem));
        }
        listed.insert(name.stem());
        if *block == 0 {
            continue;
        }
        if !width.is_multiple_of(*block) {
            return Err(bad(
                "block",
                format!("{block} does not divide the {width} inputs of {path}"),
            ));
        }
        let signs = format!("{}{SIGNS}", tensor.name.trim_end_matches(".weight"));
        unused.remove(&signs);
        let signs = signs_of(checkpoint, &checkpoint.tensors.tensor(&signs)?, width)?;
        let same = known.iter().find(|other| other.block() == *block && other.signs() == signs);
        let rotation = match same {
            Some(rotation) => rotation.clone(),
            None => {
                let new = Rotation::new(*block, signs);
                Arc::new(new.map_err(|error| bad("block", format!("{block}: {error}")))?)
            }
        };
        known.push(rotation.clone());
        by_weight.insert(name.stem(), rotation);
    }
    if let Some(name) = unused.first() {
        return Err(bad("modules", format!("{name} belongs to none with a block")));
    }
    for stem in widths.keys().filter(|stem| !listed.contains(*stem)) {
        if let Some(tensor) = checkpoint.find(stem).filter(|tensor| tensor.dtype == Dtype::U32) {
            let problem = format!(
                "{} is packed, and not among them: whether it is rotated is unknown",
                tensor.name
            );
            return Err(bad("modules", problem));
        }
    }
    let is_output = |stem: &String| {
        TensorName::from_stem(stem).is_some_and(|name| name.role == Role::DeltaOutput)
    };
    let grouped_values = by_weight.keys().any(is_output);
    let found = WeightRotations { by_weight, grouped_values };
    Ok((!found.by_weight.is_empty()).then_some(found))
}

/// The weights that a module may hold, with the widths of their inputs; of the table, of its rows.
fn widths(config: &ModelConfig) -> BTreeMap<String, usize> {
    let is_meant =
        |role: Role| role.is_projection() || matches!(role, Role::Output | Role::TokenEmbedding);
    tensors(config)
        .into_iter()
        .filter(|tensor| tensor.name.part == Part::Weight && is_meant(tensor.name.role))
        .map(|tensor| (tensor.name.stem(), tensor.shape[1]))
        .collect()
}

/// The weight of the module at a path.
fn linear_at(path: &str, class: &str) -> Option<TensorName> {
    let name = TensorName::from_hf(&format!("{path}.weight"))?;
    let own = module_of(name, ModelClass::named(class)?)?;
    (own == path).then_some(name)
}

/// The numbers of a tensor of signs, of which there are `width`.
fn signs_of(checkpoint: &HfCheckpoint, tensor: &TensorView, width: usize) -> Result<Vec<f32>> {
    if tensor.shape != [width] {
        return Err(checkpoint.shape_error(tensor, &[width]));
    }
    let signs = match tensor.dtype {
        Dtype::I8 => tensor.data.iter().map(|&sign| f32::from(sign as i8)).collect(),
        _ => checkpoint.numbers(tensor, width)?,
    };
    match signs.iter().position(|sign| sign.abs() != 1.0) {
        None => Ok(signs),
        Some(index) => {
            let problem = format!("number {index} is {}; signs are 1 and -1", signs[index]);
            Err(InferenceError::config(checkpoint.file(), &tensor.name, problem))
        }
    }
}

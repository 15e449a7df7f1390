//! Rotated weights in both containers: the keys `prism.hadamard.*` of GGUF files, and the modules of MLX folders.

use std::collections::BTreeMap;
use std::sync::Arc;

use bitnet_core::backend::{HeadOrder, Rotation};
use bitnet_formats::architecture::ModelClass;
use bitnet_formats::gguf::{GgufWriter, Value};
use bitnet_formats::names::{Part, Role, TensorName};
use bitnet_inference::ModelFiles;
use bitnet_inference::loader::{Container, ROTATED_BLOCKS, ROTATED_MODEL_TYPE, ROTATED_SCHEMAS};
use bitnet_inference::models::{self, ModelConfig, WeightRotations};
use serde_json::{Value as Json, json};

use crate::options::Target;
use crate::plan::{Plan, Recipe};
use crate::tensors::{self, Kind};
use crate::{Error, Result};

const PREFIX: &str = "prism.hadamard.";

/// Refuses rotated weights and recurrent layers that a target cannot say.
pub(crate) fn refuse_unsayable(files: &ModelFiles, target: Target) -> Result<()> {
    let config = files.config();
    if target == Target::Mlx
        && config.recurrent.as_ref().is_some_and(|found| found.interval().is_none())
    {
        let problem = "MLX's programs know layers by full_attention_interval alone, and this model's have none: write a GGUF \
                       file, or --to hf-dense";
        return Err(Error::refused(format!("{}: layer_types", files.name()), problem));
    }
    let Some(rotations) = config.rotations.as_deref() else { return Ok(()) };
    match target {
        Target::HuggingFace | Target::Dense => {
            let problem = "its weights are stored rotated, which only GGUF files and MLX folders can say: write a GGUF file, \
                           or --to mlx";
            Err(Error::refused(files.name(), problem))
        }
        Target::Gguf if matches!(files.container(), Container::Gguf(_)) => Ok(()),
        Target::Gguf => common(config, rotations).map(|_| ()),
        Target::Mlx => refuse_for_mlx(files, config, rotations),
    }
}

fn refuse_for_mlx(
    files: &ModelFiles,
    config: &ModelConfig,
    rotations: &WeightRotations,
) -> Result<()> {
    for (stem, rotation) in &rotations.by_weight {
        if !ROTATED_BLOCKS.contains(&rotation.block()) {
            let problem = format!(
                "{stem} is rotated in blocks of {}, and MLX's programs read {ROTATED_BLOCKS:?}: write a GGUF file",
                rotation.block()
            );
            return Err(Error::refused(format!("{}: {PREFIX}block_size", files.name()), problem));
        }
    }
    let is_tiled = config.recurrent.as_ref().is_some_and(|found| found.order == HeadOrder::Tiled);
    if is_tiled
        && !rotations.grouped_values
        && rotations.by_weight.keys().any(|stem| is_delta_output(stem))
    {
        let problem = "false, and MLX folders hold these inputs grouped, which rotated weights do not follow: write a GGUF file";
        return Err(Error::refused(format!("{}: {PREFIX}gdn_v_grouped", files.name()), problem));
    }
    Ok(())
}

fn is_delta_output(stem: &str) -> bool {
    let is_meant = |name: TensorName| name.role == Role::DeltaOutput && name.part == Part::Weight;
    TensorName::from_stem(stem).is_some_and(is_meant)
}

/// What the keys of a GGUF file say about all weights at once: the block, and the signs of each width.
struct Common<'a> {
    block: usize,
    signs: BTreeMap<usize, &'a Arc<Rotation>>,
}

/// Returns what all rotations have in common.
///
/// # Errors
/// [`Error::Refused`] naming a weight that differs from another one.
fn common<'a>(config: &ModelConfig, rotations: &'a WeightRotations) -> Result<Common<'a>> {
    let differs = |stem: &str, what: &str, other: &str| {
        let problem = format!(
            "its {what} differ from those of {other}, and a GGUF file says one for all: leave it as a folder"
        );
        Error::refused(format!("tensor {stem}"), problem)
    };
    let mut found: Option<(&String, usize)> = None;
    let mut signs: BTreeMap<usize, (&String, &Arc<Rotation>)> = BTreeMap::new();
    for (stem, rotation) in &rotations.by_weight {
        let (first, block) = *found.get_or_insert((stem, rotation.block()));
        if rotation.block() != block {
            return Err(differs(stem, "blocks", first));
        }
        let (first, other) = signs.entry(rotation.signs().len()).or_insert((stem, rotation));
        if other.signs() != rotation.signs() {
            return Err(differs(stem, "signs", first));
        }
    }
    // One key speaks of the inputs of all output projections of recurrent layers.
    let all = models::tensors(config).into_iter().map(|tensor| tensor.name.stem());
    let outputs: Vec<String> = all.filter(|stem| is_delta_output(stem)).collect();
    if let Some(plain) = outputs.iter().find(|stem| !rotations.by_weight.contains_key(*stem))
        && let Some(rotated) = outputs.iter().find(|stem| rotations.by_weight.contains_key(*stem))
    {
        return Err(differs(plain, "inputs (not rotated)", rotated));
    }
    let block = found.map_or(0, |(_, block)| block);
    let signs = signs.into_iter().map(|(width, (_, rotation))| (width, rotation)).collect();
    Ok(Common { block, signs })
}

/// Writes the keys of a folder's rotated weights.
pub(crate) fn rotation_keys(writer: &mut GgufWriter, files: &ModelFiles) -> Result<()> {
    let config = files.config();
    let Some(rotations) = config.rotations.as_deref() else { return Ok(()) };
    let Common { block, signs } = common(config, rotations)?;
    let name = |stem: &String| {
        let name =
            TensorName::from_stem(stem).and_then(|name| name.to_gguf_of(config.architecture));
        name.ok_or_else(|| Error::refused(stem, "GGUF has no name for this tensor"))
    };
    let table = TensorName::outside(Role::TokenEmbedding).stem();
    let (tables, weights): (Vec<&String>, Vec<&String>) =
        rotations.by_weight.keys().partition(|stem| **stem == table);
    let names = |stems: &[&String]| stems.iter().map(|stem| name(stem)).collect::<Result<Vec<_>>>();
    let key = |name: &str| format!("{PREFIX}{name}");
    let number = |what: usize| i32::try_from(what).unwrap_or(i32::MAX);
    writer.put(&key("version"), Value::U32(1))?;
    let transform = "normalized-sylvester-walsh-hadamard";
    writer.put(&key("transform"), Value::String(transform))?;
    writer.put(&key("block_size"), Value::U32(u32::try_from(block).unwrap_or(u32::MAX)))?;
    writer.put(&key("axis"), Value::String("input-last-dimension"))?;
    writer.put(&key("sign_mode"), Value::String("explicit"))?;
    let widths: Vec<i32> = signs.keys().map(|&width| number(width)).collect();
    writer.put_i32s(&key("sign_widths"), &widths)?;
    let values = signs.values().flat_map(|rotation| rotation.signs());
    let values: Vec<i32> = values.map(|&sign| if sign < 0.0 { -1 } else { 1 }).collect();
    writer.put_i32s(&key("sign_values"), &values)?;
    writer.put_strings(&key("weight_names"), &names(&weights)?)?;
    if !tables.is_empty() {
        writer.put_strings(&key("inverse_weight_names"), &names(&tables)?)?;
    }
    Ok(writer.put(&key("gdn_v_grouped"), Value::Bool(rotations.grouped_values))?)
}

/// Returns the `config.json` of an MLX folder of a model with recurrent layers from that of its text part: MLX's programs
/// read the settings of a part of a model that may see, and the modules of rotated weights beside them.
pub(crate) fn as_mlx_part(text: Json, files: &ModelFiles, plan: &Plan) -> Result<Json> {
    let mut whole = json!({});
    let Json::Object(mut text) = text else { return Ok(text) };
    for field in ["quantization", "quantization_config"] {
        if let Some(value) = text.remove(field) {
            whole[field] = value;
        }
    }
    for field in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(value) = text.get(field) {
            whole[field] = value.clone();
        }
    }
    if files.config().rotations.is_some() {
        let (schema, namespace) = ROTATED_SCHEMAS[0];
        whole["model_type"] = ROTATED_MODEL_TYPE.into();
        whole["base_model_type"] = "qwen3_5".into();
        whole["schema_version"] = schema.into();
        whole["tensor_namespace"] = namespace.into();
        whole["gdn_activation_layout"] = "grouped".into();
        whole["modules"] = modules(files, plan)?;
    } else {
        let class = ModelClass::all().find(|class| class.model_type == "qwen3_5");
        whole["architectures"] = class.map(|class| class.name).into_iter().collect();
        whole["model_type"] = "qwen3_5".into();
    }
    text.remove("architectures");
    whole["text_config"] = text.into();
    Ok(whole)
}

/// The modules that are packed; each rotated weight is among them.
fn modules(files: &ModelFiles, plan: &Plan) -> Result<Json> {
    let rotations = files.config().rotations.as_deref();
    let mut modules = Vec::new();
    for tensor in tensors::of(files)? {
        let recipe = plan.works.iter().find(|work| work.tensor == tensor).map(|work| &work.recipe);
        let rotation = rotations.and_then(|found| found.of(tensor.name));
        let Some(Recipe::Affine { part, .. }) = recipe else {
            if rotation.is_none() {
                continue;
            }
            let problem = "it is rotated, and MLX folders hold such weights packed: give it no type of its own";
            return Err(Error::refused(format!("tensor {}", tensor.stem()), problem));
        };
        let name = &plan.parts[*part].name;
        modules.push(json!({
            "path": name.strip_suffix(".weight").unwrap_or(name),
            "block": rotation.map_or(0, |rotation| rotation.block()),
            "embedding": tensor.kind == Kind::Embedding,
            "dtype": "float16",
        }));
    }
    Ok(modules.into())
}

//! Hugging Face output: `config.json`, safetensors files, and the side files of the source.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bitnet_formats::architecture::ModelClass;
use bitnet_formats::names::Part as NamePart;
use bitnet_formats::safetensors::{self, TensorSpec};
use bitnet_inference::loader::Container;
use bitnet_inference::models::RopeScaling;
use bitnet_inference::tokenizer::{GgufVocabulary, TokenizerError};
use bitnet_inference::{InferenceError, LoadOptions, ModelFiles};
use serde_json::{Value as Json, json};

use crate::gguf_target::chat_template;
use crate::hf_config::{config_of, shortest, text_alone, text_part, written_class};
use crate::options::{ConvertOptions, Target};
use crate::plan::{Part, PartType, Plan, PlannedFile, Planner, Recipe};
use crate::rotation::as_mlx_part;
use crate::side_files::{copied, read_json, read_side_file};
use crate::special_ids::SpecialIds;
use crate::tensors::ModelTensor;
use crate::{Error, Result};

/// The name of the weights file.
const WEIGHTS: &str = "model.safetensors";

/// What is said of models that also see.
const TEXT_ALONE: &str = "the result is the text part alone, without what reads images";

/// A side file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SideFile {
    /// Copied from the source.
    Copied { name: String, from: PathBuf },
    /// Generated.
    Made { name: String, text: String },
}

/// Plans a folder.
pub(crate) fn plan(
    files: &ModelFiles,
    options: &ConvertOptions,
    target: Target,
) -> Result<(Plan, Vec<PlannedFile>, Vec<SideFile>)> {
    let class = written_class(files);
    // A folder keeps its spelling of names, unless it becomes that of a part.
    let is_part = target == Target::Mlx && files.config().recurrent.is_some();
    let keeps_names = match files.container() {
        Container::HuggingFace { config, .. } => text_part(config).is_none() && !is_part,
        Container::Gguf(_) | Container::Onnx { .. } => false,
    };
    let layers = files.config().layers;
    if let RopeScaling::Factors(_) = files.config().rope_scaling {
        let problem = "its RoPE frequencies have a factor each (rope_freqs.weight), for which config.json has no field; \
                       write a .gguf file";
        return Err(Error::refused(files.name(), problem));
    }
    let names = |tensor: &ModelTensor| {
        let own = files.stored_bytes(&tensor.stem())?.filter(|_| keeps_names);
        own.map(|stored| stored.tensor).or_else(|| hf_name(tensor, class?, layers)).ok_or_else(
            || Error::refused(tensor.stem(), "safetensors folders have no name for this tensor"),
        )
    };
    let mut plan = Planner::plan(files, options, target, &names, false)?;
    let count = plan.share_out(options.split);
    let notes = [("format".to_owned(), "pt".to_owned())];
    let mut planned = Vec::with_capacity(count);
    for file in 0..count {
        let specs: Vec<TensorSpec> = plan.in_file(file).filter_map(spec).collect();
        let name = file_name(file, count);
        let layout = safetensors::layout(&name, &specs, &notes)?;
        plan.place(file, &layout.offsets);
        planned.push(PlannedFile { name, header: layout.header, len: layout.len });
    }
    let mut side = side_files(files, target, &mut plan)?;
    if count > 1 {
        side.push(index(&plan, &planned));
    }
    Ok((plan, planned, side))
}

/// Returns the name in a class's spelling. Input norms have the name of transformers' packed layers, `rms_norm`.
fn hf_name(tensor: &ModelTensor, class: &ModelClass, layers: usize) -> Option<String> {
    let name = tensor.name.to_hf_of(class, layers)?;
    match (tensor.name.part, name.strip_suffix(".norm.weight")) {
        (NamePart::InputNorm, Some(layer)) => Some(format!("{layer}.rms_norm.weight")),
        _ => Some(name),
    }
}

/// Returns whether layers have input norms.
fn has_input_norms(plan: &Plan) -> bool {
    plan.works.iter().any(|work| work.tensor.name.part == NamePart::InputNorm)
}

/// Returns the name of one file of weights.
fn file_name(file: usize, count: usize) -> String {
    if count == 1 {
        return WEIGHTS.to_owned();
    }
    format!("model-{:05}-of-{count:05}.safetensors", file + 1)
}

fn spec(part: &Part) -> Option<TensorSpec> {
    let PartType::Safetensors(dtype) = part.part_type else { return None };
    Some(TensorSpec { name: part.name.clone(), dtype, shape: part.shape.clone() })
}

/// Writes the index of a sharded result.
fn index(plan: &Plan, planned: &[PlannedFile]) -> SideFile {
    let bytes: u64 = plan.parts.iter().map(|part| part.nbytes).sum();
    let map: serde_json::Map<String, Json> = plan
        .parts
        .iter()
        .map(|part| (part.name.clone(), planned[part.file].name.as_str().into()))
        .collect();
    let index = json!({"metadata": {"total_size": bytes}, "weight_map": map});
    made(&format!("{WEIGHTS}.index.json"), &index)
}

fn side_files(files: &ModelFiles, target: Target, plan: &mut Plan) -> Result<Vec<SideFile>> {
    let (mut config, folder) = match files.container() {
        Container::HuggingFace { folder, config, .. } | Container::Onnx { folder, config, .. } => {
            let text = written_class(files).and_then(|class| text_alone(config, class));
            if text.is_some() {
                plan.remarks.push(TEXT_ALONE.into());
            }
            (text.unwrap_or_else(|| config.clone()), Some(folder))
        }
        Container::Gguf(_) => (config_of(files)?, None),
    };
    quantization_config(&mut config, files, target, plan)?;
    // Readers that rely on the flag would not read the head.
    if files.tied() == Some(false)
        && let Some(tied) = config.get_mut("tie_word_embeddings")
    {
        *tied = false.into();
    }
    if target == Target::Mlx && files.config().recurrent.is_some() {
        config = as_mlx_part(config, files, plan)?;
    }
    let mut out = vec![made("config.json", &config)];
    match folder {
        Some(folder) => out.extend(companions(files, folder)?),
        None => out.extend(vocabulary(files)?),
    }
    out.extend(generation_config(files));
    Ok(out)
}

/// Returns the side files of a folder. Separate chat templates go into `tokenizer_config.json`.
fn companions(files: &ModelFiles, folder: &Path) -> Result<Vec<SideFile>> {
    let present = |name: &str| {
        let from = folder.join(name);
        from.is_file().then(|| SideFile::Copied { name: name.into(), from })
    };
    let mut out: Vec<SideFile> = copied().filter_map(present).collect();
    if folder.join("additional_chat_templates").is_dir() {
        let text = files.text(&LoadOptions::default())?;
        let settings = read_json(&folder.join("tokenizer_config.json"))?;
        let mut settings = settings.filter(Json::is_object).unwrap_or_else(|| json!({}));
        let default = chat_template(folder, None)?;
        settings["chat_template"] = template_setting(default.as_deref(), &text.named_templates);
        out.retain(|file| !["tokenizer_config.json", "chat_template.jinja"].contains(&file.name()));
        out.push(made("tokenizer_config.json", &settings));
    }
    Ok(out)
}

fn made(name: &str, json: &Json) -> SideFile {
    let text = serde_json::to_string_pretty(json).unwrap_or_default() + "\n";
    SideFile::Made { name: name.to_owned(), text }
}

/// Returns the `chat_template` of a `tokenizer_config.json`: a text, or a list of names and texts.
fn template_setting(default: Option<&str>, named: &BTreeMap<String, String>) -> Json {
    if named.is_empty() {
        return default.into();
    }
    let named = named.iter().map(|(name, template)| (name.as_str(), template.as_str()));
    let entry = |(name, template)| json!({"name": name, "template": template});
    default.map(|template| ("default", template)).into_iter().chain(named).map(entry).collect()
}

/// Returns the vocabulary of a GGUF file as files of a folder.
fn vocabulary(files: &ModelFiles) -> Result<Vec<SideFile>> {
    let Container::Gguf(file) = files.container() else { return Ok(Vec::new()) };
    let metadata = file.metadata();
    if metadata.value("tokenizer.ggml.model")?.is_none() {
        return Ok(Vec::new());
    }
    let model = |error: TokenizerError| Error::from(InferenceError::from(error));
    let vocabulary = GgufVocabulary::from_metadata(metadata).map_err(model)?;
    let own = metadata.opt_str("tokenizer.chat_template")?;
    // Known broken templates that the engine replaces are replaced in the result as well.
    let text = files.text(&LoadOptions::default())?;
    let template = text.template.as_deref().or(own);
    let mut settings = vocabulary.to_tokenizer_config(template);
    if !text.named_templates.is_empty() {
        settings["chat_template"] = template_setting(template, &text.named_templates);
    }
    let ids = SpecialIds::of_gguf(metadata, files.config().vocab_size);
    for kind in ["sep", "cls", "mask"] {
        if let Some(token) = ids.get(kind).and_then(|id| vocabulary.tokens.get(id as usize)) {
            settings[format!("{kind}_token")] = token.to_string().into();
        }
    }
    Ok(vec![
        made("tokenizer.json", &vocabulary.to_tokenizer_json().map_err(model)?),
        made("tokenizer_config.json", &settings),
    ])
}

/// Returns the end tokens of a GGUF file, which has keys for several.
fn generation_config(files: &ModelFiles) -> Option<SideFile> {
    let Container::Gguf(file) = files.container() else { return None };
    let ids = SpecialIds::of_gguf(file.metadata(), files.config().vocab_size);
    let ends = ids.ends();
    if ends.is_empty() || ends == ids.get("eos").into_iter().collect::<Vec<_>>() {
        return None;
    }
    let mut config = json!({"eos_token_id": ends});
    for kind in ["bos", "pad"] {
        if let Some(id) = ids.get(kind) {
            config[format!("{kind}_token_id")] = id.into();
        }
    }
    let text = serde_json::to_string_pretty(&config).unwrap_or_default() + "\n";
    Some(SideFile::Made { name: "generation_config.json".into(), text })
}

/// Sets `quantization_config` for ternary layers, or removes it.
fn quantization_config(
    config: &mut Json,
    files: &ModelFiles,
    target: Target,
    plan: &mut Plan,
) -> Result<()> {
    let packing = match files.container() {
        Container::HuggingFace { packing, .. } => packing,
        Container::Gguf(_) | Container::Onnx { .. } => None,
    };
    let Some(object) = config.as_object_mut() else { return Ok(()) };
    // Removes MLX's fields; they are written again where they apply.
    if object.remove("quantization").is_some() {
        object.remove("quantization_config");
    }
    if target == Target::Mlx {
        two_epsilons(files, plan, false)?;
        let group = plan.works.iter().find_map(|work| match work.recipe {
            Recipe::Affine { group, .. } => Some(group),
            _ => None,
        });
        object.remove("quantization_config");
        if let Some(group) = group {
            let quantization = json!({"group_size": group, "bits": 2, "mode": "affine"});
            object.insert("quantization".into(), quantization.clone());
            object.insert("quantization_config".into(), quantization);
        }
        return Ok(());
    }
    let packed = plan.parts.iter().any(|part| part.part_type.name() == "U8");
    two_epsilons(files, plan, packed)?;
    if packed {
        let multiply = packing.is_none_or(|packing| packing.multiply);
        let known = object.get("quantization_config").and_then(Json::as_object).cloned();
        let mut quantization = known.unwrap_or_default();
        quantization.insert("quant_method".into(), "bitnet".into());
        let class = if multiply { "autobitlinear" } else { "bitlinear" };
        quantization.insert("linear_class".into(), class.into());
        quantization.insert("quantization_mode".into(), "offline".into());
        if has_input_norms(plan) {
            quantization.insert("use_rms_norm".into(), true.into());
            quantization.insert("rms_norm_eps".into(), json!(shortest(files.input_norm_eps())));
        }
        object.insert("quantization_config".into(), quantization.into());
        return Ok(());
    }
    debug_assert_eq!(target, Target::Dense);
    match packing {
        // Marks masters; otherwise a trainer would load them as a dense model.
        Some(packing) if packing.online => {}
        Some(_) if !files.config().architecture.table().native_ternary => {
            let problem = "the source's layers take inputs of 8 bits, which a folder of ordinary numbers can't say; use \
                           --to hf, or a .gguf file";
            return Err(Error::refused(files.name(), problem));
        }
        _ => {
            object.remove("quantization_config");
            if files.config().architecture.table().native_ternary {
                plan.remarks.push(
                    "readers that go by quantization_config alone take the layers of this folder for ordinary ones \
                     and leave their inputs unquantised"
                        .into(),
                );
            }
        }
    }
    Ok(())
}

/// Rejects an epsilon of input norms that the folder has no field for.
fn two_epsilons(files: &ModelFiles, plan: &Plan, packed: bool) -> Result<()> {
    let (own, others) = (files.input_norm_eps(), files.config().norm_eps);
    if packed || !has_input_norms(plan) || own == others {
        return Ok(());
    }
    let problem = format!(
        "its norms before single layers have the epsilon {own} and all others {others}, for which only a packed folder has a \
         field; use --to hf, or a .gguf file"
    );
    Err(Error::refused(files.name(), problem))
}

impl SideFile {
    /// Returns its name in the folder.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Copied { name, .. } | Self::Made { name, .. } => name,
        }
    }

    /// Writes it to a folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        match self {
            Self::Copied { name, from } => {
                let bytes = read_side_file(from)?;
                Ok(bitnet_formats::write_whole_file(&folder.join(name), &bytes)?)
            }
            Self::Made { name, text } => {
                Ok(bitnet_formats::write_whole_file(&folder.join(name), text.as_bytes())?)
            }
        }
    }
}

//! GGUF output: architecture name, metadata keys and vocabulary.

use std::collections::BTreeMap;
use std::path::Path;

use bitnet_core::backend::Activation;
use bitnet_formats::architecture::GgufArchitecture;
use bitnet_formats::gguf::{GgmlType, GgufFile, GgufWriter, Value};
use bitnet_inference::loader::{Container, ModelText};
use bitnet_inference::models::LimitReason;
use bitnet_inference::tokenizer::GgufVocabulary;
use bitnet_inference::{LoadOptions, ModelFiles};
use serde_json::Value as Json;

use crate::gguf_keys::{model_keys, pooling_key};
use crate::options::{ConvertOptions, Target};
use crate::plan::{PartType, Plan, PlannedFile, Planner};
use crate::rotation::rotation_keys;
use crate::side_files::read_side_file;
use crate::special_ids::{Lookup, Settings, SpecialIds};
use crate::tensors::ModelTensor;
use crate::{Error, Result};

/// The type of control tokens in `tokenizer.ggml.token_type`.
const CONTROL: i32 = 3;

/// Plans a GGUF file named `name`.
pub(crate) fn plan(
    files: &ModelFiles,
    options: &ConvertOptions,
    name: &str,
) -> Result<(Plan, Vec<PlannedFile>)> {
    let architecture = architecture(files, options)?;
    let names = |tensor: &ModelTensor| {
        tensor
            .name
            .to_gguf_of(files.config().architecture)
            .ok_or_else(|| Error::refused(tensor.stem(), "GGUF has no name for this tensor"))
    };
    // Readers of this architecture multiply by a separate f32 scale, which is exact where f16 is not.
    let separate_scales = architecture == "bitnet";
    let mut plan = Planner::plan(files, options, Target::Gguf, &names, separate_scales)?;
    plan.remarks.extend(limit_remark(files));
    plan.remarks.extend(window_remark(files));
    plan.remarks.extend(scale_remark(files));
    let mut writer = GgufWriter::new();
    match files.container() {
        Container::Gguf(file) => {
            copy_keys(&mut writer, file, &architecture)?;
        }
        Container::HuggingFace { folder, config, .. } | Container::Onnx { folder, config, .. } => {
            model_keys(&mut writer, files, &architecture, folder)?;
            rotation_keys(&mut writer, files)?;
            plan.remarks.extend(pooling_key(&mut writer, files, &architecture)?);
            plan.remarks.extend(vocabulary_keys(&mut writer, files, folder, config)?);
        }
    }
    // After all others, so that files round-trip byte for byte through types without a `file_type` number.
    if let Some(file_type) = file_type(&plan) {
        writer.put(OF_RESULT[0], Value::U32(file_type))?;
    }
    writer.put(OF_RESULT[1], Value::U32(2))?;
    let count = plan.share_out(options.split);
    let mut planned = Vec::with_capacity(count);
    for file in 0..count {
        // The first file of a split model has all keys, the others only their index.
        let mut writer = if file == 0 { writer.clone() } else { GgufWriter::new() };
        if count > 1 {
            split_keys(&mut writer, file, count, plan.parts.len())?;
        }
        for part in plan.in_file(file) {
            let PartType::Ggml(ggml_type) = part.part_type else { continue };
            let dims: Vec<u64> = part.shape.iter().rev().map(|&dim| dim as u64).collect();
            writer.add_tensor(&part.name, &dims, ggml_type)?;
        }
        let name = file_name(name, file, count);
        let layout = writer.layout(&name)?;
        plan.place(file, &layout.offsets);
        planned.push(PlannedFile { name, header: layout.header, len: layout.len });
    }
    Ok((plan, planned))
}

/// Returns the name of one file of a model: that of a single file, or `NAME-00001-of-00003.gguf`.
fn file_name(name: &str, file: usize, count: usize) -> String {
    if count == 1 {
        return name.to_owned();
    }
    let stem = name.strip_suffix(".gguf").unwrap_or(name);
    format!("{stem}-{:05}-of-{count:05}.gguf", file + 1)
}

fn split_keys(writer: &mut GgufWriter, file: usize, count: usize, tensors: usize) -> Result<()> {
    let number = |what: &str, number: usize| {
        u16::try_from(number).map_err(|_| {
            Error::refused(
                "--split-max-size",
                format!("{number} {what} are too many; use a larger size"),
            )
        })
    };
    writer.put("split.no", Value::U16(number("files", file)?))?;
    writer.put("split.count", Value::U16(number("files", count)?))?;
    let tensors = i32::try_from(tensors).map_err(|_| {
        Error::refused("--split-max-size", format!("{tensors} tensors are too many"))
    })?;
    writer.put("split.tensors.count", Value::I32(tensors))?;
    Ok(())
}

/// Warns that the result does not state the limit of the model's RoPE.
fn limit_remark(files: &ModelFiles) -> Option<String> {
    let limit = files.config().context_limit?;
    (limit.reason == LimitReason::DynamicRope).then(|| {
        format!(
            "the model's RoPE is dynamic, for which GGUF has no key: the file is correct for up to {} tokens",
            limit.positions
        )
    })
}

/// Warns that llama.cpp runs the family's files without windows.
fn window_remark(files: &ModelFiles) -> Option<String> {
    let config = files.config();
    let positions = config.local.as_ref()?.positions;
    let table = config.architecture.table();
    (!table.local_rope && table.windowed.is_none()).then(|| {
        format!(
            "layers attend to a window of {positions} tokens, which llama.cpp does not read in {} files: there, longer \
             texts give other results",
            config.architecture
        )
    })
}

/// Warns that llama.cpp divides scores of attention by another number.
fn scale_remark(files: &ModelFiles) -> Option<String> {
    let scalar = files.config().query_scalar?;
    Some(format!(
        "scores of attention are divided by the root of {scalar}, which the key `attention.scale` says: llama.cpp does not \
         read it in {} files, and gives other results",
        files.config().architecture
    ))
}

/// Returns the architecture's name: the source's, or the equivalent one.
fn architecture(files: &ModelFiles, options: &ConvertOptions) -> Result<String> {
    let config = files.config();
    let table = config.architecture.table();
    // A name that stands for an activation always means it; readers of others assume SiLU, but in native families.
    let own = table.native_ternary || config.activation == Activation::Silu;
    let fits = |named: &&GgufArchitecture| {
        named.activation.map_or(own, |fixed| fixed == config.activation)
    };
    let known: Vec<&str> = table.gguf.iter().filter(fits).map(|named| named.name).collect();
    let Some(&usual) = known.first() else {
        let read = table.gguf.iter().find_map(|named| named.activation);
        let problem = format!(
            "its activation is {}, but llama.cpp runs every {} file with {}, whatever its key `hidden_activation` says: \
             write a folder (--to hf or hf-dense)",
            config.activation,
            config.architecture,
            read.unwrap_or(Activation::Silu),
        );
        return Err(Error::refused(files.name(), problem));
    };
    let source = match files.container() {
        Container::Gguf(file) => Some(file.metadata().get_str("general.architecture")?),
        Container::HuggingFace { .. } | Container::Onnx { .. } => None,
    };
    match options.architecture.as_deref() {
        Some(requested) if known.contains(&requested) => Ok(requested.to_owned()),
        Some(requested) => Err(Error::refused(
            format!("--arch {}", requested.escape_debug()),
            format!("this model can be written as {}", known.join(", ")),
        )),
        None => Ok(source.unwrap_or(usual).to_owned()),
    }
}

/// Keys about the file, not about the model.
const OF_RESULT: [&str; 2] = ["general.file_type", "general.quantization_version"];

/// Copies the keys of a file, with the new architecture's prefix.
fn copy_keys(writer: &mut GgufWriter, file: &GgufFile, architecture: &str) -> Result<()> {
    let metadata = file.metadata();
    let old = metadata.get_str("general.architecture")?;
    writer.put("general.architecture", Value::String(architecture))?;
    let same = |key: &str| {
        key != "general.architecture"
            && !OF_RESULT.contains(&key)
            && (old == architecture || !is_under(key, old))
    };
    writer.copy_metadata(metadata, same)?;
    if old == architecture {
        return Ok(());
    }
    for (key, value) in metadata.iter().filter(|(key, _)| is_under(key, old)) {
        writer.put(&format!("{architecture}{}", &key[old.len()..]), value)?;
    }
    if architecture == "bitnet" && old != "bitnet" {
        writer.put("bitnet.hidden_activation", Value::String("relu2"))?;
    }
    Ok(())
}

fn is_under(key: &str, architecture: &str) -> bool {
    key.strip_prefix(architecture).is_some_and(|rest| rest.starts_with('.'))
}

/// Writes the keys of vocabulary, special tokens and chat template, as far as the folder has them. Returns
/// remarks.
fn vocabulary_keys(
    writer: &mut GgufWriter,
    files: &ModelFiles,
    folder: &Path,
    config: &Json,
) -> Result<Option<String>> {
    let settings = Settings::read(folder, config)?;
    let rows = files.config().vocab_size;
    let path = folder.join("tokenizer.json");
    if !path.exists() {
        let none = GgufVocabulary::default();
        let ids = SpecialIds::of_folder(&settings, &none, rows);
        let text = files.text(&LoadOptions::default())?;
        ids.with_ends(&end_tokens(&text, &settings), &none, rows).write(writer)?;
        let others = ["tokenizer.model", "vocab.json", "tokenizer.tiktoken"];
        let other = others.into_iter().find(|name| folder.join(name).exists());
        return Ok(other.map(|name| {
            format!("the result has no tokenizer: {name} is not read, and the folder has no tokenizer.json")
        }));
    }
    let bytes = read_side_file(&path)?;
    let name = path.display().to_string();
    let mut vocabulary = GgufVocabulary::from_json_bytes(&bytes, &name, rows)
        .map_err(bitnet_inference::InferenceError::from)?;
    drop(bytes);
    let text = files.text(&LoadOptions::default())?;
    let ends = end_tokens(&text, &settings);
    let others = special_tokens(&mut vocabulary, &settings, &ends, rows);
    vocabulary.write(writer)?;
    others.write(writer)?;
    if let Some(template) = chat_template(folder, settings.tokenizer())? {
        writer.put("tokenizer.chat_template", Value::String(&template))?;
    }
    named_templates(writer, &text.named_templates)?;
    Ok(None)
}

impl Lookup for GgufVocabulary<'_> {
    fn id(&self, token: &str) -> Option<u32> {
        let place = self.tokens.iter().position(|other| other == token)?;
        u32::try_from(place).ok()
    }

    fn special(&self, id: u32) -> Option<&str> {
        let token_type = *self.token_types.as_ref()?.get(id as usize)?;
        (token_type == CONTROL).then_some(&*self.tokens[id as usize])
    }
}

/// Returns the end tokens: those of the files in order, then those that the engine adds, such as the default of the
/// model's class.
fn end_tokens(text: &ModelText, settings: &Settings<'_>) -> Vec<u32> {
    let mut ends = settings.ends();
    ends.extend(&text.end_tokens);
    ends
}

/// Writes the special tokens of the folder's files. Returns the ids for which `vocabulary` has no key.
fn special_tokens(
    vocabulary: &mut GgufVocabulary<'_>,
    settings: &Settings<'_>,
    ends: &[u32],
    rows: usize,
) -> SpecialIds {
    // The post-processor of tokenizer.json decides where no other file does.
    let ids = SpecialIds::of_folder(settings, vocabulary, rows)
        .or("bos", vocabulary.bos)
        .or("eos", vocabulary.eos)
        .with_ends(ends, vocabulary, rows);
    let flag = |name: &str| settings.tokenizer().and_then(|settings| settings.get(name)?.as_bool());
    vocabulary.bos = ids.get("bos");
    vocabulary.eos = ids.get("eos");
    vocabulary.unk = vocabulary.unk.or(ids.get("unk"));
    vocabulary.pad = ids.get("pad");
    vocabulary.eot = ids.get("eot");
    // The post-processor of tokenizer.json takes precedence: the flags of the other file are often stale.
    vocabulary.add_bos = vocabulary.add_bos.or(flag("add_bos_token"));
    vocabulary.add_eos = vocabulary.add_eos.or(flag("add_eos_token"));
    ids.only(&["sep", "cls", "mask", "eom"])
}

/// Returns the default chat template of a folder, even if it is unsupported.
pub(crate) fn chat_template(folder: &Path, settings: Option<&Json>) -> Result<Option<String>> {
    let file = folder.join("chat_template.jinja");
    if file.exists() {
        let bytes = read_side_file(&file)?;
        return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
    }
    let Some(template) = settings.and_then(|settings| settings.get("chat_template")) else {
        return Ok(None);
    };
    let default = |list: &Vec<Json>| {
        let default = list.iter().find(|t| t.get("name").is_some_and(|name| name == "default"));
        default?.get("template")?.as_str().map(str::to_owned)
    };
    Ok(template.as_str().map(str::to_owned).or_else(|| template.as_array().and_then(default)))
}

/// Writes the keys of the named chat templates.
fn named_templates(writer: &mut GgufWriter, templates: &BTreeMap<String, String>) -> Result<()> {
    if templates.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = templates.keys().map(String::as_str).collect();
    writer.put_strings("tokenizer.chat_templates", &names)?;
    for (name, template) in templates {
        writer.put(&format!("tokenizer.chat_template.{name}"), Value::String(template))?;
    }
    Ok(())
}

/// Returns `general.file_type`: the type of most weights, if it has a number.
fn file_type(plan: &Plan) -> Option<u32> {
    let mut bytes: Vec<(GgmlType, u64)> = Vec::new();
    for part in &plan.parts {
        let (PartType::Ggml(ggml_type), true) = (part.part_type, part.shape.len() >= 2) else {
            continue;
        };
        let elements = part.shape.iter().map(|&dim| dim as u64).product::<u64>();
        match bytes.iter_mut().find(|(other, _)| *other == ggml_type) {
            Some((_, sum)) => *sum += elements,
            None => bytes.push((ggml_type, elements)),
        }
    }
    // The embedding of a small model may be larger than all layers, so ternary types take precedence.
    let most = bytes.iter().max_by_key(|(ggml_type, sum)| (ggml_type.is_ternary(), *sum))?;
    most.0.file_type()
}

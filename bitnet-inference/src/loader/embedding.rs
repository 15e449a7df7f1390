//! What a model's files say about embeddings of texts: `pooling_type` of GGUF files, and the modules and prompts of
//! sentence-transformers in folders.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use bitnet_formats::gguf::Metadata;
use serde_json::Value;

use super::gguf_config::pooling_key;
use super::json_object::{Object, read_json, side_file};
use crate::embed::Pooling;
use crate::{InferenceError, Result};

/// What a model's files say about embeddings of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingSettings {
    /// The pooling, if they name one.
    pub pooling: Option<Pooling>,
    /// The file and field, or the key, that names it.
    pub source: String,
    /// Prompts by name.
    pub prompts: BTreeMap<String, String>,
    /// The name of the prompt that stands before every text.
    pub default_prompt: Option<String>,
    /// Whether the tokens of a prompt are pooled.
    pub include_prompt: bool,
}

impl Default for EmbeddingSettings {
    fn default() -> Self {
        Self {
            pooling: None,
            source: String::new(),
            prompts: BTreeMap::new(),
            default_prompt: None,
            include_prompt: true,
        }
    }
}

impl EmbeddingSettings {
    /// Describes the pooling, if the files name one.
    pub(crate) fn fact(settings: &Result<Self, SettingsFault>) -> Option<String> {
        match settings {
            Ok(settings) => Some(format!("{} ({})", settings.pooling?, settings.source)),
            Err(fault) => Some(format!("not supported ({}: {})", fault.field, fault.problem)),
        }
    }
}

/// A setting for embeddings that is not supported: an error for those who ask for embeddings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SettingsFault {
    file: String,
    field: String,
    problem: String,
}

impl From<SettingsFault> for InferenceError {
    fn from(fault: SettingsFault) -> Self {
        let SettingsFault { file, field, problem } = fault;
        Self::Config { file, field, problem }
    }
}

/// Keeps what is wrong with settings until they are asked for.
fn kept(
    file: &str,
    settings: Result<EmbeddingSettings>,
) -> Result<EmbeddingSettings, SettingsFault> {
    settings.map_err(|error| match error {
        InferenceError::Config { file, field, problem } => SettingsFault { file, field, problem },
        other => SettingsFault {
            file: file.to_owned(),
            field: "settings of embeddings".into(),
            problem: other.to_string(),
        },
    })
}

/// The settings in the keys of a GGUF file of architecture `arch`.
pub(super) fn of_gguf(metadata: &Metadata, arch: &str) -> Result<EmbeddingSettings, SettingsFault> {
    let read = || -> Result<EmbeddingSettings> {
        let key = pooling_key(arch);
        let pooling = match metadata.opt_u64(&key)? {
            None | Some(0) => return Ok(EmbeddingSettings::default()),
            Some(number) => gguf_pooling(number).ok_or_else(|| {
                let problem = format!(
                    "{number} is not supported; 1 (mean), 2 (cls) and 3 (last) are: --pooling takes one of them"
                );
                InferenceError::config(metadata.file_name(), &key, problem)
            })?,
        };
        Ok(EmbeddingSettings { pooling: Some(pooling), source: key, ..Default::default() })
    };
    kept(metadata.file_name(), read())
}

/// llama.cpp's numbers of poolings.
const GGUF_POOLINGS: [(u32, Pooling); 3] =
    [(1, Pooling::Mean), (2, Pooling::Cls), (3, Pooling::Last)];

fn gguf_pooling(number: u64) -> Option<Pooling> {
    let found = GGUF_POOLINGS.iter().find(|(own, _)| u64::from(*own) == number);
    found.map(|(_, pooling)| *pooling)
}

/// llama.cpp's number of a pooling, the value of the key `pooling_type`.
pub fn gguf_pooling_type(pooling: Pooling) -> u32 {
    let found = GGUF_POOLINGS.iter().find(|(_, own)| *own == pooling);
    found.map_or(0, |(number, _)| *number)
}

/// The settings in a folder of sentence-transformers, for states of `hidden` numbers.
pub(super) fn of_folder(folder: &Path, hidden: usize) -> Result<EmbeddingSettings, SettingsFault> {
    kept(&folder.display().to_string(), read_folder(folder, hidden))
}

const MODULES: &str = "modules.json";
const POOLING: &str = "1_Pooling";
const PROMPTS: &str = "config_sentence_transformers.json";

fn read_folder(folder: &Path, hidden: usize) -> Result<EmbeddingSettings> {
    let path = match side_file(folder, MODULES)? {
        Some(modules) => pooling_folder(&modules)?,
        None => folder.join(POOLING).is_dir().then(|| POOLING.to_owned()),
    };
    let mut settings = match path {
        Some(path) => {
            let name = format!("{path}/config.json");
            let value = read_json(&folder.join(&path).join("config.json"))?;
            pooling(&Object { file: &name, value: &value }, &name, hidden)?
        }
        None => EmbeddingSettings::default(),
    };
    if let Some(value) = side_file(folder, PROMPTS)? {
        let o = Object { file: PROMPTS, value: &value };
        for (name, prompt) in o.get("prompts").and_then(Value::as_object).into_iter().flatten() {
            let Some(prompt) = prompt.as_str() else {
                return Err(o.bad("prompts", format!("{} is not a string", name.escape_debug())));
            };
            settings.prompts.insert(name.clone(), prompt.to_owned());
        }
        settings.default_prompt = o.opt_str("default_prompt_name")?.map(str::to_owned);
        if let Some(name) = settings.default_prompt.as_ref()
            && !settings.prompts.contains_key(name)
        {
            let problem = format!("prompts has no {}", name.escape_debug());
            return Err(o.bad("default_prompt_name", problem));
        }
    }
    Ok(settings)
}

/// The folder of the pooling among the modules, which may be the model, a pooling and lengths of 1.
fn pooling_folder(modules: &Value) -> Result<Option<String>> {
    let o = Object { file: MODULES, value: modules };
    let list = modules.as_array().ok_or_else(|| o.bad("the file", "not a list".into()))?;
    let mut found = None;
    for module in list {
        let module = Object { file: MODULES, value: module };
        let kind = module.opt_str("type")?.unwrap_or_default();
        match kind.rsplit('.').next().unwrap_or_default() {
            "Transformer" | "Normalize" => {}
            "Pooling" if found.is_none() => {
                let path = module.opt_str("path")?.unwrap_or(POOLING);
                let inside =
                    Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
                if !inside || path.is_empty() {
                    let problem = format!("{} is not a folder beside it", path.escape_debug());
                    return Err(module.bad("path", problem));
                }
                found = Some(path.to_owned());
            }
            _ => {
                let problem = format!(
                    "{} is not supported; one Transformer, one Pooling and Normalize are: with --pooling the states of the model itself are pooled",
                    kind.escape_debug()
                );
                return Err(module.bad("type", problem));
            }
        }
    }
    Ok(found)
}

/// The modes of sentence-transformers: as a flag, and by name.
const MODES: [(&str, &[&str], Pooling); 3] = [
    ("pooling_mode_cls_token", &["cls"], Pooling::Cls),
    ("pooling_mode_mean_tokens", &["mean"], Pooling::Mean),
    ("pooling_mode_lasttoken", &["lasttoken", "last"], Pooling::Last),
];

/// Reads the settings of a pooling.
fn pooling(o: &Object<'_>, file: &str, hidden: usize) -> Result<EmbeddingSettings> {
    const SUPPORTED: &str = "cls, mean and lasttoken are; --pooling takes one of them";
    if let Some(width) = o.opt_usize("word_embedding_dimension")?.filter(|&width| width != hidden) {
        let problem = format!("{width}, but the model's states have {hidden} numbers");
        return Err(o.bad("word_embedding_dimension", problem));
    }
    let mut found = None;
    if let Some(name) = o.opt_str("pooling_mode")? {
        let mode = MODES.iter().find(|(_, names, _)| names.contains(&name));
        let mode = mode.ok_or_else(|| {
            let problem = format!("{} is not supported; {SUPPORTED}", name.escape_debug());
            o.bad("pooling_mode", problem)
        })?;
        found = Some(("pooling_mode", mode.2));
    }
    for (field, value) in o.value.as_object().into_iter().flatten() {
        if !field.starts_with("pooling_mode_") || value.as_bool() != Some(true) {
            continue;
        }
        match (MODES.iter().find(|(own, ..)| own == field), found) {
            (None, _) => return Err(o.bad(field, format!("not supported; {SUPPORTED}"))),
            (Some(_), Some((other, _))) if other != "pooling_mode" => {
                let problem = format!("together with {other}, which is not supported; {SUPPORTED}");
                return Err(o.bad(field, problem));
            }
            (Some((own, _, pooling)), _) => found = Some((own, *pooling)),
        }
    }
    let Some((field, pooling)) = found else {
        let problem = format!("no mode is true; {SUPPORTED}");
        return Err(o.bad("pooling_mode", problem));
    };
    Ok(EmbeddingSettings {
        pooling: Some(pooling),
        source: format!("{file}, {field}"),
        include_prompt: o.opt_bool("include_prompt")?.unwrap_or(true),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(modules: Option<Value>, pooling: Value) -> Result<EmbeddingSettings> {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, value: &Value| {
            std::fs::write(folder.path().join(name), value.to_string()).unwrap();
        };
        std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        write("1_Pooling/config.json", &pooling);
        if let Some(modules) = modules {
            write("modules.json", &modules);
        }
        of_folder(folder.path(), 4).map_err(InferenceError::from)
    }

    fn modules(last: &str) -> Value {
        let of = |kind: &str, path: &str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
        json!([of("Transformer", ""), of("Pooling", "1_Pooling"), of(last, "2")])
    }

    #[test]
    fn every_form_of_the_pooling_is_read() {
        for (value, expected) in [
            (
                json!({"pooling_mode_lasttoken": true, "pooling_mode_max_tokens": false}),
                Pooling::Last,
            ),
            (json!({"pooling_mode_cls_token": true, "word_embedding_dimension": 4}), Pooling::Cls),
            (json!({"pooling_mode": "mean"}), Pooling::Mean),
        ] {
            for modules in [None, Some(modules("Normalize"))] {
                assert_eq!(read(modules, value.clone()).unwrap().pooling, Some(expected));
            }
        }
    }

    #[test]
    fn what_is_not_supported_names_file_and_field() {
        let mean = json!({"pooling_mode_mean_tokens": true});
        for (modules, pooling, words) in [
            (None, json!({"pooling_mode_max_tokens": true}), ["config.json", "max_tokens"]),
            (None, json!({"pooling_mode": "max"}), ["1_Pooling", "pooling_mode"]),
            (None, json!({}), ["1_Pooling", "pooling_mode"]),
            (
                None,
                json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}),
                ["mean", "cls"],
            ),
            (
                None,
                json!({"pooling_mode_mean_tokens": true, "word_embedding_dimension": 5}),
                ["word_embedding_dimension", "4"],
            ),
            (Some(modules("Dense")), mean.clone(), ["modules.json", "Dense"]),
            (Some(json!({})), mean.clone(), ["modules.json", "list"]),
            (
                Some(json!([{"type": "models.Pooling", "path": "../1_Pooling"}])),
                mean,
                ["modules.json", "path"],
            ),
        ] {
            let message = read(modules, pooling).unwrap_err().to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
        }
    }
}

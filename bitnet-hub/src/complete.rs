//! Detection of incomplete models in a snapshot.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::choose::{Found, safetensors, split_name};
use crate::error::{Error, Result};
use crate::onnx;

/// Maximum size of a shard index in bytes.
const LONGEST_INDEX: u64 = 64 << 20;

/// The files of a snapshot without those of incomplete models.
#[derive(Debug, Default)]
pub(crate) struct Complete {
    /// The remaining files, sorted by path.
    pub(crate) files: Vec<Found>,
    /// The missing files of incomplete GGUF models.
    pub(crate) missing_gguf: Vec<String>,
    /// The missing files of a partially downloaded safetensors or ONNX model.
    pub(crate) missing_safetensors: Vec<String>,
}

/// Removes split GGUF models with missing parts. With `folders`, also removes a safetensors model without
/// `config.json`, without weights, or without a shard that its index or the shard names require.
///
/// # Errors
/// [`Error::Io`] if a shard index can't be read.
pub(crate) fn complete(snapshot: &Path, files: &[Found], folders: bool) -> Result<Complete> {
    let here: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut left_out: BTreeSet<String> = BTreeSet::new();
    let mut missing_gguf = BTreeSet::new();
    for path in &here {
        let lacking = missing_parts(path, ".gguf", &here);
        if !lacking.is_empty() {
            left_out.insert((*path).to_owned());
            missing_gguf.extend(lacking);
        }
    }
    let mut missing_safetensors = BTreeSet::new();
    let weights = safetensors(files);
    if folders && !weights.is_empty() {
        missing_safetensors = missing_of_folder(snapshot, &weights, &here)?;
        if !missing_safetensors.is_empty() {
            let all = here.iter().filter(|path| {
                path.ends_with(".safetensors") || path.ends_with(".safetensors.index.json")
            });
            left_out.extend(all.map(|path| (*path).to_owned()));
        }
    } else if folders && here.iter().any(|path| path.ends_with(".onnx")) {
        let has_gguf = here.iter().any(|path| path.ends_with(".gguf"));
        missing_safetensors.extend(if has_gguf { Vec::new() } else { onnx::missing(files) });
        if !missing_safetensors.is_empty() {
            let all = here.iter().filter(|path| path.ends_with(".onnx"));
            left_out.extend(all.map(|path| (*path).to_owned()));
        }
    } else if folders && !here.iter().any(|path| path.ends_with(".gguf")) && !here.is_empty() {
        // Settings without weights.
        missing_safetensors.insert("model.safetensors".to_owned());
    }
    Ok(Complete {
        files: files.iter().filter(|file| !left_out.contains(&file.path)).cloned().collect(),
        missing_gguf: missing_gguf.into_iter().collect(),
        missing_safetensors: missing_safetensors.into_iter().collect(),
    })
}

fn missing_of_folder(
    snapshot: &Path,
    weights: &[&str],
    here: &BTreeSet<&str>,
) -> Result<BTreeSet<String>> {
    let mut missing = BTreeSet::new();
    if !here.contains("config.json") {
        missing.insert("config.json".to_owned());
    }
    let (indexes, shards): (Vec<&str>, Vec<&str>) =
        weights.iter().partition(|path| path.ends_with(".index.json"));
    for shard in &shards {
        missing.extend(missing_parts(shard, ".safetensors", here));
        // Several shards need their index.
        if let Some((name, _, count)) = split_name(shard, ".safetensors")
            && count > 1
            && !here.contains(format!("{name}.safetensors.index.json").as_str())
        {
            missing.insert(format!("{name}.safetensors.index.json"));
        }
    }
    for index in &indexes {
        let named = shards_of(&snapshot.join(index))?;
        missing.extend(named.into_iter().filter(|shard| !here.contains(shard.as_str())));
    }
    if shards.is_empty() && missing.iter().all(|path| !path.ends_with(".safetensors")) {
        missing.insert("model.safetensors".to_owned());
    }
    Ok(missing)
}

/// Returns the parts of the split model of `path` that are not in `here`.
fn missing_parts(path: &str, ending: &str, here: &BTreeSet<&str>) -> Vec<String> {
    let Some((name, _, count)) = split_name(path, ending) else { return Vec::new() };
    (1..=count)
        .map(|number| format!("{name}-{number:05}-of-{count:05}{ending}"))
        .filter(|part| !here.contains(part.as_str()))
        .collect()
}

/// Returns the files in the `weight_map` of an index. Invalid JSON gives none; the loader reports it.
fn shards_of(index: &Path) -> Result<BTreeSet<String>> {
    let mut text = Vec::new();
    let file = File::open(index).map_err(Error::io(index, "open"))?;
    file.take(LONGEST_INDEX).read_to_end(&mut text).map_err(Error::io(index, "read"))?;
    let value: Value = serde_json::from_slice(&text).unwrap_or_default();
    let map = value.get("weight_map").and_then(Value::as_object);
    let names = map.into_iter().flat_map(|map| map.values()).filter_map(Value::as_str);
    Ok(names.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(snapshot: &Path, paths: &[&str]) -> Complete {
        let mut files: Vec<Found> =
            paths.iter().map(|path| Found { path: (*path).to_owned(), bytes: Some(1) }).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        complete(snapshot, &files, true).unwrap()
    }

    #[test]
    fn safetensors_models_need_settings_and_every_shard() {
        let folder = tempfile::tempdir().unwrap();
        let index =
            r#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"other.safetensors"}}"#;
        let name = "model.safetensors.index.json";
        std::fs::write(folder.path().join(name), index).unwrap();
        let missing = |paths: &[&str]| of(folder.path(), paths).missing_safetensors;
        let (first, second) =
            ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
        assert_eq!(missing(&["config.json"]), ["model.safetensors"]);
        assert_eq!(missing(&["model.safetensors"]), ["config.json"]);
        assert_eq!(missing(&["config.json", name]), [first, "other.safetensors"]);
        assert_eq!(missing(&["config.json", first]), [second, name]);
        assert_eq!(missing(&["config.json", first, second, name]), ["other.safetensors"]);
        let whole = ["config.json", first, second, name, "other.safetensors"];
        assert_eq!(missing(&whole), [""; 0]);
        assert_eq!(missing(&["config.json", "model.safetensors"]), [""; 0]);
        // A GGUF model needs no other files.
        assert_eq!(missing(&["config.json", "x.gguf"]), [""; 0]);
        let mixed = of(folder.path(), &["config.json", name, "x.gguf"]);
        let left: Vec<_> = mixed.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(left, ["config.json", "x.gguf"]);
    }

    #[test]
    fn split_gguf_models_need_all_parts() {
        let folder = tempfile::tempdir().unwrap();
        let parts = ["x-00001-of-00003.gguf", "x-00003-of-00003.gguf", "y.gguf"];
        let found = of(folder.path(), &parts);
        assert_eq!(found.missing_gguf, ["x-00002-of-00003.gguf"]);
        assert_eq!(found.files.len(), 1);
        assert_eq!(of(folder.path(), &["x-00001-of-00001.gguf"]).files.len(), 1);
    }
}

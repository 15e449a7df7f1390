//! Where an ONNX file of a folder is, and where its settings are.

use std::path::{Path, PathBuf};

use crate::{InferenceError, Result};

/// The folder in a repository that holds its ONNX files.
const ONNX: &str = "onnx";

/// Returns the folder with the `config.json` of an `.onnx` file: its own, or the one above where its own is `onnx`.
pub fn settings_folder(path: &Path) -> PathBuf {
    let own = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let above = own.join("..");
    let is_part = own.canonicalize().is_ok_and(|own| own.ends_with(ONNX));
    if !own.join("config.json").exists() && is_part {
        return match own.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => above,
        };
    }
    own.to_owned()
}

/// The ONNX file of a folder without safetensors files: the only one in the folder itself or below it in `onnx`.
///
/// # Errors
/// [`InferenceError::Io`], and [`InferenceError::UnsupportedOperation`] naming the files where there are several.
pub(crate) fn in_folder(folder: &Path) -> Result<Option<PathBuf>> {
    let own = files(folder)?;
    if own.iter().any(|file| is_safetensors(file)) {
        return Ok(None);
    }
    let below = folder.join(ONNX);
    let below = if below.is_dir() { files(&below)? } else { Vec::new() };
    let is_onnx = |file: &PathBuf| file.extension().is_some_and(|ending| ending == ONNX);
    let mut found: Vec<PathBuf> = own.into_iter().chain(below).filter(is_onnx).collect();
    found.sort();
    match &mut found[..] {
        [] => Ok(None),
        [only] => Ok(Some(std::mem::take(only))),
        several => {
            let names: Vec<String> =
                several.iter().map(|file| file.display().to_string()).collect();
            let what = format!("{}: {} ONNX files in one folder", folder.display(), names.len());
            let instead = format!("name the one with ternary weights: {}", names.join(", "));
            Err(InferenceError::unsupported(what, instead))
        }
    }
}

fn is_safetensors(file: &Path) -> bool {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")
}

/// The files of a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| InferenceError::Io { path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(io)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(io)).collect()
}

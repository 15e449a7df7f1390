//! The identity of the source's files, for detecting changes of the source and results that would replace
//! it.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bitnet_inference::ModelFiles;
use bitnet_inference::loader::onnx_settings_folder;

use crate::side_files::copied;
use crate::{Error, Result};

/// The identity of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    /// Device and inode, if available.
    number: Option<(u64, u64)>,
    len: u64,
    modified: Option<SystemTime>,
}

impl Identity {
    fn of(found: &Metadata) -> Self {
        Self { number: number(found), len: found.len(), modified: found.modified().ok() }
    }
}

#[cfg(unix)]
fn number(found: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Some((found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn number(_found: &Metadata) -> Option<(u64, u64)> {
    None
}

/// The source's files at the time of opening.
#[derive(Debug)]
pub(crate) struct SourceFiles {
    input: PathBuf,
    /// `None` for a missing file.
    files: Vec<(PathBuf, Option<Identity>)>,
}

impl SourceFiles {
    /// Records the files of a folder besides weights. Call this before opening the source, so that no change is missed.
    pub(crate) fn side_files(input: &Path) -> Self {
        let folder = match input.extension() {
            _ if input.is_dir() => Some(input.to_owned()),
            Some(extension) if extension == "safetensors" || extension == "json" => {
                input.parent().map(Path::to_owned)
            }
            Some(extension) if extension == "onnx" => Some(onnx_settings_folder(input)),
            _ => None,
        };
        let mut paths = vec![input.to_owned()];
        if let Some(folder) = folder {
            paths.clear();
            paths.extend(copied().chain(["config.json"]).map(|name| folder.join(name)));
        }
        let files = paths.into_iter().map(|path| (path.clone(), identity(&path))).collect();
        Self { input: input.to_owned(), files }
    }

    /// Adds the files of the weights.
    pub(crate) fn add_weights(&mut self, files: &ModelFiles) {
        for file in files.files() {
            let path = PathBuf::from(file.name());
            let found = identity(&path);
            // An escaped name is not the path of its file.
            if found.is_some() && self.files.iter().all(|(other, _)| *other != path) {
                self.files.push((path, found));
            }
        }
    }

    /// Returns an error if the source changed since it was opened.
    pub(crate) fn check(&self, files: &ModelFiles) -> Result<()> {
        let changed = self.files.iter().find(|(path, before)| identity(path) != *before);
        if let Some((path, _)) = changed {
            return Err(Error::SourceChanged { path: path.clone() });
        }
        files.check().map_err(|_| Error::SourceChanged { path: PathBuf::from(files.name()) })
    }

    /// Rejects an `output` that is a file of the source under any name,
    /// is inside the source's folder, or contains the source.
    pub(crate) fn refuse_as_output(&self, output: &Path, names: &[PathBuf]) -> Result<()> {
        let refused =
            |path: &Path, problem: &str| Err(Error::refused(path.display().to_string(), problem));
        for name in names {
            let Some(there) = identity(name) else { continue };
            let same = |(path, before): &(PathBuf, Option<Identity>)| match (before, there.number) {
                (Some(before), Some(number)) => before.number == Some(number),
                _ => path.canonicalize().ok() == name.canonicalize().ok(),
            };
            if self.files.iter().any(same) {
                return refused(name, "it is the source itself; choose another name");
            }
        }
        let (Ok(input), Some(output)) = (self.input.canonicalize(), real_path(output)) else {
            return Ok(());
        };
        if output == input {
            return refused(&output, "it is the source itself; choose another name");
        }
        if input.starts_with(&output) {
            return refused(&output, "the source is in it; choose another name");
        }
        if input.is_dir() && output.starts_with(&input) {
            return refused(&output, "it is inside the source's folder; choose another folder");
        }
        Ok(())
    }
}

/// Returns the identity of a file, following symbolic links like the loader.
fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|found| Identity::of(&found))
}

/// Resolves links in a path whose last component need not exist.
fn real_path(path: &Path) -> Option<PathBuf> {
    if let Ok(found) = path.canonicalize() {
        return Some(found);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new(".")).canonicalize().ok()?;
    Some(parent.join(path.file_name()?))
}

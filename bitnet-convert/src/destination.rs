//! Where a result goes: what may be replaced there, and the folder beside it in which the result grows.

use std::path::{Path, PathBuf};

use crate::entry::{Entry, names_in};
use crate::manifest::{MANIFEST, Manifest};
use crate::options::{ConvertOptions, Target};
use crate::{Error, Result};

/// Endings of model files that are not written, and that no folder is called.
const OTHER_FILES: [&str; 24] = [
    "bin",
    "ckpt",
    "engine",
    "ggla",
    "ggml",
    "ggmf",
    "ggjt",
    "h5",
    "json",
    "keras",
    "llamafile",
    "mlmodel",
    "msgpack",
    "npy",
    "npz",
    "onnx",
    "pb",
    "pkl",
    "pt",
    "pth",
    "safetensors",
    "tar",
    "tflite",
    "zip",
];

/// Where a result goes, and where it grows until it is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    /// The final name.
    pub(crate) path: PathBuf,
    /// The folder beside it that holds what is done.
    pub(crate) partial: PathBuf,
}

/// What stands at the name of a folder.
#[derive(Debug)]
pub(crate) enum Standing {
    /// Nothing, or an empty folder.
    Free,
    /// A folder in which every file has the name and the length of one that a conversion wrote.
    Written(Manifest),
}

impl Destination {
    /// For a result that is to stand at `path`.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| {
            Error::refused(path.display().to_string(), "it does not end in a name")
        })?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".partial");
        Ok(Self { path: path.to_owned(), partial: path.with_file_name(hidden) })
    }

    /// The folder that the result's files grow in.
    pub(crate) fn files(&self) -> PathBuf {
        self.partial.join("files")
    }

    /// The folder that is being replaced, until the result has its name.
    pub(crate) fn replaced(&self) -> PathBuf {
        self.partial.join("replaced")
    }

    /// Refuses what may not be replaced at any of `names`: anything but regular files for GGUF files, and for folders
    /// anything but an empty folder or one that a conversion wrote.
    pub(crate) fn check(&self, target: Target, names: &[PathBuf], overwrite: bool) -> Result<()> {
        match target {
            Target::Gguf => names.iter().try_for_each(|name| check_file(name, overwrite)),
            Target::HuggingFace | Target::Dense | Target::Mlx => self.standing(overwrite).map(drop),
        }
    }

    /// As [`Destination::check`], and reads the files of a folder that is to be replaced: one with other bytes is refused.
    pub(crate) fn check_bytes(
        &self,
        target: Target,
        names: &[PathBuf],
        options: &ConvertOptions,
    ) -> Result<()> {
        if target == Target::Gguf {
            return self.check(target, names, options.overwrite);
        }
        let Standing::Written(manifest) = self.standing(options.overwrite)? else { return Ok(()) };
        match manifest.foreign(&self.path, &|| options.go_on())? {
            None => Ok(()),
            Some(name) => Err(foreign(&self.path, &name)),
        }
    }

    /// What stands at the final name of a folder, where it may be replaced.
    pub(crate) fn standing(&self, overwrite: bool) -> Result<Standing> {
        let shown = || self.path.display().to_string();
        match Entry::at(&self.path)? {
            Entry::Absent => return Ok(Standing::Free),
            Entry::Folder => {}
            Entry::File(_) => {
                let problem = "it is a file, and the result is a folder; choose another name";
                return Err(Error::refused(shown(), problem));
            }
            Entry::Special(kind) => return Err(special(&self.path, kind, "a folder")),
        }
        if names_in(&self.path)?.is_empty() {
            return Ok(Standing::Free);
        }
        let Some(manifest) = Manifest::read(&self.path)? else {
            let problem = format!(
                "the folder holds files that no conversion wrote (it has no {MANIFEST}), which are not replaced; remove it \
                 yourself, or choose another name"
            );
            return Err(Error::refused(shown(), problem));
        };
        if !overwrite {
            return Err(Error::refused(shown(), "it is there already; --overwrite replaces it"));
        }
        match manifest.unlisted(&self.path)? {
            None => Ok(Standing::Written(manifest)),
            Some(name) => Err(foreign(&self.path, &name)),
        }
    }
}

/// The error for a folder with a file in it that a conversion did not write.
pub(crate) fn foreign(folder: &Path, name: &str) -> Error {
    let name = name.escape_debug();
    let problem = format!(
        "{name} in it is not as a conversion wrote it, and would be lost; move it away, or choose another name"
    );
    Error::refused(folder.display().to_string(), problem)
}

/// The error for a link or a special file where something else is to be written.
pub(crate) fn special(path: &Path, kind: &str, wanted: &str) -> Error {
    let problem = format!(
        "it is {kind}, not {wanted}, and is neither followed nor replaced; choose another name"
    );
    Error::refused(path.display().to_string(), problem)
}

/// Refuses to replace anything but a regular file, and that only where `overwrite` allows it.
pub(crate) fn check_file(path: &Path, overwrite: bool) -> Result<()> {
    let shown = || path.display().to_string();
    match Entry::at(path)? {
        Entry::Absent => Ok(()),
        Entry::File(_) if overwrite => Ok(()),
        Entry::File(_) => {
            Err(Error::refused(shown(), "it is there already; --overwrite replaces it"))
        }
        Entry::Folder => {
            let problem = "it is a folder, not a regular file; choose another name";
            Err(Error::refused(shown(), problem))
        }
        Entry::Special(kind) => Err(special(path, kind, "a regular file")),
    }
}

/// The container of a result called `output`: as asked for, else by the name's ending.
///
/// # Errors
/// [`Error::Refused`] for the ending of a file that is not written, and for one that does not go with what was asked for.
pub(crate) fn target_of(output: &Path, asked: Option<Target>) -> Result<Target> {
    let ending = output.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    let ending = ending.unwrap_or_default();
    let is_gguf = ending == "gguf";
    let target = asked.unwrap_or(if is_gguf { Target::Gguf } else { Target::HuggingFace });
    let refused = |problem: String| Err(Error::refused(output.display().to_string(), problem));
    if OTHER_FILES.contains(&ending.as_str()) {
        return refused(format!(
            ".{ending} files are not written; what is: a GGUF file (a name that ends in .gguf), or a folder with \
             safetensors files in it (a name without an ending; --to hf, hf-dense or mlx)"
        ));
    }
    if (target == Target::Gguf) != is_gguf {
        return refused(
            "a GGUF file's name ends in .gguf, a folder's does not; choose another name or --to"
                .into(),
        );
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_choose_the_container_or_are_refused() {
        let target = |name: &str| target_of(Path::new(name), None);
        assert_eq!(target("a.gguf").unwrap(), Target::Gguf);
        assert_eq!(target("a.GGUF").unwrap(), Target::Gguf);
        for folder in ["bitnet-b1.58-2B-4T", "model", "v1.5"] {
            assert_eq!(target(folder).unwrap(), Target::HuggingFace, "{folder}");
        }
        for file in ["x.onnx", "x.bin", "x.pt", "x.safetensors", "x.ggml", "x.PTH"] {
            let error = target(file).unwrap_err().to_string();
            assert!(error.contains(".gguf") && error.contains("folder"), "{error}");
            assert!(target_of(Path::new(file), Some(Target::Dense)).is_err(), "{file}");
        }
        assert!(target_of(Path::new("a.gguf"), Some(Target::Mlx)).is_err());
        assert!(target_of(Path::new("a"), Some(Target::Gguf)).is_err());
    }
}

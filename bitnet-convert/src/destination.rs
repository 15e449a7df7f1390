//! The destination of a conversion: checks of what may be replaced, and the partial folder.

use std::path::{Path, PathBuf};

use crate::entry::{Entry, names_in};
use crate::manifest::{MANIFEST, Manifest};
use crate::options::{ConvertOptions, Target};
use crate::{Error, Result};

/// Lower-case extensions of model files of other programs, which are rejected as names of results.
#[rustfmt::skip]
pub const UNSUPPORTED_EXTENSIONS: &[&str] = &[
    "bin", "ckpt", "engine", "ggla", "ggml", "ggmf", "ggjt", "h5", "json", "keras", "llamafile", "mlmodel", "msgpack",
    "npy", "npz", "onnx", "pb", "pkl", "pt", "pth", "safetensors", "tar", "tflite", "zip",
];

/// The final name of a result and its partial folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    /// The final name.
    pub(crate) path: PathBuf,
    /// The partial folder.
    pub(crate) partial: PathBuf,
}

/// The existing entry at a folder's name.
#[derive(Debug)]
pub(crate) enum Standing {
    /// Nothing, or an empty folder.
    Free,
    /// A folder in which every file has the name and length recorded by a conversion.
    Written(Manifest),
}

impl Destination {
    /// Creates the destination for a result at `path`.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| {
            Error::refused(path.display().to_string(), "it does not end in a name")
        })?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".partial");
        Ok(Self { path: path.to_owned(), partial: path.with_file_name(hidden) })
    }

    /// Returns the folder of the unfinished files.
    pub(crate) fn files(&self) -> PathBuf {
        self.partial.join("files")
    }

    /// Returns the backup of the replaced folder.
    pub(crate) fn replaced(&self) -> PathBuf {
        self.partial.join("replaced")
    }

    /// Checks that the entries at `names` may be replaced: regular files for GGUF files; an empty folder or one
    /// written by a conversion for folders.
    pub(crate) fn check(&self, target: Target, names: &[PathBuf], overwrite: bool) -> Result<()> {
        match target {
            Target::Gguf => names.iter().try_for_each(|name| check_file(name, overwrite)),
            Target::HuggingFace | Target::Dense | Target::Mlx => self.standing(overwrite).map(drop),
        }
    }

    /// Like [`Destination::check`], but also compares the bytes of a replaced folder's files.
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
        match manifest.foreign(&self.path, &|| options.check_stop())? {
            None => Ok(()),
            Some(name) => Err(foreign(&self.path, &name)),
        }
    }

    /// Returns the entry at a folder's final name, if it may be replaced.
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
            return Err(Error::refused(shown(), "it already exists; --overwrite replaces it"));
        }
        match manifest.unlisted(&self.path)? {
            None => Ok(Standing::Written(manifest)),
            Some(name) => Err(foreign(&self.path, &name)),
        }
    }
}

/// Returns the error for a folder with a foreign file.
pub(crate) fn foreign(folder: &Path, name: &str) -> Error {
    let name = name.escape_debug();
    let problem = format!(
        "{name} in it was not written by a conversion and would be lost; move it away, or choose another name"
    );
    Error::refused(folder.display().to_string(), problem)
}

/// Returns the error for a link or a special file.
pub(crate) fn special(path: &Path, kind: &str, wanted: &str) -> Error {
    let problem = format!(
        "it is {kind}, not {wanted}, and is neither followed nor replaced; choose another name"
    );
    Error::refused(path.display().to_string(), problem)
}

/// Rejects replacing anything but a regular file, and a regular file without `overwrite`.
pub(crate) fn check_file(path: &Path, overwrite: bool) -> Result<()> {
    let shown = || path.display().to_string();
    match Entry::at(path)? {
        Entry::Absent => Ok(()),
        Entry::File(_) if overwrite => Ok(()),
        Entry::File(_) => {
            Err(Error::refused(shown(), "it already exists; --overwrite replaces it"))
        }
        Entry::Folder => {
            let problem = "it is a folder, not a regular file; choose another name";
            Err(Error::refused(shown(), problem))
        }
        Entry::Special(kind) => Err(special(path, kind, "a regular file")),
    }
}

/// Returns the container of `output`: the requested one, else by the extension.
///
/// # Errors
/// [`Error::Refused`] for an unsupported extension, and for one that contradicts the request.
pub(crate) fn target_of(output: &Path, requested: Option<Target>) -> Result<Target> {
    let ending = output.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    let ending = ending.unwrap_or_default();
    let is_gguf = ending == "gguf";
    let target = requested.unwrap_or(if is_gguf { Target::Gguf } else { Target::HuggingFace });
    let refused = |problem: String| Err(Error::refused(output.display().to_string(), problem));
    if UNSUPPORTED_EXTENSIONS.contains(&ending.as_str()) {
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
    fn extensions_select_the_container() {
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

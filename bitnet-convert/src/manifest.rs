//! `bitnet-manifest.json`: the files of a converted folder, which allow a later conversion to replace the
//! folder safely.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Digester};
use crate::entry::{Entry, names_in};
use crate::{Error, Result};

/// The manifest's name.
pub(crate) const MANIFEST: &str = "bitnet-manifest.json";
/// Maximum size of a manifest in bytes.
const MAX_BYTES: u64 = 64 << 20;
const FORMAT: u32 = 1;
const PROGRAM: &str = "bitnet-convert";

/// The files of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    program: String,
    format: u32,
    files: Vec<Listed>,
}

/// One file: its name, its length in bytes, and the XXH3 digest of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    name: String,
    bytes: u64,
    digest: Digest,
}

impl Manifest {
    /// Writes a manifest of every file of `folder` into it. `check_stop` is called often; its error ends the work.
    pub(crate) fn write(folder: &Path, check_stop: &dyn Fn() -> Result<()>) -> Result<()> {
        let mut files = Vec::new();
        for name in names_in(folder)?.iter().filter(|name| *name != MANIFEST) {
            let path = folder.join(name);
            let (Entry::File(found), Some(name)) = (Entry::at(&path)?, name.to_str()) else {
                let problem = "it is not part of the conversion; remove it";
                return Err(Error::refused(path.display().to_string(), problem));
            };
            files.push(Listed {
                name: name.to_owned(),
                bytes: found.len(),
                digest: digest(&path, check_stop)?,
            });
        }
        let manifest = Self { program: PROGRAM.to_owned(), format: FORMAT, files };
        let text = serde_json::to_string_pretty(&manifest).unwrap_or_default() + "\n";
        Ok(bitnet_formats::write_whole_file(&folder.join(MANIFEST), text.as_bytes())?)
    }

    /// Returns the manifest of `folder`; `None` if there is no valid one.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MANIFEST);
        match Entry::at(&path)? {
            Entry::File(found) if found.len() <= MAX_BYTES => {}
            _ => return Ok(None),
        }
        let bytes = std::fs::read(&path).map_err(Error::io(&path, "read"))?;
        let manifest = serde_json::from_slice(&bytes).ok();
        Ok(manifest.filter(|m: &Self| m.program == PROGRAM && m.format == FORMAT))
    }

    /// Returns the first entry of `folder` that is not listed or has changed. `check_stop` is called often; its error
    /// ends the work.
    pub(crate) fn foreign(
        &self,
        folder: &Path,
        check_stop: &dyn Fn() -> Result<()>,
    ) -> Result<Option<String>> {
        self.first_foreign(folder, &|path, meant| Ok(digest(path, check_stop)? == meant))
    }

    /// Returns the first entry of `folder` that is not listed or has another length. Does not read the bytes.
    pub(crate) fn unlisted(&self, folder: &Path) -> Result<Option<String>> {
        self.first_foreign(folder, &|_, _| Ok(true))
    }

    fn first_foreign(
        &self,
        folder: &Path,
        is_same: &dyn Fn(&Path, Digest) -> Result<bool>,
    ) -> Result<Option<String>> {
        for name in names_in(folder)? {
            if name == MANIFEST {
                continue;
            }
            let shown = Some(name.to_string_lossy().into_owned());
            let Some(listed) = self.files.iter().find(|file| *file.name == *name) else {
                return Ok(shown);
            };
            match Entry::at(&folder.join(&name))? {
                Entry::File(found) if found.len() == listed.bytes => {}
                _ => return Ok(shown),
            }
            if !is_same(&folder.join(&name), listed.digest)? {
                return Ok(shown);
            }
        }
        Ok(None)
    }

    /// Removes the listed files, and the folder if it is empty then.
    pub(crate) fn remove(&self, folder: &Path) -> Result<()> {
        for name in self.files.iter().map(|file| file.name.as_str()).chain([MANIFEST]) {
            let path = folder.join(name);
            match Path::new(name).components().count() {
                1 => remove_file(&path)?,
                _ => continue,
            }
        }
        std::fs::remove_dir(folder).map_err(Error::io(folder, "remove"))
    }
}

/// Removes a file if it exists.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path, "remove")(error)),
        _ => Ok(()),
    }
}

fn digest(path: &Path, check_stop: &dyn Fn() -> Result<()>) -> Result<Digest> {
    let failed = Error::io(path, "read");
    let mut file = File::open(path).map_err(&failed)?;
    let (mut digester, mut buffer) = (Digester::new(), vec![0; 1 << 20]);
    loop {
        check_stop()?;
        match file.read(&mut buffer) {
            Ok(0) => return Ok(digester.finish()),
            Ok(n) => digester.push(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn written() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), b"{}").unwrap();
        fs::write(folder.path().join("model.safetensors"), b"weights").unwrap();
        Manifest::write(folder.path(), &|| Ok(())).unwrap();
        folder
    }

    #[test]
    fn unchanged_folders_are_removed() {
        let folder = written();
        let path = folder.keep();
        let manifest = Manifest::read(&path).unwrap().unwrap();
        assert_eq!(manifest.foreign(&path, &|| Ok(())).unwrap(), None);
        let stop = || Err(Error::Interrupted);
        assert!(matches!(manifest.foreign(&path, &stop), Err(Error::Interrupted)));
        assert_eq!(manifest.unlisted(&path).unwrap(), None, "no byte is read");
        manifest.remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn added_changed_and_linked_entries_are_detected() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 4] = [
            ("photo.jpg", |folder| fs::write(folder.join("photo.jpg"), b"x").unwrap()),
            (".git", |folder| fs::create_dir(folder.join(".git")).unwrap()),
            ("config.json", |folder| fs::write(folder.join("config.json"), b"[]").unwrap()),
            ("model.safetensors", |folder| {
                fs::remove_file(folder.join("model.safetensors")).unwrap();
                fs::create_dir(folder.join("model.safetensors")).unwrap();
            }),
        ];
        for (name, change) in changes {
            let folder = written();
            change(folder.path());
            let manifest = Manifest::read(folder.path()).unwrap().unwrap();
            let foreign = manifest.foreign(folder.path(), &|| Ok(())).unwrap();
            assert_eq!(foreign.as_deref(), Some(name));
        }
    }

    #[test]
    fn names_that_leave_the_folder_are_not_removed() {
        let folder = written();
        let outside = folder.path().with_extension("outside");
        fs::write(&outside, b"mine").unwrap();
        let name = format!("../{}", outside.file_name().unwrap().to_string_lossy());
        let manifest = Manifest {
            program: PROGRAM.into(),
            format: FORMAT,
            files: vec![Listed { name, bytes: 4, digest: Digest::of(b"mine") }],
        };
        assert!(manifest.remove(folder.path()).is_err());
        assert_eq!(fs::read(&outside).unwrap(), b"mine");
        fs::remove_file(outside).unwrap();
    }

    #[test]
    fn other_json_is_no_manifest() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "{}", "[]", r#"{"program":"other","format":1,"files":[]}"#] {
            fs::write(folder.path().join(MANIFEST), text).unwrap();
            assert_eq!(Manifest::read(folder.path()).unwrap(), None, "{text}");
        }
    }
}

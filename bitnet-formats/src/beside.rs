//! Files beside a model that the model names: where they are, and whether they stay with it.

use std::io;
use std::path::{Component, Path, PathBuf};

/// Folders between a model's folder and the root of its snapshot in a Hugging Face cache, at most.
const DEPTH: usize = 4;

/// Why a named file is not read.
#[derive(Debug)]
pub(crate) enum Absent {
    /// There is no such file.
    Missing,
    /// It is a link to somewhere else.
    Outside,
    /// It could not be looked for.
    Io(PathBuf, io::Error),
}

/// Returns whether a file name stays below its folder on every system: plain names separated by `/`.
pub(crate) fn stays_below(name: &str) -> bool {
    let is_plain = |part: &str| {
        let mut components = Path::new(part).components();
        let first = components.next();
        matches!(first, Some(Component::Normal(only)) if only == part)
            && components.next().is_none()
            && part.len() <= 255
    };
    name.len() <= 1024
        && !name.contains(['\\', ':'])
        && !name.chars().any(char::is_control)
        && name.split('/').all(is_plain)
}

/// Returns the path of a file in a model's folder; `name` [stays below](stays_below) it. Links are followed inside that
/// folder and, in a Hugging Face cache, to the blobs of the same model (`models--ORG--NAME/snapshots/REVISION/FILE` →
/// `models--ORG--NAME/blobs/HASH`) or of the whole cache (→ `blobs/HA/HASH` next to `models--ORG--NAME`, if models share
/// contents).
pub(crate) fn find(folder: &Path, name: &str) -> Result<PathBuf, Absent> {
    let path = folder.join(name);
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Absent::Missing),
        Err(error) => return Err(Absent::Io(path, error)),
    };
    let home = folder.canonicalize().map_err(|error| Absent::Io(folder.to_owned(), error))?;
    let snapshots = home.ancestors().skip(1).take(DEPTH);
    let model = snapshots
        .filter(|parent| parent.file_name().is_some_and(|name| name == "snapshots"))
        .find_map(Path::parent);
    let of_model = model.map(|model| model.join("blobs"));
    let of_cache = model
        .filter(|model| {
            model.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"models--"))
        })
        .and_then(Path::parent)
        .map(|cache| cache.join("blobs"));
    let below = |blobs: &PathBuf| real.starts_with(blobs);
    if real.starts_with(&home) || of_model.iter().chain(&of_cache).any(below) {
        return Ok(real);
    }
    Err(Absent::Outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_their_folder() {
        assert!(stays_below("model-00001-of-00002.safetensors"));
        assert!(stays_below("weights/a/model.safetensors"));
        for name in [
            "",
            ".",
            "..",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a/..",
            "a/./b",
            "a//b",
            "/",
            "a\\b",
            "C:x",
            "C:/x",
            "a\0b",
            "a/",
            "./a",
            "a\nb",
        ] {
            assert!(!stays_below(name), "{name:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_to_the_blobs_of_the_same_cache() {
        use std::os::unix::fs::symlink;
        let cache = tempfile::tempdir().unwrap();
        let model = cache.path().join("models--a--b");
        let folder = model.join("snapshots/1/onnx");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(model.join("blobs")).unwrap();
        for (path, text) in [(model.join("blobs/x"), "in"), (cache.path().join("y"), "out")] {
            std::fs::write(path, text).unwrap();
        }
        symlink(model.join("blobs/x"), folder.join("in")).unwrap();
        symlink(cache.path().join("y"), folder.join("out")).unwrap();
        assert_eq!(std::fs::read(find(&folder, "in").unwrap()).unwrap(), b"in");
        assert!(matches!(find(&folder, "out"), Err(Absent::Outside)));
        assert!(matches!(find(&folder, "none"), Err(Absent::Missing)));
    }
}

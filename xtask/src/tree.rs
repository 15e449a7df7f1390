//! The files of the repository listed by git, with their contents.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::RustText;

/// One file of the repository.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// The path from the root of the repository, separated by `/`.
    pub path: String,
    /// The whole contents.
    pub bytes: Vec<u8>,
}

impl SourceFile {
    /// Returns the contents as text, or `None` if they are not UTF-8 or contain a NUL (a model, an image, golden bytes).
    pub fn text(&self) -> Option<&str> {
        if self.bytes.contains(&0) { None } else { std::str::from_utf8(&self.bytes).ok() }
    }

    /// Returns the last part of the path.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// The files of the repository, sorted by path.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// All tracked files, and untracked files that are not ignored.
    pub files: Vec<SourceFile>,
}

impl Tree {
    /// Reads the repository of this crate.
    ///
    /// # Errors
    /// If git is missing, the folder is not a git checkout, or a file can't be read.
    pub fn read() -> Result<Self> {
        Self::read_at(&root())
    }

    /// Reads the git checkout `root`.
    ///
    /// # Errors
    /// As [`Tree::read`].
    pub fn read_at(root: &Path) -> Result<Self> {
        let listing = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("the tree is listed by git: install git")?;
        ensure!(
            listing.status.success(),
            "git ls-files failed in {}: {}",
            root.display(),
            String::from_utf8_lossy(&listing.stderr)
        );
        let names = String::from_utf8(listing.stdout).context("a file name is not UTF-8")?;
        let mut files = Vec::new();
        for path in names.split('\0').filter(|path| !path.is_empty()) {
            match std::fs::read(root.join(path)) {
                Ok(bytes) => files.push(SourceFile { path: path.to_owned(), bytes }),
                // Deleted in the working tree but not committed.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Ok(Self { files })
    }

    /// Creates a tree from paths and texts, for tests of the checks.
    pub fn from_texts(files: &[(&str, &str)]) -> Self {
        let files = files
            .iter()
            .map(|&(path, text)| SourceFile {
                path: path.to_owned(),
                bytes: text.as_bytes().to_vec(),
            })
            .collect();
        Self { files }
    }

    /// Returns every Rust file: its path and its split text.
    pub fn rust(&self) -> impl Iterator<Item = (&str, RustText)> {
        self.files
            .iter()
            .filter(|file| file.path.ends_with(".rs"))
            .filter_map(|file| Some((file.path.as_str(), RustText::new(file.text()?))))
    }

    /// Returns the text of the file at `path`, if it exists.
    pub fn text_of(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path)?.text()
    }

    /// Returns whether `path` is a file of the tree or a folder with files.
    pub fn holds(&self, path: &str) -> bool {
        path.is_empty()
            || self.files.iter().any(|file| {
                file.path
                    .strip_prefix(path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
    }
}

/// Returns the root of the repository: the folder above this crate.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_repository() {
        let tree = Tree::read().unwrap();
        assert!(tree.text_of("xtask/src/tree.rs").unwrap().contains("fn reads_this_repository"));
        assert!(tree.holds("xtask/src") && !tree.holds("xtask/sr") && !tree.holds("target"));
    }

    #[test]
    fn binary_contents_are_no_text() {
        let file = SourceFile { path: "a/b.bin".into(), bytes: vec![b'x', 0] };
        assert_eq!((file.text(), file.name()), (None, "b.bin"));
    }
}

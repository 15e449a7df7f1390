//! The files of the repository listed by git, with their contents.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::rust_text::has_word;
use crate::{Finding, RustText};

/// One file of the repository.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// The path from the root of the repository, separated by `/`.
    pub path: String,
    /// The whole contents.
    pub bytes: Vec<u8>,
}

impl SourceFile {
    /// Returns the contents as text, or `None` if they are not UTF-8
    /// or contain a NUL (a model, an image, golden bytes).
    pub fn text(&self) -> Option<&str> {
        if self.bytes.contains(&0) { None } else { std::str::from_utf8(&self.bytes).ok() }
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
        Self::read_at(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
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
        let error = String::from_utf8_lossy(&listing.stderr);
        ensure!(listing.status.success(), "git ls-files failed in {}: {error}", root.display());
        let names = String::from_utf8(listing.stdout).context("a file name is not UTF-8")?;
        let mut files = Vec::new();
        for path in names.split_terminator('\0') {
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
        let file = |&(path, text): &(&str, &str)| SourceFile {
            path: path.to_owned(),
            bytes: text.as_bytes().to_vec(),
        };
        Self { files: files.iter().map(file).collect() }
    }

    /// Returns every Rust file: its path and its split text.
    pub fn rust(&self) -> impl Iterator<Item = (&str, RustText)> {
        self.files
            .iter()
            .filter(|file| file.path.ends_with(".rs"))
            .filter_map(|file| Some((file.path.as_str(), RustText::new(file.text()?))))
    }

    /// Returns the file at `path`, if it exists.
    pub fn file(&self, path: &str) -> Option<&SourceFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Returns the text of the file at `path`, if it exists.
    pub fn text_of(&self, path: &str) -> Option<&str> {
        self.file(path)?.text()
    }

    /// Returns whether `path` is a file of the tree or a folder with files.
    pub fn holds(&self, path: &str) -> bool {
        let inside = |rest: &str| rest.is_empty() || rest.starts_with('/');
        let mut below = self.files.iter().filter_map(|file| file.path.strip_prefix(path));
        path.is_empty() || below.any(inside)
    }

    /// Returns what `problems` says about each file.
    pub fn check_files<P: IntoIterator<Item: Into<String>>>(
        &self,
        problems: impl Fn(&SourceFile) -> P,
    ) -> Vec<Finding> {
        let found = self.files.iter().flat_map(|file| Finding::all(&file.path, 1, problems(file)));
        found.collect()
    }

    /// Returns what `problems` says about each line of each text: its file's path, its number from 1, the line.
    pub fn check_lines<P: IntoIterator<Item: Into<String>>>(
        &self,
        mut problems: impl FnMut(&str, usize, &str) -> P,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        for file in &self.files {
            for (line, number) in file.text().unwrap_or_default().lines().zip(1..) {
                let found = problems(&file.path, number, line);
                findings.extend(Finding::all(&file.path, number, found));
            }
        }
        findings
    }

    /// Returns what `problems` says about each line of each Rust file: the file's path, the line's code, its comment.
    pub fn check_rust<P: IntoIterator<Item: Into<String>>>(
        &self,
        problems: impl Fn(&str, &str, &str) -> P,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (path, text) in self.rust() {
            for ((code, comment), number) in text.code.iter().zip(&text.comments).zip(1..) {
                findings.extend(Finding::all(path, number, problems(path, code, comment)));
            }
        }
        findings
    }

    /// Finds `word` in the code of Rust files outside `places`: folders (with trailing `/`) and files.
    pub fn check_places(&self, word: &str, places: &[&str]) -> Vec<Finding> {
        let allowed = |path: &str, place: &str| {
            path == place || (place.ends_with('/') && path.starts_with(place))
        };
        self.check_rust(|path, code, _| {
            (has_word(code, word) && !places.iter().any(|place| allowed(path, place)))
                .then(|| format!("`{word}` may stand only in {}", places.join(", ")))
        })
    }
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
        assert_eq!(file.text(), None);
    }
}

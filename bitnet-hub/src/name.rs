//! Model names, and validation of file names from a hub.

use std::fmt;

use crate::error::{Error, Result};

/// Maximum length of a path from a hub, in bytes.
const LONGEST_PATH: usize = 1024;
/// Maximum length of a path component, in bytes: the limit of common file systems.
const LONGEST_PART: usize = 255;
/// Maximum length of a repository name, in bytes.
const LONGEST_REPOSITORY: usize = 96;

/// A repository: `OWNER/NAME`, or `NAME` for the few without an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository(String);

impl Repository {
    /// Parses a name by the hub's rules: letters, digits, `-`, `_` and `.`, at most 96 characters, neither `--` nor
    /// `..`, parts that neither begin nor end with `-` or `.`.
    ///
    /// # Errors
    /// [`Error::Reference`] with the violated rule.
    pub fn new(name: &str) -> Result<Self> {
        let wrong = |problem| Error::Reference { text: name.to_owned(), problem };
        if name.len() > LONGEST_REPOSITORY {
            return Err(wrong("it is longer than 96 characters"));
        }
        if name.contains("--") || name.contains("..") {
            return Err(wrong("a name has neither -- nor .. in it"));
        }
        if name.ends_with(".git") {
            return Err(wrong("a name does not end with .git"));
        }
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() > 2 {
            return Err(wrong("it has more than one / (a file comes after a colon)"));
        }
        for part in parts {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if part.is_empty() || !part.chars().all(allowed) {
                return Err(wrong("names are made of letters, digits, '-', '_' and '.'"));
            }
            if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
                return Err(wrong("names neither begin nor end with '-' or '.'"));
            }
        }
        Ok(Self(name.to_owned()))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of its folder in the cache: `models--OWNER--NAME`.
    pub fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A model name: `[hf:]OWNER/NAME[@REVISION][:FILE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    /// The repository.
    pub repository: Repository,
    /// The branch, tag or commit, if any.
    pub revision: Option<String>,
    /// The file, or the type in a file's name, if any.
    pub file: Option<String>,
}

impl ModelName {
    /// Parses a model name.
    ///
    /// # Errors
    /// [`Error::Reference`] for an invalid name.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |problem| Error::Reference { text: text.to_owned(), problem };
        let rest = text.strip_prefix("hf:").unwrap_or(text);
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (rest, file) = match rest.split_once(':') {
            None => (rest, None),
            Some((rest, file)) => (rest, Some(file)),
        };
        let (name, revision) = match rest.split_once('@') {
            None => (rest, None),
            Some((name, revision)) => (name, Some(revision)),
        };
        if revision.is_some_and(|revision| path_problem(revision).is_some()) {
            return Err(wrong("the text after @ is not a branch, tag or commit"));
        }
        if file.is_some_and(|file| path_problem(file).is_some()) {
            return Err(wrong("the text after the colon is not a file name"));
        }
        let repository = Repository::new(name).map_err(|error| match error {
            Error::Reference { problem, .. } => wrong(problem),
            other => other,
        })?;
        Ok(Self {
            repository,
            revision: revision.map(str::to_owned),
            file: file.map(str::to_owned),
        })
    }

    /// Returns the revision; the default is `main`.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        if let Some(file) = &self.file {
            write!(f, ":{file}")?;
        }
        Ok(())
    }
}

/// Returns why a file name from a hub is unsafe as a path, if it is. The rules of all systems apply on every system,
/// because a cache may be shared.
pub fn path_problem(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        return Some("it is empty");
    }
    if path.len() > LONGEST_PATH {
        return Some("it is too long");
    }
    if path.starts_with('/') {
        return Some("it is absolute");
    }
    if path.contains('\\') {
        return Some("it has a backslash, which is a separator on some systems");
    }
    if path.contains(':') {
        return Some("it has a colon, which names drives on some systems");
    }
    if path.chars().any(|c| c.is_control() || is_direction_mark(c)) {
        return Some("it has control characters");
    }
    path.split('/').find_map(part_problem)
}

/// Characters that disguise a name.
fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn part_problem(part: &str) -> Option<&'static str> {
    if part == ".." || part == "." {
        return Some("it leaves its folder");
    }
    if part.is_empty() {
        return Some("it has an empty part");
    }
    if part.len() > LONGEST_PART {
        return Some("a part of it is too long");
    }
    if part.ends_with(['.', ' ']) {
        return Some("a part of it ends with a dot or a space");
    }
    let stem = part.split('.').next().unwrap_or(part).trim_end().to_ascii_uppercase();
    let numbered = |device: &str| {
        stem.strip_prefix(device).is_some_and(|n| n.len() == 1 && n.as_bytes()[0].is_ascii_digit())
    };
    if ["CON", "PRN", "AUX", "NUL"].contains(&stem.as_str()) || numbered("COM") || numbered("LPT") {
        return Some("it is the name of a device on some systems");
    }
    None
}

/// Returns whether a text is a full commit hash: 40 hexadecimal digits.
pub(crate) fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

/// Returns whether a text consists of `digits` lower-case hexadecimal digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_taken_apart() {
        let name = |text| ModelName::parse(text).unwrap();
        let plain = name("microsoft/bitnet-b1.58-2B-4T");
        assert_eq!(plain.repository.folder(), "models--microsoft--bitnet-b1.58-2B-4T");
        assert_eq!((plain.revision(), plain.file.as_deref()), ("main", None));
        let full = name("hf:a/b@refs/pr/1:sub/x.gguf");
        assert_eq!((full.revision(), full.file.as_deref()), ("refs/pr/1", Some("sub/x.gguf")));
        assert_eq!(full.to_string(), "a/b@refs/pr/1:sub/x.gguf");
        assert_eq!(name("hf://gpt2").repository.folder(), "models--gpt2");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "a/..",
            "../b",
            "a/b..c",
            "a/b--c",
            "a/-b",
            "a/b.",
            "a/b.git",
            "a b/c",
            "a/b@",
            "a/b:",
            "a/b@..",
            "a/b:../c",
            "a/b:/c",
            "a/é",
            "a/b\0",
            "a/b?c",
            "a/b#c",
            "https://x/a/b",
        ] {
            assert!(matches!(ModelName::parse(text), Err(Error::Reference { .. })), "{text:?}");
        }
        assert!(Repository::new(&"a".repeat(97)).is_err());
    }

    #[test]
    fn hostile_paths_are_rejected() {
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../x",
            "a/..",
            "./x",
            "a//b",
            "a/",
            "C:x",
            "C:/x",
            "a\\b",
            "\\\\host\\x",
            "x\0",
            "x\n",
            "\u{1b}[2J",
            "x\u{202e}fugg",
            "con",
            "NUL.txt",
            "a/lpt1.bin",
            "aux .txt",
            "a.",
            "a ",
            "x/b. /c",
        ] {
            assert!(path_problem(path).is_some(), "{path:?}");
        }
        assert!(path_problem(&"a".repeat(256)).is_some());
        assert!(path_problem(&"a/".repeat(600)).is_some());
        for path in [
            "config.json",
            "model-00001-of-00002.safetensors",
            "a/b/c d.gguf",
            ".gitattributes",
            "..x",
            "console.txt",
            "com10.bin",
            "ümlaut.json",
        ] {
            assert_eq!(path_problem(path), None, "{path:?}");
        }
    }

    proptest! {
        /// An accepted path stays below the folder that it is joined to.
        #[test]
        fn what_passes_stays_below(path in "[./a\\\\: C\u{0}-\u{1f}]{0,12}") {
            if path_problem(&path).is_none() {
                let joined = std::path::Path::new("base").join(&path);
                let mut components = joined.components();
                prop_assert_eq!(components.next(), Some(std::path::Component::Normal("base".as_ref())));
                prop_assert!(components.all(|c| matches!(c, std::path::Component::Normal(_))));
            }
        }
    }
}

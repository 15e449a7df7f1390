//! A violation found by a check: a position and a message.

use std::fmt;

/// A violation of a rule; displayed as `path:line: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file, relative to the root of the repository.
    pub path: String,
    /// The line, counted from 1; 1 for a finding about the whole file.
    pub line: usize,
    /// The problem and the remedy.
    pub what: String,
}

impl Finding {
    /// Creates a finding at `line` (counted from 1) of `path`.
    pub fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }

    /// Creates a finding at `line` of `path` for each of `problems`.
    pub fn all(
        path: &str,
        line: usize,
        problems: impl IntoIterator<Item: Into<String>>,
    ) -> impl Iterator<Item = Self> {
        problems.into_iter().map(move |what| Self::new(path, line, what))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

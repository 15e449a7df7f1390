//! The error type of this crate.

use std::io;
use std::path::{Path, PathBuf};

use bitnet_core::memory::units::bytes;

/// One of several models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The file, or the first of a split model.
    pub file: String,
    /// The size of all its files, if they are known.
    pub bytes: Option<u64>,
}

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a hub or its cache. Messages never contain a token or the query of a URL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not a model name.
    #[error(
        "{text:?} is not a model name: {problem}; write OWNER/NAME, OWNER/NAME@REVISION or OWNER/NAME:FILE"
    )]
    Reference {
        /// The text.
        text: String,
        /// The problem.
        problem: &'static str,
    },
    /// A file name from the hub is unsafe.
    #[error("{repository}: the file name {file:?} is rejected: {problem}")]
    FileName {
        /// The repository.
        repository: String,
        /// The name.
        file: String,
        /// The problem.
        problem: &'static str,
    },
    /// A setting from the environment is invalid.
    #[error("{name}: {problem}")]
    Setting {
        /// The variable, or the file that it refers to.
        name: String,
        /// The problem and the remedy.
        problem: String,
    },
    /// Downloads are disabled.
    #[error(
        "offline: {what} is not {} and is not downloaded; leave out --offline and unset HF_HUB_OFFLINE to download it",
        place(folder, missing)
    )]
    Offline {
        /// The item to download.
        what: String,
        /// The cache.
        folder: PathBuf,
        /// The missing files of a partially cached model.
        missing: Vec<String>,
    },
    /// A model is missing from the cache or incomplete.
    #[error("{what} is not {}; download it with: bitnet pull {what}", place(folder, missing))]
    NotCached {
        /// The model name.
        what: String,
        /// The cache.
        folder: PathBuf,
        /// The missing files of a partially cached model.
        missing: Vec<String>,
    },
    /// A cache entry that this program does not remove.
    #[error("{}: {problem}; remove it manually if intended", path.display())]
    NotRemoved {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        problem: &'static str,
    },
    /// The repository does not exist or is private.
    #[error(
        "{repository} is not on {endpoint}, or it is private: check the name; for a private model set HF_TOKEN to a token that may read it"
    )]
    NoRepository {
        /// The repository.
        repository: String,
        /// The hub.
        endpoint: String,
    },
    /// The revision does not exist.
    #[error(
        "{repository} has no revision {revision:?}: use a branch, a tag or a commit after the @"
    )]
    NoRevision {
        /// The repository.
        repository: String,
        /// The revision.
        revision: String,
    },
    /// The file does not exist in the repository.
    #[error("{repository} has no file {file:?}: --list lists its files")]
    NoFile {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
    },
    /// The repository is gated: its terms must be accepted first.
    #[error(
        "{repository} is gated: accept its terms at {endpoint}/{repository}, then set HF_TOKEN to a token of that account"
    )]
    Gated {
        /// The repository.
        repository: String,
        /// The hub.
        endpoint: String,
    },
    /// The hub rejects the token.
    #[error(
        "{endpoint} does not accept the token: create a new one and set HF_TOKEN, or unset it for public models"
    )]
    Token {
        /// The hub.
        endpoint: String,
    },
    /// The token lacks the permission.
    #[error("{endpoint} denies access to {repository}{said}: use a token that may read this model")]
    Forbidden {
        /// The repository.
        repository: String,
        /// The hub.
        endpoint: String,
        /// The hub's message after a colon, or empty.
        said: String,
    },
    /// Any other HTTP error status.
    #[error("{address} answered with status {status}{said}")]
    Status {
        /// The URL without its query.
        address: String,
        /// The HTTP status.
        status: u16,
        /// The hub's message after a colon, or empty.
        said: String,
    },
    /// The server is unreachable after all retries.
    #[error("{address}: {why}; {advice}")]
    Unreachable {
        /// The URL without its query.
        address: String,
        /// The last failure.
        why: String,
        /// The remedy.
        advice: &'static str,
    },
    /// An invalid response.
    #[error("{address}: {problem}")]
    Answer {
        /// The URL without its query.
        address: String,
        /// The problem.
        problem: String,
    },
    /// A downloaded file has the wrong length.
    #[error(
        "{file}: received {got} of {expected} bytes; the download was discarded: try again later"
    )]
    Length {
        /// The file.
        file: String,
        /// The announced length in bytes.
        expected: u64,
        /// The received bytes.
        got: u64,
    },
    /// A downloaded file has the wrong checksum.
    #[error(
        "{file} is damaged: its {kind} is {got}, not {expected}; the download was discarded: try again"
    )]
    Checksum {
        /// The file.
        file: String,
        /// The kind of checksum.
        kind: &'static str,
        /// The expected checksum.
        expected: String,
        /// The actual checksum.
        got: String,
    },
    /// The disk is full.
    #[error("{file} needs {} more in {}{}; the partial download remains", bytes(*needed), folder.display(), free_text(*free))]
    Disk {
        /// The file.
        file: String,
        /// The folder on the disk.
        folder: PathBuf,
        /// Missing bytes.
        needed: u64,
        /// Free bytes, if the OS reports them.
        free: Option<u64>,
    },
    /// A file operation failed.
    #[error("can't {action} {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The failed action.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The repository has several models; the user has to choose.
    #[error("{repository} has {} models; name one of these:{}", choices.len(), list(repository, choices))]
    Choose {
        /// The repository.
        repository: String,
        /// The models.
        choices: Vec<Choice>,
    },
    /// The repository has only models of unsupported types.
    #[error(
        "{repository} has only models of unsupported types; use a repository with safetensors or with one of \
         TQ1_0, TQ2_0, I2_S, Q2_0, PQ2_0, PTQ1_0, IQ2_BN, Q8_0, F16 or BF16. To download one anyway, name it:{}",
        list(repository, choices)
    )]
    NotRunnable {
        /// The repository.
        repository: String,
        /// The models.
        choices: Vec<Choice>,
    },
    /// The repository has no model.
    #[error(
        "{repository} has no model that can be run by itself: {seen}; {remedy} (--list lists all files)"
    )]
    NoModel {
        /// The repository.
        repository: String,
        /// What it has.
        seen: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// The disk has no room for a model.
    #[error(
        "{repository} needs {} in {}, where {} are free: make room, or set HF_HUB_CACHE to a folder on another disk",
        bytes(*needed), folder.display(), bytes(*free)
    )]
    Room {
        /// The repository.
        repository: String,
        /// The folder on the disk.
        folder: PathBuf,
        /// Bytes to download.
        needed: u64,
        /// Free bytes.
        free: u64,
    },
    /// No file matches the patterns.
    #[error("{repository} has no file that matches the patterns: --list lists its files")]
    NoMatch {
        /// The repository.
        repository: String,
    },
    /// The user stopped the download.
    #[error("stopped; the same command resumes the download")]
    Stopped,
}

impl Error {
    /// Returns a closure for `map_err`: `action` failed on `path`.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), action, source }
    }
}

/// Maximum number of listed missing files.
const LISTED: usize = 5;

fn place(folder: &Path, missing: &[String]) -> String {
    let folder = folder.display();
    match missing {
        [] => format!("in {folder}"),
        some => {
            let more = some.len().saturating_sub(LISTED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let names = some[..some.len().min(LISTED)].join(", ");
            format!("complete in {folder}: {names}{more} missing")
        }
    }
}

fn free_text(free: Option<u64>) -> String {
    free.map_or_else(
        || ", which is full".to_owned(),
        |free| format!(", where {} are free", bytes(free)),
    )
}

fn list(repository: &str, choices: &[Choice]) -> String {
    let line = |choice: &Choice| {
        let size = choice.bytes.map_or_else(String::new, |size| format!(" ({})", bytes(size)));
        format!("\n  -m {repository}:{}{size}", choice.file)
    };
    choices.iter().map(line).collect()
}

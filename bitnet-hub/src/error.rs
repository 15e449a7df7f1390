//! What can go wrong between a name on a hub and a file on the disk.

use std::io;
use std::path::{Path, PathBuf};

use bitnet_core::memory::units::bytes;

use crate::choose::Choice;

/// The result of everything in this crate that can fail.
pub type Result<T, E = HubError> = std::result::Result<T, E>;

/// What can go wrong between a name on a hub and a file on the disk. No message holds a token or the query of an address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// What the user typed names no model.
    #[error(
        "{text:?} names no model of a hub: {problem}; write OWNER/NAME, OWNER/NAME@REVISION or OWNER/NAME:FILE"
    )]
    Reference {
        /// What was typed.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The hub gives a file a name that has no place in a folder.
    #[error("{repository}: the file name {file:?} is refused: {problem}")]
    FileName {
        /// The repository.
        repository: String,
        /// The name.
        file: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A setting from the environment can't be used.
    #[error("{name}: {problem}")]
    Setting {
        /// The variable, or the file that it names.
        name: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// Downloads are switched off.
    #[error(
        "offline: {what} is not {} and is not downloaded; leave out --offline and unset HF_HUB_OFFLINE to download it",
        place(folder, missing)
    )]
    Offline {
        /// What would have been downloaded.
        what: String,
        /// The cache.
        folder: PathBuf,
        /// Files that are missing, if some of its files are there.
        missing: Vec<String>,
    },
    /// A model is not in the cache, or not all of it.
    #[error("{what} is not {}; get it with: bitnet pull {what}", place(folder, missing))]
    NotCached {
        /// The model, as it is typed.
        what: String,
        /// The cache.
        folder: PathBuf,
        /// Files that are missing, if some of its files are there.
        missing: Vec<String>,
    },
    /// Something in the cache that this program does not remove.
    #[error("{}: {problem}; remove it by hand if you mean to", path.display())]
    NotRemoved {
        /// The file or folder.
        path: PathBuf,
        /// Why it is not removed.
        problem: &'static str,
    },
    /// There is no such repository, or it is private.
    #[error(
        "{repository} is not on {endpoint}, or it is private: check the name; for a private model set HF_TOKEN to a token that may read it"
    )]
    NoRepository {
        /// The repository.
        repository: String,
        /// The hub.
        endpoint: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error(
        "{repository} has no revision {revision:?}: give a branch, a tag or a commit after the @"
    )]
    NoRevision {
        /// The repository.
        repository: String,
        /// The revision.
        revision: String,
    },
    /// The repository has no such file.
    #[error("{repository} has no file {file:?}: --list names those that it has")]
    NoFile {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
    },
    /// The authors want terms to be accepted first.
    #[error(
        "{repository} is gated: accept its terms at {endpoint}/{repository}, then set HF_TOKEN to a token of that account"
    )]
    Gated {
        /// The repository.
        repository: String,
        /// The hub.
        endpoint: String,
    },
    /// The hub does not know the token.
    #[error(
        "{endpoint} does not accept the token: make a new one and set HF_TOKEN, or unset it for public models"
    )]
    Token {
        /// The hub.
        endpoint: String,
    },
    /// The token does not allow it.
    #[error("{endpoint} forbids it for {repository}{said}: use a token that may read this model")]
    Forbidden {
        /// The repository.
        repository: String,
        /// The hub.
        endpoint: String,
        /// What the hub said about it, with a colon before it, or nothing.
        said: String,
    },
    /// Any other refusal.
    #[error("{address} answered with status {status}{said}")]
    Status {
        /// The address without its query.
        address: String,
        /// The HTTP status.
        status: u16,
        /// What the hub said about it, with a colon before it, or nothing.
        said: String,
    },
    /// The other side can't be reached, however often it is tried.
    #[error("{address}: {why}; {advice}")]
    Unreachable {
        /// The address without its query.
        address: String,
        /// What happened last.
        why: String,
        /// What to do.
        advice: &'static str,
    },
    /// An answer that can't be used.
    #[error("{address}: {problem}")]
    Answer {
        /// The address without its query.
        address: String,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The file that came has another length than the hub said.
    #[error(
        "{file} has {expected} bytes by the hub's word, but {got} came; nothing was kept: try again later"
    )]
    Length {
        /// The file.
        file: String,
        /// Bytes that the hub announced.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// The file that came is not the file that the hub has.
    #[error("{file} is damaged: its {kind} is {got}, not {expected}; nothing was kept: try again")]
    Checksum {
        /// The file.
        file: String,
        /// The kind of checksum.
        kind: &'static str,
        /// The checksum that the hub announced.
        expected: String,
        /// That of what came.
        got: String,
    },
    /// The disk has no room.
    #[error("{file} needs {} more in {}{}; what has come is kept", bytes(*needed), folder.display(), free_text(*free))]
    Disk {
        /// The file.
        file: String,
        /// The folder on the disk.
        folder: PathBuf,
        /// Bytes that are missing.
        needed: u64,
        /// Bytes that are free, where the system says so.
        free: Option<u64>,
    },
    /// A file can't be read or written.
    #[error("can't {action} {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What could not be done.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The repository has several models, and the user has to say which.
    #[error("{repository} has {} models; choose one of these:{}", choices.len(), list(repository, choices))]
    Choose {
        /// The repository.
        repository: String,
        /// What there is.
        choices: Vec<Choice>,
    },
    /// The repository has only models of types that this program can't run.
    #[error(
        "{repository} has only models of types that this program can't run; to have one all the same, name it:{}",
        list(repository, choices)
    )]
    NotRunnable {
        /// The repository.
        repository: String,
        /// What there is.
        choices: Vec<Choice>,
    },
    /// The repository has nothing that this program could run.
    #[error(
        "{repository} has neither GGUF nor safetensors files: --list names what it has, --include takes files by name"
    )]
    NoModel {
        /// The repository.
        repository: String,
    },
    /// No name matches the patterns.
    #[error("{repository} has no file that the patterns ask for: --list names what it has")]
    NoMatch {
        /// The repository.
        repository: String,
    },
    /// The user stopped it.
    #[error("stopped; what has come is kept: the same command goes on from there")]
    Stopped,
}

impl HubError {
    /// For `map_err`: that `action` failed on `path`.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), action, source }
    }
}

/// Names that are listed of missing files.
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
        format!("\n  {repository}:{}{size}", choice.file)
    };
    choices.iter().map(line).collect()
}

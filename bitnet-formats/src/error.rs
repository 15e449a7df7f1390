//! The one error type of this crate: which file, which tensor, key or field, at which byte, and what to do about it.

use std::path::Path;

/// The longest piece of a file's own text that a message repeats, in characters.
const SHOWN_CHARS: usize = 96;

/// What went wrong with a container file.
///
/// Text that comes out of a file (keys, names, values) is escaped and shortened before it is stored here, so that a
/// message may be printed to a terminal or a log as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{file}: cannot {action}: {source}; {}", bitnet_core::file_advice(source.kind()))]
    Io {
        /// The file or folder.
        file: String,
        /// What was being done, as a verb phrase.
        action: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The path names a directory, a pipe, a device or a socket.
    #[error("{file} is {kind}, not a regular file; give the path of a model file")]
    NotRegularFile {
        /// The path.
        file: String,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// The file became shorter after it had been mapped; what was read past its new end was zeros.
    #[error(
        "{file}: the file was cut to {now} bytes while its {mapped} bytes were mapped; restore it and load it again"
    )]
    Truncated {
        /// The file.
        file: String,
        /// Its length when it was mapped, in bytes.
        mapped: u64,
        /// Its length now, in bytes.
        now: u64,
    },
    /// The file was written to after it had been mapped.
    #[error(
        "{file}: the file was changed while it was in use: {change}; load it again, and replace model files by renaming"
    )]
    Changed {
        /// The file.
        file: String,
        /// What is no longer as it was: its length, or the time at which it was last written to.
        change: String,
    },
    /// Something begins inside the file and would end outside it.
    #[error(
        "{file}: {what} at byte {offset} needs {needed} bytes, but {available} remain; the file is cut short or damaged: \
         download or convert it again"
    )]
    UnexpectedEnd {
        /// The file.
        file: String,
        /// What was being read.
        what: String,
        /// Where it begins.
        offset: u64,
        /// How many bytes it needs.
        needed: u64,
        /// How many bytes there are.
        available: u64,
    },
    /// The first bytes are not those of the format.
    #[error("{file}: the bytes at 0 ({found}) are not {expected}; {advice}")]
    WrongFormat {
        /// The file.
        file: String,
        /// What should have stood there.
        expected: &'static str,
        /// What stands there, escaped.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// A version of GGUF that is not read.
    #[error("{file}: GGUF version {version} at byte 4 is not supported (2 and 3 are); {advice}")]
    UnsupportedVersion {
        /// The file.
        file: String,
        /// The version that the file names.
        version: u32,
        /// What to do.
        advice: &'static str,
    },
    /// A GGUF file in big-endian byte order.
    #[error(
        "{file}: version field at byte 4 shows big-endian byte order; convert it with `gguf-convert-endian FILE little`"
    )]
    BigEndian {
        /// The file.
        file: String,
    },
    /// A number in the file is larger than this crate accepts.
    #[error(
        "{file}: {what} at byte {offset} is {value}, the limit is {limit}; no model needs that: the file is damaged or hostile"
    )]
    Limit {
        /// The file.
        file: String,
        /// What is too large.
        what: String,
        /// Where it stands.
        offset: u64,
        /// Its value.
        value: u64,
        /// The largest accepted value.
        limit: u64,
    },
    /// The container's own structure is wrong.
    #[error(
        "{file}: {field} at byte {offset}: {problem}; the file is damaged: download or convert it again"
    )]
    Header {
        /// The file.
        file: String,
        /// The field of the structure.
        field: String,
        /// Where it stands.
        offset: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A metadata key or its value is wrong.
    #[error(
        "{file}: metadata key \"{key}\" at byte {offset}: {problem}; correct the key or convert the model again"
    )]
    Key {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// Where the key or the offending part of its value stands.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// A metadata key that is needed is absent.
    #[error(
        "{file}: metadata key \"{key}\" ({expected}) is missing; add it or convert the model again"
    )]
    MissingKey {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// The type that was wanted.
        expected: &'static str,
    },
    /// A metadata value has another type than the one needed, or does not fit in it.
    #[error(
        "{file}: metadata key \"{key}\" is {found}, but {expected} is needed; correct it or convert the model again"
    )]
    KeyType {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// The type that was wanted.
        expected: &'static str,
        /// The type and, for scalars, the value found.
        found: String,
    },
    /// The same key twice.
    #[error(
        "{file}: metadata key \"{key}\" appears a second time at byte {offset}; remove one of the two"
    )]
    DuplicateKey {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// Where the second one stands.
        offset: u64,
    },
    /// A tensor that is needed is absent.
    #[error(
        "{file}: tensor \"{tensor}\" is missing; the model is incomplete or of another architecture"
    )]
    MissingTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// The same tensor name twice.
    #[error(
        "{file}: tensor \"{tensor}\" appears a second time at byte {offset}; convert the model again"
    )]
    DuplicateTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Where the second one stands.
        offset: u64,
    },
    /// What a file says about a tensor is wrong.
    #[error(
        "{file}: tensor \"{tensor}\", {field} at byte {offset}: {problem}; download or convert the model again"
    )]
    Tensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The field of its description.
        field: &'static str,
        /// Where the description (or, for data, the data) stands.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// A tensor is stored in a type that this program does not read.
    #[error(
        "{file}: tensor \"{tensor}\", type at byte {offset}: {type_name} is not supported; {advice}"
    )]
    UnsupportedType {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The type's name, or its number where it has none.
        type_name: String,
        /// Where the type field stands.
        offset: u64,
        /// What to do.
        advice: &'static str,
    },
    /// One file of a model in several files is missing, repeated or outside the model's folder.
    #[error("{file}: shard \"{shard}\": {problem}")]
    Shard {
        /// The file that names the shard.
        file: String,
        /// The shard.
        shard: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A pickle: running it would run its author's program, so it is never opened.
    #[error(
        "{file}: this is {kind} (a pickle can run any program when loaded), which is not read; \
         get the model as .safetensors or .gguf, or convert it with `safetensors.torch.save_file` where you trust it"
    )]
    Pickle {
        /// The file.
        file: String,
        /// How it was recognised.
        kind: &'static str,
    },
    /// A folder does not hold exactly one model.
    #[error("{folder}: {problem}")]
    Folder {
        /// The folder.
        folder: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// What the memory system refused.
    #[error(transparent)]
    Memory(bitnet_core::Error),
}

/// What goes wrong with a mapped file goes by this crate's names; the rest keeps its own.
impl From<bitnet_core::Error> for Error {
    fn from(error: bitnet_core::Error) -> Self {
        use bitnet_core::Error as Core;
        match error {
            Core::File { file, action, kind, problem } => {
                Self::Io { file, action, source: std::io::Error::new(kind, problem) }
            }
            Core::NotRegularFile { file, kind } => Self::NotRegularFile { file, kind },
            Core::FileTruncated { file, mapped, now } => Self::Truncated { file, mapped, now },
            Core::FileChanged { file, change } => Self::Changed { file, change },
            other => Self::Memory(other),
        }
    }
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(file: &str, action: &'static str, source: std::io::Error) -> Self {
        Self::Io { file: file.to_owned(), action, source }
    }

    pub(crate) fn header(file: &str, field: &str, offset: u64, problem: impl Into<String>) -> Self {
        Self::Header {
            file: file.to_owned(),
            field: field.to_owned(),
            offset,
            problem: problem.into(),
        }
    }

    pub(crate) fn key(file: &str, key: &str, offset: u64, problem: impl Into<String>) -> Self {
        Self::Key { file: file.to_owned(), key: shown(key), offset, problem: problem.into() }
    }

    pub(crate) fn tensor(
        file: &str,
        tensor: &str,
        field: &'static str,
        offset: u64,
        problem: impl Into<String>,
    ) -> Self {
        Self::Tensor {
            file: file.to_owned(),
            tensor: shown(tensor),
            field,
            offset,
            problem: problem.into(),
        }
    }

    pub(crate) fn limit(
        file: &str,
        what: impl Into<String>,
        offset: u64,
        value: u64,
        limit: u64,
    ) -> Self {
        Self::Limit { file: file.to_owned(), what: what.into(), offset, value, limit }
    }

    pub(crate) fn shard(file: &str, shard: &str, problem: impl Into<String>) -> Self {
        Self::Shard { file: file.to_owned(), shard: shown(shard), problem: problem.into() }
    }
}

/// Text from a file, fit for a message: control characters, quotes and anything that does not print are escaped, and what
/// is longer than 96 characters loses its middle.
#[must_use]
pub fn shown(text: &str) -> String {
    let keep = SHOWN_CHARS / 2;
    // Characters are counted only as far as needed: the text may be as large as the file.
    let long = text.chars().nth(SHOWN_CHARS).is_some();
    if !long {
        return text.escape_debug().to_string();
    }
    let head: String = text.chars().take(keep).flat_map(char::escape_debug).collect();
    let mut tail: Vec<char> = text.chars().rev().take(keep).collect();
    tail.reverse();
    let tail: String = tail.into_iter().flat_map(char::escape_debug).collect();
    format!("{head}...{tail} ({} bytes)", text.len())
}

/// The same for bytes that need not be text.
pub(crate) fn shown_bytes(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".to_owned();
    }
    format!("\"{}\"", bytes.escape_ascii())
}

/// A path as messages name it: escaped, in full.
pub(crate) fn shown_path(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_escaped_and_shortened() {
        let text = shown("\u{1b}[31mred\nnext");
        assert_eq!(text, "\\u{1b}[31mred\\nnext");
        let text = shown(&"x".repeat(100_000));
        assert!(
            text.len() < 200 && text.contains("...") && text.contains("100000 bytes"),
            "{text}"
        );
        assert!(
            !shown("\u{202e}evil").contains('\u{202e}'),
            "a right-to-left override must not reach a terminal"
        );
    }
}

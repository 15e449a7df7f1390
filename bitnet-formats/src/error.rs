//! The error type of this crate. Errors name the file, the tensor, key or field, the byte offset and the remedy.

use std::path::Path;

/// Maximum length of text from a file quoted in a message, in characters.
const SHOWN_CHARS: usize = 96;

/// An error about a container file.
///
/// Text from the file (keys, names, values) is escaped and shortened before it is stored here, so that messages are
/// safe to print to a terminal or a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operating system call failed.
    #[error("{file}: cannot {action}: {source}; {}", bitnet_core::file_advice(source.kind()))]
    Io {
        /// The file or folder.
        file: String,
        /// The failed action, a verb phrase.
        action: &'static str,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The path names a directory, a pipe, a device or a socket.
    #[error("{file} is {kind}, not a regular file; use the path of a model file")]
    NotRegularFile {
        /// The path.
        file: String,
        /// The kind of file, with its article.
        kind: &'static str,
    },
    /// The file was truncated after it was mapped; reads beyond its new end returned zeros.
    #[error(
        "{file}: the file was truncated to {now} of {mapped} bytes while it was mapped; restore it and load it again"
    )]
    Truncated {
        /// The file.
        file: String,
        /// Its length when it was mapped, in bytes.
        mapped: u64,
        /// Its length now, in bytes.
        now: u64,
    },
    /// The file was modified after it was mapped.
    #[error(
        "{file}: the file was changed while it was in use: {change}; load it again, and replace model files by renaming"
    )]
    Changed {
        /// The file.
        file: String,
        /// The property that changed: its length or its time of modification.
        change: String,
    },
    /// An item extends beyond the end of the file.
    #[error(
        "{file}: {what} at byte {offset} needs {needed} bytes, but {available} remain; the file is cut short or damaged: \
         download or convert it again"
    )]
    UnexpectedEnd {
        /// The file.
        file: String,
        /// The item being read.
        what: String,
        /// Its offset in bytes.
        offset: u64,
        /// Its length in bytes.
        needed: u64,
        /// The number of available bytes.
        available: u64,
    },
    /// The file does not begin with the magic bytes of the format.
    #[error("{file}: the bytes at 0 ({found}) are not {expected}; {advice}")]
    WrongFormat {
        /// The file.
        file: String,
        /// The expected content.
        expected: &'static str,
        /// The bytes found, escaped.
        found: String,
        /// The remedy.
        advice: &'static str,
    },
    /// An unsupported GGUF version.
    #[error("{file}: GGUF version {version} at byte 4 is not supported (2 and 3 are); {advice}")]
    UnsupportedVersion {
        /// The file.
        file: String,
        /// The version in the file.
        version: u32,
        /// The remedy.
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
    /// A number in the file exceeds its limit.
    #[error(
        "{file}: {what} at byte {offset} is {value}, the limit is {limit}; no model needs that: the file is damaged or hostile"
    )]
    Limit {
        /// The file.
        file: String,
        /// The quantity.
        what: String,
        /// Its offset in bytes.
        offset: u64,
        /// Its value.
        value: u64,
        /// The maximum.
        limit: u64,
    },
    /// The structure of the container is invalid.
    #[error(
        "{file}: {field} at byte {offset}: {problem}; the file is damaged: download or convert it again"
    )]
    Header {
        /// The file.
        file: String,
        /// The invalid field.
        field: String,
        /// Its offset in bytes.
        offset: u64,
        /// The problem.
        problem: String,
    },
    /// A metadata key or its value is invalid.
    #[error(
        "{file}: metadata key \"{key}\" at byte {offset}: {problem}; correct the key or convert the model again"
    )]
    Key {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// The offset of the key or the invalid part of its value, in bytes.
        offset: u64,
        /// The problem.
        problem: String,
    },
    /// A required metadata key is missing.
    #[error(
        "{file}: metadata key \"{key}\" ({expected}) is missing; add it or convert the model again"
    )]
    MissingKey {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// The expected type.
        expected: &'static str,
    },
    /// A metadata value has the wrong type or is out of its range.
    #[error(
        "{file}: metadata key \"{key}\" is {found}, but {expected} is needed; correct it or convert the model again"
    )]
    KeyType {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// The expected type.
        expected: &'static str,
        /// The actual type and, for scalars, the value.
        found: String,
    },
    /// A key appears twice.
    #[error(
        "{file}: metadata key \"{key}\" appears a second time at byte {offset}; remove one of the two"
    )]
    DuplicateKey {
        /// The file.
        file: String,
        /// The key.
        key: String,
        /// The offset of the second one, in bytes.
        offset: u64,
    },
    /// A required tensor is missing.
    #[error(
        "{file}: tensor \"{tensor}\" is missing; the model is incomplete or of another architecture"
    )]
    MissingTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// A tensor name appears twice.
    #[error(
        "{file}: tensor \"{tensor}\" appears a second time at byte {offset}; convert the model again"
    )]
    DuplicateTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The offset of the second one, in bytes.
        offset: u64,
    },
    /// The description of a tensor is invalid.
    #[error(
        "{file}: tensor \"{tensor}\", {field} at byte {offset}: {problem}; download or convert the model again"
    )]
    Tensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The field of the description.
        field: &'static str,
        /// The offset of the description or of the data, in bytes.
        offset: u64,
        /// The problem.
        problem: String,
    },
    /// The type of a tensor is not supported.
    #[error(
        "{file}: tensor \"{tensor}\", type at byte {offset}: {type_name} is not supported; {advice}"
    )]
    UnsupportedType {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The name of the type, or its id if it has none.
        type_name: String,
        /// The offset of the type field, in bytes.
        offset: u64,
        /// The remedy.
        advice: &'static str,
    },
    /// A shard is missing, duplicated or outside the model's folder.
    #[error("{file}: shard \"{shard}\": {problem}")]
    Shard {
        /// The file that refers to the shard.
        file: String,
        /// The shard.
        shard: String,
        /// The problem and the remedy.
        problem: String,
    },
    /// The file is a pickle. Pickles can execute arbitrary code and are never opened.
    #[error(
        "{file}: this is {kind} (a pickle can run any program when loaded), which is not read; \
         get the model as .safetensors or .gguf, or convert it with `safetensors.torch.save_file` where you trust it"
    )]
    Pickle {
        /// The file.
        file: String,
        /// How the pickle was detected.
        kind: &'static str,
    },
    /// The folder does not contain exactly one model.
    #[error("{folder}: {problem}")]
    Folder {
        /// The folder.
        folder: String,
        /// The problem and the remedy.
        problem: String,
    },
    /// An error of the memory system.
    #[error(transparent)]
    Memory(bitnet_core::Error),
}

/// Maps errors about mapped files to this crate's variants; wraps all others.
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

/// The result type of this crate.
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

    pub(crate) fn unexpected_end(
        file: &str,
        what: impl ToString,
        offset: u64,
        needed: u64,
        available: u64,
    ) -> Self {
        let (file, what) = (file.to_owned(), what.to_string());
        Self::UnexpectedEnd { file, what, offset, needed, available }
    }

    pub(crate) fn duplicate_tensor(file: &str, tensor: &str, offset: u64) -> Self {
        Self::DuplicateTensor { file: file.to_owned(), tensor: shown(tensor), offset }
    }

    pub(crate) fn shard(file: &str, shard: &str, problem: impl Into<String>) -> Self {
        Self::Shard { file: file.to_owned(), shard: shown(shard), problem: problem.into() }
    }
}

/// Rejects a number of the file above its limit.
pub(crate) fn check_limit(
    file: &str,
    what: impl ToString,
    offset: u64,
    value: u64,
    limit: u64,
) -> Result<()> {
    if value <= limit {
        return Ok(());
    }
    Err(Error::Limit { file: file.to_owned(), what: what.to_string(), offset, value, limit })
}

/// Escapes text from a file for a message: control characters, quotes and non-printing characters. Text longer than
/// 96 characters is shortened in the middle.
#[must_use]
pub fn shown(text: &str) -> String {
    let keep = SHOWN_CHARS / 2;
    // Only as many characters as needed are counted: the text may be as large as the file.
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

/// Escapes bytes, which need not be UTF-8, for a message.
pub(crate) fn shown_bytes(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "nothing".to_owned();
    }
    format!("\"{}\"", bytes.escape_ascii())
}

/// Escapes a path for a message, in full length.
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

//! What can go wrong in a conversion.

use std::io;
use std::path::PathBuf;

use bitnet_inference::InferenceError;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in a conversion.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source can't be read, or the result could not be read back.
    #[error(transparent)]
    Model(#[from] InferenceError),
    /// A container can't be read or written.
    #[error(transparent)]
    Format(#[from] bitnet_formats::Error),
    /// Memory.
    #[error(transparent)]
    Core(#[from] bitnet_core::Error),
    /// A name that no storage type has.
    #[error("unknown type {name}; known are {known}")]
    UnknownStorage {
        /// The name.
        name: String,
        /// Those that are known.
        known: String,
    },
    /// A tensor that can't be stored as asked.
    #[error("tensor {tensor} as {storage}: {source}")]
    Tensor {
        /// The tensor's name in the output.
        tensor: String,
        /// The storage asked for.
        storage: String,
        /// Why it can't.
        source: Box<bitnet_quant::Error>,
    },
    /// A request that would change the model, or has no meaning.
    #[error("{what}: {problem}")]
    Refused {
        /// The tensor, file or option.
        what: String,
        /// Why it is refused and what to do.
        problem: String,
    },
    /// A file or folder that can't be read or written.
    #[error("can't {action} {}: {source}; {}", path.display(), bitnet_core::file_advice(source.kind()))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What failed.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// What was written is not what was meant.
    #[error(
        "{}: tensor {tensor} was read back and {problem}; nothing was put under the final name", path.display()
    )]
    Unproven {
        /// The file written.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The source was replaced, written to or cut while it was being converted.
    #[error(
        "{} changed while it was being converted; nothing was put under the final name: give the command again", path.display()
    )]
    SourceChanged {
        /// The file.
        path: PathBuf,
    },
    /// The conversion could not go on for want of something outside of it: room, permission, a disk.
    #[error("{source}; what is done is kept in {}, and the same command goes on from there", partial.display())]
    Halted {
        /// The folder with what is done.
        partial: PathBuf,
        /// Why.
        source: Box<Error>,
    },
    /// The conversion was asked to stop before it had written anything.
    #[error("stopped before anything was converted")]
    Interrupted,
    /// The conversion was asked to stop.
    #[error("stopped; what is done is kept in {}, and the same command goes on from there", partial.display())]
    Stopped {
        /// The folder with what is done.
        partial: PathBuf,
    },
}

impl Error {
    /// An error of the file system.
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str) -> impl Fn(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path: path.clone(), action, source }
    }

    /// An error of the file system, and an interruption, with the place of what is done; any other as it is.
    pub(crate) fn keeping(self, partial: &std::path::Path) -> Self {
        let of_disk = matches!(
            self,
            Self::Io { .. }
                | Self::Format(bitnet_formats::Error::Io { .. })
                | Self::Model(
                    InferenceError::Io { .. }
                        | InferenceError::Format(bitnet_formats::Error::Io { .. })
                )
        );
        if matches!(self, Self::Interrupted) && partial.is_dir() {
            return Self::Stopped { partial: partial.to_owned() };
        }
        if of_disk && partial.is_dir() {
            return Self::Halted { partial: partial.to_owned(), source: Box::new(self) };
        }
        self
    }

    /// A refusal.
    pub(crate) fn refused(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), problem: problem.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_errors_end_in_advice_for_their_kind() {
        let text = |kind: io::ErrorKind| Error::io("out", "write into")(kind.into()).to_string();
        assert!(text(io::ErrorKind::StorageFull).ends_with("make room on the disk"));
        assert!(
            text(io::ErrorKind::PermissionDenied)
                .ends_with("permissions of the file and of its folder")
        );
        assert!(
            text(io::ErrorKind::ReadOnlyFilesystem).ends_with("a place that can be written to")
        );
        let source = io::ErrorKind::StorageFull.into();
        let format = bitnet_formats::Error::Io { file: "out".into(), action: "write", source };
        assert!(format.to_string().ends_with("make room on the disk"), "{format}");
    }
}

//! The error type of this crate.

use std::io;
use std::path::PathBuf;

use bitnet_inference::InferenceError;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a conversion.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source or the result can't be read.
    #[error(transparent)]
    Model(#[from] InferenceError),
    /// A container can't be read or written.
    #[error(transparent)]
    Format(#[from] bitnet_formats::Error),
    /// Memory.
    #[error(transparent)]
    Core(#[from] bitnet_core::Error),
    /// A storage type is unknown.
    #[error(transparent)]
    Storage(#[from] bitnet_quant::Error),
    /// A tensor can't be stored as requested.
    #[error("tensor {tensor} as {storage}: {source}")]
    Tensor {
        /// The tensor's name in the output.
        tensor: String,
        /// The requested storage type.
        storage: String,
        /// The reason.
        source: Box<bitnet_quant::Error>,
    },
    /// A request that would change the model or is invalid.
    #[error("{what}: {problem}")]
    Refused {
        /// The tensor, file or option.
        what: String,
        /// The reason and the remedy.
        problem: String,
    },
    /// A file operation failed.
    #[error("can't {action} {}: {source}; {}", path.display(), bitnet_core::file_advice(source.kind()))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The failed action.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The verification of the result failed.
    #[error(
        "{}: verification of tensor {tensor} failed: {problem}; the result was not renamed to its final name", path.display()
    )]
    Unproven {
        /// The file written.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The problem.
        problem: String,
    },
    /// The source changed during the conversion.
    #[error(
        "{} changed while it was being converted; the result was not renamed to its final name: run the command again", path.display()
    )]
    SourceChanged {
        /// The file.
        path: PathBuf,
    },
    /// The conversion was interrupted by its environment: disk space, permissions, the disk.
    #[error("{source}; finished work remains in {}, and the same command resumes from there", partial.display())]
    Halted {
        /// The folder with the finished work.
        partial: PathBuf,
        /// The cause.
        source: Box<Error>,
    },
    /// The conversion was stopped before it wrote anything.
    #[error("stopped before anything was converted")]
    Interrupted,
    /// The conversion was stopped.
    #[error("stopped; finished work remains in {}, and the same command resumes from there", partial.display())]
    Stopped {
        /// The folder with the finished work.
        partial: PathBuf,
    },
}

impl Error {
    /// Creates a file system error.
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str) -> impl Fn(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path: path.clone(), action, source }
    }

    /// Adds the partial folder to a file system error or an interruption; other errors are unchanged.
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

    /// Creates [`Error::Tensor`].
    pub(crate) fn tensor(
        tensor: &str,
        storage: &str,
        source: impl Into<bitnet_quant::Error>,
    ) -> Self {
        let source = Box::new(source.into());
        Self::Tensor { tensor: tensor.to_owned(), storage: storage.to_owned(), source }
    }

    /// Creates [`Error::Refused`].
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

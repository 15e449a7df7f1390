//! The error type of this crate. Messages state the remedy.
use std::path::PathBuf;

/// A failure of training, of its files or of its configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Memory is exhausted.
    #[error(transparent)]
    Memory(#[from] bitnet_core::Error),
    /// A field of the configuration is out of range.
    #[error("configuration field `{field}`: {reason}")]
    Config {
        /// Name of the field in the JSON file.
        field: &'static str,
        /// The problem and the valid values.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}; {}", path.display(), bitnet_core::file_advice(source.kind()))]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file could not be written; the error names it.
    #[error(transparent)]
    Write(bitnet_formats::Error),
    /// A new run would replace a file.
    #[error("{} already exists; continue that run (--resume), or choose another folder", path.display())]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// A run can't be resumed, because the folder has files of a run but no checkpoint.
    #[error(
        "{} exists, but checkpoint.safetensors is missing, so that run can't be resumed; move the file away, or choose another folder",
        path.display()
    )]
    NothingToResume {
        /// A file of that run.
        path: PathBuf,
    },
    /// A JSON file is invalid.
    #[error("{}: {source}; compare it with models/stories.json", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The position and the problem.
        source: serde_json::Error,
    },
    /// A checkpoint can't be written or read, or belongs to another run.
    #[error("checkpoint {}: {reason}; correct it, or train without it", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// The loss became NaN or infinite.
    #[error(
        "loss is {loss} at step {step}; lower `peak_learning_rate` and resume from the last checkpoint"
    )]
    Diverged {
        /// The step.
        step: u64,
        /// The loss.
        loss: f64,
    },
    /// A vocabulary can't be built or does not cover a text.
    #[error("vocabulary: {0}")]
    Vocabulary(String),
    /// The exported file could not be written.
    #[error("export: {0}")]
    Export(String),
}

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

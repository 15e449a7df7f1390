//! Everything that can go wrong while training, each variant naming what to change.
use std::path::PathBuf;

/// A failure of training, of its files or of its configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Memory can't be had.
    #[error(transparent)]
    Memory(#[from] bitnet_core::Error),
    /// A field of the configuration has a value that no model can have.
    #[error("configuration field `{field}`: {reason}")]
    Config {
        /// Name of the field as it stands in the JSON file.
        field: &'static str,
        /// What is wrong and which values are allowed.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}; {}", path.display(), bitnet_core::file_advice(source.kind()))]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file could not be written; the error names it.
    #[error(transparent)]
    Write(bitnet_formats::Error),
    /// A new run would replace a file.
    #[error("{} is there already; continue that run (--resume), or choose another folder", path.display())]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// A run is to be continued, but the folder holds files of a run without its checkpoint.
    #[error(
        "{} is there, but no checkpoint.safetensors from which that run could be continued; move the file away, or choose another folder",
        path.display()
    )]
    NothingToResume {
        /// A file of that run.
        path: PathBuf,
    },
    /// A JSON file is not what is expected.
    #[error("{}: {source}; compare it with models/stories.json", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A checkpoint cannot be written, or read, or does not fit the run that wants to continue from it.
    #[error("checkpoint {}: {reason}; correct that, or train without it", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The loss stopped being a number.
    #[error(
        "loss is {loss} at step {step}; lower `peak_learning_rate` and resume from the last checkpoint"
    )]
    Diverged {
        /// Step that produced it.
        step: u64,
        /// The value.
        loss: f64,
    },
    /// A text needs bytes that the vocabulary lacks, or a vocabulary cannot be built.
    #[error("vocabulary: {0}")]
    Vocabulary(String),
    /// The exported file could not be written.
    #[error("export: {0}")]
    Export(String),
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

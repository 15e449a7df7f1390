//! The commands, one file each.

pub(crate) mod answer;
pub(crate) mod bench;
pub(crate) mod cache;
pub(crate) mod calibrate;
pub(crate) mod chat;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod constraint;
pub(crate) mod convert;
pub(crate) mod difference;
pub(crate) mod doctor;
pub(crate) mod embed;
pub(crate) mod inspect;
pub(crate) mod memory;
pub(crate) mod perplexity;
#[cfg(feature = "hub")]
pub(crate) mod pull;
pub(crate) mod run;
pub(crate) mod sampling;
#[cfg(feature = "serve")]
pub(crate) mod serve;
pub(crate) mod stored;
pub(crate) mod tokenize;
#[cfg(feature = "top")]
pub(crate) mod top;
#[cfg(feature = "train")]
pub(crate) mod train;
pub(crate) mod verify;
pub(crate) mod weights;
pub(crate) mod windows;

/// The outcome of a command without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The command finished.
    Done,
    /// The command finished, and a check failed.
    CheckFailed,
    /// The user stopped it.
    Interrupted,
}

//! One file for each command.

pub(crate) mod bench;
pub(crate) mod cache;
pub(crate) mod calibrate;
pub(crate) mod chat;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod difference;
pub(crate) mod doctor;
pub(crate) mod inspect;
pub(crate) mod memory;
pub(crate) mod perplexity;
pub(crate) mod pull;
pub(crate) mod run;
pub(crate) mod sampling;
pub(crate) mod stored;
pub(crate) mod tokenize;
pub(crate) mod train;
pub(crate) mod verify;
pub(crate) mod weights;
pub(crate) mod windows;

/// How a command ended, if nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It did what was asked.
    Done,
    /// It did, and a check failed.
    CheckFailed,
    /// The user stopped it.
    Interrupted,
}

//! Options of drafts: tokens that are read ahead.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Where drafts come from.
#[derive(Debug, Args)]
#[command(next_help_heading = "Drafts")]
pub(crate) struct DraftArgs {
    /// Where drafts come from: tokens read ahead, so that the weights are read once for several. The text is the same
    /// with each; no drafts are made where they do not pay
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Draft::Auto)]
    pub(crate) draft: Draft,
    /// A GGUF file with a layer that drafts tokens for the model (multi-token prediction)
    #[arg(long, alias = "model-draft", value_name = "FILE", hide_short_help = true)]
    pub(crate) draft_model: Option<PathBuf>,
}

/// Where drafts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Draft {
    /// Mtp for a model with a layer for it, else ngram
    Auto,
    /// The model's layer for multi-token prediction
    Mtp,
    /// What followed the same tokens earlier in the text
    Ngram,
    /// No drafts
    Off,
}

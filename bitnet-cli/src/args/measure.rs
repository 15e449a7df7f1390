//! `bitnet inspect`, `compare`, `perplexity` and `verify`.

use std::path::PathBuf;

use clap::Args;

use super::values::positive;

/// `bitnet inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The model, as for --model
    #[arg(value_name = "MODEL")]
    pub(crate) path: Option<PathBuf>,
    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Read the headers only, not the weights: does not look for numbers that are NaN, infinite or out of range
    #[arg(long)]
    pub(crate) no_weights: bool,
    /// Compare two models tensor by tensor, as the engine reads them; exit code 1 if they differ
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["path", "tensors", "no_weights"])]
    pub(crate) diff: Vec<PathBuf>,
}

/// `bitnet compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The model that is compared with
    #[arg(value_name = "A")]
    pub(crate) first: PathBuf,
    /// The model that is compared
    #[arg(value_name = "B")]
    pub(crate) second: PathBuf,
    /// The text
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) file: PathBuf,
    /// Tokens of a window [default: 512, or the models' context if that is smaller]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) ctx_window: Option<usize>,
    /// Score every token of every window, instead of its second half
    #[arg(long)]
    pub(crate) all: bool,
}

/// `bitnet perplexity`.
#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    /// The text
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) file: PathBuf,
    /// Tokens of a window [default: 512, or the model's context if that is smaller]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) ctx_window: Option<usize>,
    /// Move windows by N tokens and score the last N of each [default: windows follow one another, and the second
    /// half of each is scored]
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "all")]
    pub(crate) stride: Option<usize>,
    /// Score every token of every window
    #[arg(long)]
    pub(crate) all: bool,
}

/// `bitnet verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The model, as for --model
    #[arg(value_name = "MODEL")]
    pub(crate) path: Option<PathBuf>,
    /// Tokens to run
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = positive)]
    pub(crate) tokens: usize,
}

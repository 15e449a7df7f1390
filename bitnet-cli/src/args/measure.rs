//! Arguments of `bitnet inspect`, `compare`, `perplexity` and `verify`.

use std::path::PathBuf;

use clap::Args;

use super::values::positive;

/// `bitnet inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The model, like --model
    #[arg(value_name = "MODEL")]
    pub(crate) path: Option<PathBuf>,
    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Read headers only; skips the search for NaN, infinite and out-of-range weights
    #[arg(long)]
    pub(crate) no_weights: bool,
    /// Compare two models tensor by tensor; exit code 1 if they differ
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["path", "tensors", "no_weights"])]
    pub(crate) diff: Vec<PathBuf>,
}

/// `bitnet compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The base model
    #[arg(value_name = "A")]
    pub(crate) first: PathBuf,
    /// The model to compare with it
    #[arg(value_name = "B")]
    pub(crate) second: PathBuf,
    /// The text
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) file: PathBuf,
    /// Window length in tokens [default: 512, or the models' context if smaller]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) ctx_window: Option<usize>,
    /// Score every token of each window instead of its second half
    #[arg(long)]
    pub(crate) all: bool,
}

/// `bitnet perplexity`.
#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    /// The text
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) file: PathBuf,
    /// Window length in tokens [default: 512, or the model's context if smaller]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) ctx_window: Option<usize>,
    /// Advance the window by N tokens and score the last N of each [default: adjacent windows, of which the second
    /// half is scored]
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "all")]
    pub(crate) stride: Option<usize>,
    /// Score every token of each window
    #[arg(long)]
    pub(crate) all: bool,
}

/// `bitnet verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The model, like --model
    #[arg(value_name = "MODEL")]
    pub(crate) path: Option<PathBuf>,
    /// Number of tokens to process
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = positive)]
    pub(crate) tokens: usize,
}

//! Arguments of `bitnet run`, `chat` and `tokenize`.

use std::path::PathBuf;

use clap::Args;

use super::answer::AnswerArgs;
use super::constraint::ConstraintArgs;
use super::drafts::DraftArgs;
use super::sampling::SamplingArgs;

/// A text from the command line, a file or standard input.
#[derive(Debug, Args)]
pub(crate) struct TextArgs {
    /// The text; words are joined by spaces, `-` reads standard input. Without a text, standard input is read unless it
    /// is a terminal
    #[arg(value_name = "TEXT")]
    pub(crate) words: Vec<String>,
    /// The text, as one argument
    #[arg(short, long, value_name = "TEXT", conflicts_with = "words", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// Read the text from FILE, without a trailing line break; `-` is standard input
    #[arg(
        short,
        long,
        alias = "prompt-file",
        value_name = "FILE",
        conflicts_with_all = ["words", "prompt"]
    )]
    pub(crate) file: Option<PathBuf>,
}

/// `bitnet run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// Do not print the prompt
    #[arg(long, alias = "no-display-prompt")]
    pub(crate) no_echo: bool,
    /// Print a memory report at the end (on standard error; with --json as `memory`)
    #[arg(long)]
    pub(crate) memory_report: bool,
    /// Send the text as a message by the model's chat template and print the answer, instead of continuing the text
    /// (implied by --tools, --think, --no-think and --reasoning)
    #[arg(long)]
    pub(crate) message: bool,
    #[command(flatten)]
    pub(crate) answer: AnswerArgs,
    #[command(flatten)]
    pub(crate) drafts: DraftArgs,
    #[command(flatten)]
    pub(crate) constraint: ConstraintArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

/// `bitnet chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// The system prompt
    #[arg(long, alias = "system-prompt", value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) answer: AnswerArgs,
    #[command(flatten)]
    pub(crate) drafts: DraftArgs,
    #[command(flatten)]
    pub(crate) constraint: ConstraintArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

/// `bitnet tokenize`.
#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    #[command(flatten)]
    pub(crate) text: TextArgs,
    /// Print token ids only
    #[arg(long)]
    pub(crate) ids: bool,
    /// Do not add BOS and EOS, and do not parse special tokens
    #[arg(long)]
    pub(crate) no_special: bool,
    /// Print the text of these token ids
    #[arg(
        long,
        value_name = "ID",
        num_args = 1..,
        value_delimiter = ',',
        conflicts_with_all = ["words", "prompt", "file", "ids"]
    )]
    pub(crate) decode: Vec<u32>,
}

//! `bitnet run`, `chat` and `tokenize`.

use clap::Args;

use super::sampling::SamplingArgs;

/// `bitnet run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The text to continue; `-` reads it from standard input
    pub(crate) prompt: String,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Do not print the prompt before the text
    #[arg(long)]
    pub(crate) no_echo: bool,
    /// Say afterwards where every byte of memory is (on standard error; with --json as `memory`)
    #[arg(long)]
    pub(crate) memory_report: bool,
}

/// `bitnet chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// The system prompt
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

/// `bitnet tokenize`.
#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    /// The text; `-` reads it from standard input
    #[arg(required_unless_present = "decode")]
    pub(crate) text: Option<String>,
    /// Print the ids only
    #[arg(long)]
    pub(crate) ids: bool,
    /// Neither add the tokens that begin and end a text, nor read special tokens in it
    #[arg(long)]
    pub(crate) no_special: bool,
    /// Print the text of these ids
    #[arg(long, value_name = "ID", num_args = 1.., value_delimiter = ',', conflicts_with_all = ["text", "ids"])]
    pub(crate) decode: Vec<u32>,
}

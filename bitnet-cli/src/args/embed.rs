//! Arguments of `bitnet embed`.

use std::path::PathBuf;

use bitnet_inference::Pooling;
use clap::Args;

use super::values::{Choice, one_of, positive};

/// `bitnet embed`.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub(crate) struct EmbedArgs {
    /// The texts, one in each argument. Without a text, standard input is read, one text in each line
    #[arg(value_name = "TEXT", conflicts_with = "input")]
    pub(crate) texts: Vec<String>,
    /// Read the texts from FILE, one in each line; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// How the states of a text's tokens become one vector [default: the model's own, else mean]
    #[arg(long, value_name = "HOW", value_parser = one_of(POOLINGS))]
    pub(crate) pooling: Option<Pooling>,
    /// Divide vectors by their length (the default)
    #[arg(long, overrides_with = "no_normalize")]
    pub(crate) normalize: bool,
    /// Do not divide vectors by their length
    #[arg(long, overrides_with = "normalize")]
    pub(crate) no_normalize: bool,
    /// Text before each text, such as an instruction; it replaces the model's default prompt
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prefix: Option<String>,
    /// The prompt of this name in the model's config_sentence_transformers.json
    #[arg(long, value_name = "NAME", conflicts_with = "prefix")]
    pub(crate) prompt_name: Option<String>,
    /// Leave out tokens at the end of a text that is longer than the limit, instead of an error
    #[arg(long)]
    pub(crate) truncate: bool,
    /// The limit of a text in tokens [default: the model's context]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) max_tokens: Option<usize>,
    /// Print the cosines of all pairs of texts instead of the vectors (with --json: `similarity` as well)
    #[arg(long)]
    pub(crate) similarity: bool,
}

const AFTER: &str = "\
Any decoder model makes embeddings: the states of its tokens after the last norm are pooled. Only those of a model that
was trained for it (microsoft/bitnet-embedding-0.6b, its folder or GGUF file) are meant to be compared; a model that
writes text gives vectors, but near ones need not mean alike.";

/// Poolings.
const POOLINGS: &[Choice<Pooling>] = &[
    ("mean", "The mean of all tokens", Pooling::Mean),
    ("last", "The last token, which alone has seen the whole text", Pooling::Last),
    ("cls", "The first token", Pooling::Cls),
];

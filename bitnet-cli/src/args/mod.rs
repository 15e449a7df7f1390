//! The command line as it is typed.

mod convert;
mod help;
mod hub;
mod measure;
mod model;
mod sampling;
mod text;
mod values;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::bench::args::BenchArgs;
use crate::commands::calibrate::args::CalibrateArgs;
pub(crate) use convert::ConvertArgs;
use help::EXIT_CODES;
pub(crate) use hub::PullArgs;
pub(crate) use measure::{CompareArgs, InspectArgs, PerplexityArgs, VerifyArgs};
pub(crate) use model::ModelArgs;
pub(crate) use sampling::SamplingArgs;
pub(crate) use text::{ChatArgs, RunArgs, TokenizeArgs};
pub(crate) use values::positive;

/// Runs, checks and trains ternary (BitNet b1.58) language models.
///
/// Without --model, the small story model that is part of the program is used.
#[derive(Debug, Parser)]
#[command(name = "bitnet", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) general: General,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

/// What every command understands.
#[derive(Debug, Args)]
#[command(next_help_heading = "General")]
pub(crate) struct General {
    /// Print JSON on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Threads that compute [default: one on each physical core]
    #[arg(long, global = true, value_name = "N", value_parser = positive)]
    pub(crate) threads: Option<usize>,
    /// Seed of whatever is drawn at random [default: another one in each run; it is printed]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// When to use colours
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_default_value = true
    )]
    pub(crate) color: ColorChoice,
    /// Say more
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Continue a text
    Run(RunArgs),
    /// Talk with a model
    Chat(ChatArgs),
    /// Say what a model file is, and what will be assumed about it
    Inspect(InspectArgs),
    /// Turn a model into another format, tensor by tensor, and prove that the result is right
    #[command(visible_alias = "quantize")]
    Convert(ConvertArgs),
    /// Split text into tokens, or join tokens to text
    Tokenize(TokenizeArgs),
    /// Measure how well a model predicts a text
    Perplexity(PerplexityArgs),
    /// Measure how far one model's predictions of a text are from another's
    Compare(CompareArgs),
    /// Find the ranges of a model's activations with a text, and what quantising them costs
    Calibrate(CalibrateArgs),
    /// Measure speed, against the machine's limits and other programs
    Bench(BenchArgs),
    /// Check a model's arithmetic against the reference, integer by integer
    Verify(VerifyArgs),
    /// Prepared weights and heads that are kept on disk, so that a model starts sooner
    Cache(CacheArgs),
    /// Download a model from a hub
    Pull(PullArgs),
    /// Check this machine
    Doctor,
    /// Train a small ternary model
    Train(TrainArgs),
    /// Print shell completions
    Completions(CompletionsArgs),
}

/// `bitnet cache`.
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    pub(crate) action: CacheAction,
}

/// What to do with what is kept.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum CacheAction {
    /// Name the files and their sizes
    List,
    /// Remove them all; they are made again when a model is loaded
    Clear,
}

/// `bitnet train`.
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// The recipe (JSON)
    #[arg(long, value_name = "FILE", required_unless_present = "story")]
    pub(crate) config: Option<PathBuf>,
    /// The folder for checkpoints and the log
    #[arg(long, value_name = "DIR", required_unless_present = "story")]
    pub(crate) out: Option<PathBuf>,
    /// Go on from the checkpoint in the folder
    #[arg(long)]
    pub(crate) resume: bool,
    /// Print the training story of this seed instead
    #[arg(long, value_name = "SEED", conflicts_with_all = ["config", "out", "resume"])]
    pub(crate) story: Option<u64>,
}

/// `bitnet completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

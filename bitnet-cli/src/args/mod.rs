//! The command line as it is typed.

mod convert;
mod help;
mod hub;
mod measure;
mod model;
mod sampling;
mod text;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::commands::bench::args::BenchArgs;
use crate::commands::calibrate::args::CalibrateArgs;
pub(crate) use convert::ConvertArgs;
pub(crate) use hub::{PullArgs, RmArgs};
pub(crate) use measure::{CompareArgs, InspectArgs, PerplexityArgs, VerifyArgs};
pub(crate) use model::ModelArgs;
pub(crate) use sampling::SamplingArgs;
pub(crate) use text::{ChatArgs, RunArgs, TextArgs, TokenizeArgs};
use values::{Seed, seed};
pub(crate) use values::{positive, threads};

/// Runs, checks and trains ternary (BitNet b1.58) language models.
///
/// Without --model, the small story model that is part of the program is used.
#[derive(Debug, Parser)]
#[command(name = "bitnet", version, max_term_width = 100, disable_help_flag = true)]
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
    /// Print JSON on standard output; it ends in a document even if the command fails
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Threads that compute [default: one on each physical core]
    #[arg(
        short,
        long,
        global = true,
        value_name = "N",
        value_parser = threads,
        allow_negative_numbers = true
    )]
    pub(crate) threads: Option<usize>,
    /// Seed of whatever is drawn at random [default: another one in each run; it is printed]
    #[arg(
        short,
        long,
        global = true,
        value_name = "N",
        value_parser = seed,
        allow_negative_numbers = true
    )]
    seed: Option<Seed>,
    /// Download nothing: use models that are here
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) offline: bool,
    /// When to use colours
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_default_value = true,
        hide_short_help = true
    )]
    pub(crate) color: ColorChoice,
    /// Say more
    #[arg(short, long, global = true, hide_short_help = true)]
    pub(crate) verbose: bool,
    /// Print help
    #[arg(short, long, global = true, action = ArgAction::HelpShort)]
    help: Option<bool>,
    /// Print help with every option
    #[arg(long, global = true, action = ArgAction::HelpLong)]
    help_all: Option<bool>,
}

impl General {
    /// The seed that was chosen, if one was.
    pub(crate) fn seed(&self) -> Option<u64> {
        self.seed.and_then(|Seed(seed)| seed)
    }
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
    /// List the models of hubs that are in the cache
    List,
    /// Remove a model of a hub from the cache
    Rm(RmArgs),
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

/// Reads a command line.
///
/// # Errors
/// What is wrong with it, or the help that it asks for.
pub(crate) fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = help::command();
    let matches = command.try_get_matches_from_mut(args)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// The whole command line, for completions.
pub(crate) fn command() -> clap::Command {
    help::command()
}

/// Spells options as this program does: `--top_k` is `--top-k`, and what llama.cpp writes with one dash and several letters becomes
/// a long option.
pub(crate) fn normalized(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut options = true;
    let args = crate::commands::bench::args::with_long_options(args).into_iter();
    args.map(|arg| {
        options &= arg != "--";
        let text = arg.to_str().filter(|_| options);
        match text {
            Some("-hf" | "-hfr") => "--hf-repo".into(),
            Some("-sys") => "--system".into(),
            Some(long) if long.starts_with("--") => {
                let (name, value) = long.split_at(long.find('=').unwrap_or(long.len()));
                format!("{}{value}", name.replace('_', "-")).into()
            }
            _ => arg,
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        help::command().debug_assert();
    }

    #[test]
    fn options_are_spelled_as_this_program_does() {
        let spelled = |args: &[&str]| normalized(args.iter().map(Into::into));
        assert_eq!(
            spelled(&["bitnet", "run", "--top_k=3_0", "-hf", "a_b", "--", "--a_b"]),
            ["bitnet", "run", "--top-k=3_0", "--hf-repo", "a_b", "--", "--a_b"]
        );
    }
}

//! Command-line arguments.

mod answer;
mod constraint;
mod convert;
mod drafts;
mod embed;
pub(crate) mod general;
mod help;
mod hub;
mod measure;
mod model;
mod sampling;
#[cfg(feature = "serve")]
mod serve;
pub(crate) mod text;
#[cfg(feature = "top")]
mod top;
pub(crate) mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, FromArgMatches, Parser, Subcommand};

use crate::commands::bench::args::BenchArgs;
use crate::commands::calibrate::args::CalibrateArgs;
pub(crate) use answer::{AnswerArgs, ReasoningView};
pub(crate) use constraint::ConstraintArgs;
pub(crate) use convert::ConvertArgs;
pub(crate) use drafts::{Draft, DraftArgs};
pub(crate) use embed::EmbedArgs;
pub(crate) use general::General;
pub(crate) use help::command;
pub(crate) use hub::{PullArgs, RmArgs};
pub(crate) use measure::{CompareArgs, InspectArgs, PerplexityArgs, VerifyArgs};
pub(crate) use model::ModelArgs;
pub(crate) use sampling::SamplingArgs;
#[cfg(feature = "serve")]
pub(crate) use serve::{LogForm, ServeArgs, ServeDraft};
pub(crate) use text::{ChatArgs, RunArgs, TokenizeArgs};
#[cfg(feature = "top")]
pub(crate) use top::TopArgs;

/// Runs, checks and trains ternary (BitNet b1.58) language models.
///
/// Without --model, the built-in story model is used.
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

/// A subcommand.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Continue a text
    Run(RunArgs),
    /// Chat with a model
    Chat(ChatArgs),
    /// Serve a model over HTTP with OpenAI's API
    #[cfg(feature = "serve")]
    Serve(ServeArgs),
    /// Watch a server in the terminal
    #[cfg(feature = "top")]
    Top(TopArgs),
    /// Turn texts into vectors for search and comparison
    Embed(EmbedArgs),
    /// Show a model's metadata, tensors and assumptions
    Inspect(InspectArgs),
    /// Convert a model to another format and verify the result
    #[command(visible_alias = "quantize")]
    Convert(ConvertArgs),
    /// Convert text to tokens, or tokens to text
    Tokenize(TokenizeArgs),
    /// Measure how well a model predicts a text
    Perplexity(PerplexityArgs),
    /// Compare the predictions of two models on a text (KL divergence, perplexity)
    Compare(CompareArgs),
    /// Measure activation ranges on a text, for static quantisation
    Calibrate(CalibrateArgs),
    /// Measure speed, compared with the machine's limits and other programs
    Bench(BenchArgs),
    /// Verify a model's arithmetic against the scalar reference
    Verify(VerifyArgs),
    /// Manage the disk cache of prepared weights, which shortens start-up
    Cache(CacheArgs),
    /// Download a model from a hub
    Pull(PullArgs),
    /// List downloaded models
    List,
    /// Remove a downloaded model from the cache
    Rm(RmArgs),
    /// Test the instruction sets and the limits of this machine; with --model, compare a model's speed with them
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

/// An action on the cache of prepared weights.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum CacheAction {
    /// List the cached files and their sizes
    List,
    /// Remove all cached files; loading a model recreates them
    Clear,
}

/// `bitnet train`.
#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// The recipe (JSON)
    #[arg(long, value_name = "FILE", required_unless_present = "story")]
    pub(crate) config: Option<PathBuf>,
    /// The output folder for checkpoints and the log
    #[arg(long, value_name = "DIR", required_unless_present = "story")]
    pub(crate) out: Option<PathBuf>,
    /// Resume from the checkpoint in the output folder
    #[arg(long)]
    pub(crate) resume: bool,
    /// Print the training story of this seed and exit
    #[arg(long, value_name = "SEED", conflicts_with_all = ["config", "out", "resume"])]
    pub(crate) story: Option<u64>,
}

/// `bitnet completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Parses a command line.
///
/// # Errors
/// Returns a usage error, or the requested help.
pub(crate) fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(args)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Normalises the spelling of options: `--top_k` becomes `--top-k`, and llama.cpp's options with one dash and several
/// letters become long options.
pub(crate) fn normalized(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut options, mut bench) = (true, false);
    args.map(|arg| {
        options &= arg != "--";
        bench |= arg == "bench";
        match arg.to_str() {
            Some("-pg") if bench => "--pg".into(),
            Some("-hf" | "-hfr") if options => "--hf-repo".into(),
            Some("-sys") if options => "--system".into(),
            Some(long) if options && long.starts_with("--") => {
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
        command().debug_assert();
    }

    #[test]
    fn options_are_spelled_as_this_program_does() {
        let spelled = |args: &[&str]| normalized(args.iter().map(Into::into));
        assert_eq!(
            spelled(&["bitnet", "run", "--top_k=3_0", "-hf", "a_b", "--", "--a_b"]),
            ["bitnet", "run", "--top-k=3_0", "--hf-repo", "a_b", "--", "--a_b"]
        );
        assert_eq!(spelled(&["bitnet", "bench", "-pg", "1,2"]), ["bitnet", "bench", "--pg", "1,2"]);
        assert_eq!(spelled(&["bitnet", "run", "-pg"]), ["bitnet", "run", "-pg"]);
    }
}

//! Options of every command.

use clap::{ArgAction, Args, ValueEnum};

use super::values::{Seed, seed, threads};

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "General")]
pub(crate) struct General {
    /// Print JSON on standard output, one document at the end even if the command fails
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Compute threads [default: one per physical core]
    #[arg(
        short,
        long,
        global = true,
        value_name = "N",
        value_parser = threads,
        allow_negative_numbers = true
    )]
    pub(crate) threads: Option<usize>,
    /// Random seed [default: a new one in each run, printed]
    #[arg(
        short,
        long,
        global = true,
        value_name = "N",
        value_parser = seed,
        allow_negative_numbers = true
    )]
    seed: Option<Seed>,
    /// Forbid network access; use local and cached models only
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
    /// Print more details
    #[arg(short, long, global = true, hide_short_help = true)]
    pub(crate) verbose: bool,
    /// Print help
    #[arg(short, long, global = true, action = ArgAction::HelpShort)]
    help: Option<bool>,
    /// Print help with all options
    #[arg(long, global = true, action = ArgAction::HelpLong)]
    help_all: Option<bool>,
}

impl General {
    /// Returns the seed set by the user, if any.
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

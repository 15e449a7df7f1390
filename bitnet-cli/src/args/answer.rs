//! Options of answers: tools and reasoning.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Options of answers: tools and reasoning.
#[derive(Debug, Args)]
#[command(next_help_heading = "Tools and reasoning")]
pub(crate) struct AnswerArgs {
    /// Functions that the model may call: a JSON file with a list, as the `tools` of OpenAI's chat API. Calls are
    /// printed, never made
    #[arg(long, value_name = "FILE")]
    pub(crate) tools: Option<PathBuf>,
    /// Let the model reason before it answers, where its chat template has a switch (enable_thinking)
    #[arg(long, conflicts_with = "no_think")]
    pub(crate) think: bool,
    /// Let the model answer without reasoning, where its chat template has a switch
    #[arg(long)]
    pub(crate) no_think: bool,
    /// What is shown of the reasoning [default: fold on a terminal, else hide]
    #[arg(long, value_name = "HOW", value_enum)]
    pub(crate) reasoning: Option<ReasoningView>,
}

impl AnswerArgs {
    /// Returns whether the model is to reason, if the user said so.
    pub(crate) fn enable_thinking(&self) -> Option<bool> {
        (self.think || self.no_think).then_some(self.think)
    }
}

/// What is shown of the reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReasoningView {
    /// All of it, dimmed
    Show,
    /// A line with its length
    Fold,
    /// Nothing
    Hide,
}

//! `bitnet completions`: completion scripts for shells.

use anyhow::Result;
use clap::CommandFactory;

use super::Outcome;
use crate::args::{Cli, CompletionsArgs};
use crate::output::Output;

/// Prints the script of a shell.
pub(crate) fn run(args: &CompletionsArgs, output: &mut Output) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "bitnet", &mut script);
    output.line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Outcome::Done)
}

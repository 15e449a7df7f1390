//! `bitnet completions`: completion scripts for shells.

use anyhow::Result;

use super::Outcome;
use crate::args::{self, CompletionsArgs};
use crate::output::Output;

/// Prints the script of a shell.
pub(crate) fn run(args: &CompletionsArgs, output: &mut Output) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "bitnet", &mut script);
    output.verbatim(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Outcome::Done)
}

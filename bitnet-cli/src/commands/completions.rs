//! `bitnet completions`: completion scripts for shells.

use anyhow::Result;
use serde_json::json;

use crate::args::{self, CompletionsArgs};
use crate::output::Output;

/// Prints the script of a shell.
pub(crate) fn run(args: &CompletionsArgs, output: &mut Output) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "bitnet", &mut script);
    let script = String::from_utf8_lossy(&script);
    if output.json {
        output.json(&json!({ "shell": args.shell.to_string(), "script": script.trim_end() }))
    } else {
        output.verbatim(script.trim_end())
    }
}

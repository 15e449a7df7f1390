//! The `bitnet` program: runs, checks and trains ternary language models.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod interrupt;
mod load;
mod model_path;
mod output;
mod output_file;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::commands::Outcome;
use crate::output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse_from(commands::bench::args::with_long_options(std::env::args_os()));
    let mut output = Output::new(&cli.general);
    let result = interrupt::install().and_then(|()| dispatch(&cli, &mut output));
    let code = match result.and_then(|outcome| output.finish().map(|()| outcome)) {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::CheckFailed) => 1,
        Ok(Outcome::Interrupted) => 130,
        // Whoever read the output has seen enough.
        Err(error) if output::is_closed_pipe(&error) => 0,
        Err(error) => {
            output.error(&error);
            2
        }
    };
    ExitCode::from(code)
}

fn dispatch(cli: &Cli, output: &mut Output) -> anyhow::Result<Outcome> {
    match &cli.command {
        Command::Run(args) => commands::run::run(cli, args, output),
        Command::Chat(args) => commands::chat::run(cli, args, output),
        Command::Inspect(args) => commands::inspect::run(cli, args, output),
        Command::Convert(args) => commands::convert::run(cli, args, output),
        Command::Tokenize(args) => commands::tokenize::run(cli, args, output),
        Command::Perplexity(args) => commands::perplexity::run(cli, args, output),
        Command::Compare(args) => commands::compare::run(cli, args, output),
        Command::Calibrate(args) => commands::calibrate::run(cli, args, output),
        Command::Bench(args) => commands::bench::run(cli, args, output),
        Command::Verify(args) => commands::verify::run(cli, args, output),
        Command::Cache(args) => commands::cache::run(args, output),
        Command::Doctor => commands::doctor::run(cli, output),
        Command::Pull(args) => commands::pull::run(args, output),
        Command::Train(args) => commands::train::run(cli, args, output),
        Command::Completions(args) => commands::completions::run(args, output),
    }
}

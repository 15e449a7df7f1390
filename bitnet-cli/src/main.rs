//! The `bitnet` program: runs, verifies, converts and trains ternary language models.
#![forbid(unsafe_code)]

#[cfg(any(feature = "serve", feature = "top"))]
mod api_keys;
mod args;
mod commands;
#[cfg(feature = "hub")]
mod download;
mod input_text;
mod interrupt;
mod load;
mod model_path;
mod output;
mod output_file;
#[cfg(feature = "hub")]
mod planned;
#[cfg(feature = "hub")]
mod remote_header;
#[cfg(feature = "serve")]
mod service;

use std::ffi::OsString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use crate::args::{Cli, Command};
use crate::commands::Outcome;
use crate::output::{Output, document};

/// The exit code for usage errors and unusable input.
const UNUSABLE: u8 = 2;
/// The exit code of a panic, Rust's default.
const PANICKED: u8 = 101;

fn main() -> ExitCode {
    let args = args::normalized(std::env::args_os());
    let mut cli = match args::parse(&args) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(explain(&error, &args)),
    };
    if cli.general.json {
        document::require();
    }
    let mut output = Output::new(&cli.general);
    // The panic hook has printed the message; exit code and JSON document remain.
    let result = catch_unwind(AssertUnwindSafe(|| {
        interrupt::install().and_then(|()| work(&mut cli, &mut output))
    }));
    let result = match result {
        Ok(result) => result.and_then(|outcome| {
            output.finish()?;
            if matches!(outcome, Outcome::Done | Outcome::CheckFailed) {
                document::done()?;
            }
            Ok(outcome)
        }),
        Err(_) => {
            let _ = document::fail("error", "internal error: the program panicked");
            return ExitCode::from(PANICKED);
        }
    };
    ExitCode::from(match result {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::CheckFailed) => 1,
        Ok(Outcome::Interrupted) => {
            // If the reader is gone, the exit code is enough.
            let _ = document::fail("interrupted", "interrupted");
            interrupt::exit_code()
        }
        // The reader closed the pipe on purpose.
        Err(error) if output::is_closed_pipe(&error) => 0,
        Err(error) => {
            output.error(&error);
            let _ = document::fail("error", &output::in_one_line(&error));
            UNUSABLE
        }
    })
}

/// Prints help, version or a usage error and returns the exit code.
fn explain(error: &clap::Error, args: &[OsString]) -> u8 {
    let printed = error.print().and_then(|()| io::Write::flush(&mut io::stdout()));
    if error.use_stderr() {
        if args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json") {
            document::require();
            let text = error.render().to_string();
            let text = text.lines().next().unwrap_or_default();
            let text = text.strip_prefix("error: ").unwrap_or(text);
            let _ = document::fail("error", text);
        }
        return UNUSABLE;
    }
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("error: can't write to standard output: {error}");
            UNUSABLE
        }
        _ => 0,
    }
}

/// Resolves the models of the command line, then runs the command.
fn work(cli: &mut Cli, output: &mut Output) -> anyhow::Result<Outcome> {
    if !model_path::resolve(cli, output)? {
        return Ok(Outcome::Interrupted);
    }
    let done = |()| Outcome::Done;
    match &cli.command {
        Command::Run(args) => commands::run::run(cli, args, output),
        Command::Chat(args) => commands::chat::run(cli, args, output),
        #[cfg(feature = "serve")]
        Command::Serve(args) => commands::serve::run(cli, args, output),
        #[cfg(feature = "top")]
        Command::Top(args) => commands::top::run(args, output),
        Command::Embed(args) => commands::embed::run(cli, args, output),
        Command::Inspect(args) => commands::inspect::run(cli, args, output),
        Command::Convert(args) => commands::convert::run(cli, args, output),
        Command::Tokenize(args) => commands::tokenize::run(cli, args, output).map(done),
        Command::Perplexity(args) => commands::perplexity::run(cli, args, output),
        Command::Compare(args) => commands::compare::run(cli, args, output),
        Command::Calibrate(args) => commands::calibrate::run(cli, args, output),
        Command::Bench(args) => commands::bench::run(cli, args, output),
        Command::Verify(args) => commands::verify::run(cli, args, output),
        Command::Cache(args) => commands::cache::run(args, output).map(done),
        Command::Doctor => commands::doctor::run(cli, output),
        #[cfg(feature = "hub")]
        Command::Pull(args) => commands::pull::run(cli, args, output),
        #[cfg(not(feature = "hub"))]
        Command::Pull(_) => anyhow::bail!(
            "this program was built without downloads; build it with: cargo build --release --features hub"
        ),
        Command::List => commands::stored::list(output).map(done),
        Command::Rm(args) => commands::stored::remove(args, output).map(done),
        #[cfg(feature = "train")]
        Command::Train(args) => commands::train::run(cli, args, output),
        #[cfg(not(feature = "train"))]
        Command::Train(_) => anyhow::bail!(
            "this program was built without the trainer; build it with: cargo build --release --features train"
        ),
        Command::Completions(args) => commands::completions::run(args, output).map(done),
    }
}

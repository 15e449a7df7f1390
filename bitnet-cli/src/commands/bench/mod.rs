//! `bitnet bench`: speed of a model, compared with the machine's limits and with other programs.

pub(crate) mod args;
mod breakdown;
mod calendar;
mod child;
mod compare;
pub(super) mod machine;
pub(super) mod measure;
mod memory;
mod print;
mod progress;
pub(super) mod record;
mod report;
pub(super) mod run_file;
pub(super) mod single_run;
pub(super) mod statistics;
mod streams;
mod tables;

use anyhow::{Context, Result, bail};

use self::args::{BenchArgs, Format};
use self::run_file::{Machine, RunFile, SCHEMA, Test};
use super::Outcome;
use crate::args::Cli;
use crate::output::Output;

/// The name of this program in comparisons.
pub(crate) const OURS: &str = "bitnet";

/// Default numbers of prompt tokens and generated tokens.
const PROMPT: usize = 512;
const WRITTEN: usize = 128;

/// Measures, compares or reports.
pub(crate) fn run(cli: &Cli, args: &BenchArgs, output: &mut Output) -> Result<Outcome> {
    if let Some(once) = &args.once {
        return single_run::run(cli, &once.of(args), output);
    }
    if output.json && matches!(args.output, Some(Format::Md | Format::Csv)) {
        bail!("--json and --output md or csv contradict each other; leave one of them out");
    }
    if !args.report.is_empty() {
        report::run(&args.report, output)?;
        return Ok(Outcome::Done);
    }
    if args.limits {
        let json = format(args, output) == Format::Json;
        machine::print_limits(&threads(args)?, json, output)?;
        return Ok(Outcome::Done);
    }
    if let Some(counts) = &args.streams {
        return streams::run(cli, args, counts, output);
    }
    if args.account {
        return breakdown::run(cli, args, output);
    }
    if args.against.is_empty() {
        single_run::run(cli, args, output)
    } else {
        compare::run(args, output)
    }
}

/// Returns the requested tests: prompts, then generation, then both, at each depth.
fn tests(args: &BenchArgs) -> Result<Vec<Test>> {
    let prompts = BenchArgs::all(&args.n_prompt, PROMPT);
    let written = BenchArgs::all(&args.n_gen, WRITTEN);
    let each = prompts
        .into_iter()
        .map(|n| (n, 0))
        .chain(written.into_iter().map(|n| (0, n)))
        .filter(|&(prompt, written)| prompt + written > 0)
        .chain(args.pg.iter().copied());
    let each: Vec<(usize, usize)> = each.collect();
    let tests: Vec<Test> = BenchArgs::all(&args.n_depth, 0)
        .into_iter()
        .flat_map(|n_depth| {
            each.iter().map(move |&(n_prompt, n_gen)| Test { n_prompt, n_gen, n_depth })
        })
        .collect();
    if tests.is_empty() {
        bail!("there is nothing to measure; use -p, -n or -pg");
    }
    Ok(tests)
}

fn threads(args: &BenchArgs) -> Result<Vec<usize>> {
    if args.threads.is_empty() {
        return Ok(vec![machine::default_threads()?]);
    }
    Ok(args.threads.clone())
}

fn format(args: &BenchArgs, output: &Output) -> Format {
    args.output.unwrap_or(if output.json { Format::Json } else { Format::Md })
}

/// Returns the file of a run that begins now, without measurements.
fn new_run(args: &BenchArgs) -> Result<RunFile> {
    Ok(RunFile {
        schema: SCHEMA,
        created: calendar::now()?,
        command: command_line(),
        interrupted: false,
        repetitions: args.repetitions,
        program: machine::program(),
        machine: Machine::default(),
        limits: Vec::new(),
        participants: Vec::new(),
        series: Vec::new(),
    })
}

/// Warns about a disturbed machine, and about an interruption after `done` of `all` steps.
fn conclude(
    machine: &Machine,
    interrupted: bool,
    done: usize,
    all: &str,
    output: &mut Output,
) -> Outcome {
    if let Some(warning) = machine::disturbance(machine) {
        output.warning(&warning);
    }
    if !interrupted {
        return Outcome::Done;
    }
    output.warning(&format!("interrupted: {done} of {all} are in the results"));
    Outcome::Interrupted
}

/// Returns the command line.
fn command_line() -> Vec<String> {
    let args = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    std::iter::once(OURS.to_owned()).chain(args).collect()
}

/// Returns this program's path.
fn own_path() -> Result<String> {
    let path = std::env::current_exe().context("can't find the path of this program")?;
    path.into_os_string().into_string().map_err(|path| {
        anyhow::anyhow!("this program's path {} is not UTF-8; move it", path.display())
    })
}

/// Returns this program with its arguments, for a process that runs one repetition: see [`once`].
fn own_process() -> Result<Vec<String>> {
    Ok(std::iter::once(own_path()?).chain(command_line().into_iter().skip(1)).collect())
}

/// Returns the arguments of such a process for one repetition of one test.
fn once(test: Test, threads: usize) -> Vec<String> {
    let numbers = [test.n_prompt, test.n_gen, test.n_depth, threads].map(|n| n.to_string());
    vec!["--once".into(), numbers.join(",")]
}

#[cfg(test)]
mod unit_tests {
    use clap::Parser;

    use super::*;
    use crate::args::Command;

    fn names(line: &str) -> Vec<String> {
        let words = format!("bitnet bench {line}");
        let words = crate::args::normalized(words.split_whitespace().map(Into::into));
        let cli = Cli::try_parse_from(words).unwrap();
        let Command::Bench(args) = &cli.command else { panic!("{line}") };
        tests(args).map(|tests| tests.into_iter().map(Test::name).collect()).unwrap_or_default()
    }

    #[test]
    fn tests_are_those_of_llama_bench() {
        assert_eq!(names(""), ["pp512", "tg128"]);
        assert_eq!(names("-p 1,2 -p 4 -n 0"), ["pp1", "pp2", "pp4"]);
        assert_eq!(names("-p 0 -n 3 -pg 5,6"), ["tg3", "pp5+tg6"]);
        assert_eq!(names("-p 0 -n 3 -d 0,9"), ["tg3", "tg3 @ d9"]);
        assert_eq!(names("-p 0 -n 0"), [""; 0]);
    }
}

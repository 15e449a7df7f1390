//! `bitnet bench --against`: comparison with other programs in turns, so that disturbances affect all of them.
//!
//! Every sample is a separate process that loads its model, warms up and times one repetition, also for this program.
//! Each repetition measures the machine's limits once, then runs every test of every program.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::args::{BenchArgs, Format};
use super::child::{self, Sample};
use super::progress::Progress;
use super::run_file::{Limits, Participant, RunFile, Series, Test};
use super::{OURS, machine, tables};
use crate::commands::Outcome;
use crate::interrupt::Listener;
use crate::output::{self, Output, document};

/// A compared program.
struct Turn {
    name: String,
    /// The program and its own arguments.
    command: Vec<String>,
}

/// Measures in turns, prints the comparison, and saves it.
pub(crate) fn run(args: &BenchArgs, output: &mut Output) -> Result<Outcome> {
    let format = super::format(args, output);
    if matches!(format, Format::Jsonl | Format::Csv) {
        bail!("a comparison is printed as md or json; choose one with --output");
    }
    if args.model.len() > 1 {
        bail!("a comparison has one model; use --model once");
    }
    if let Some(path) = &args.save {
        RunFile::at(path).check()?;
    }
    let turns = turns(args)?;
    let (tests, threads) = (super::tests(args)?, super::threads(args)?);
    let listener = Listener::new();
    let mut file = super::new_run(args)?;
    let steps = args.repetitions * tests.len() * threads.len() * turns.len();
    let mut progress = Progress::new(steps, output);
    let mut measured = Ok(());
    for repetition in 0..args.repetitions {
        measured =
            measure_limits(&mut file, &threads, repetition, args, &listener).and_then(|()| {
                take_turns(&mut file, &turns, &tests, &threads, &listener, &mut progress, output)
            });
        if measured.is_err() || listener.asked() {
            break;
        }
    }
    file.interrupted = listener.asked() || measured.is_err();
    let done = progress.done;
    drop(progress);
    // Results before an error are printed.
    if done > 0 {
        show(&file, format, output)?;
        if let Some(path) = &args.save {
            file.write(path)?;
        }
    }
    measured?;
    let all = output::count(steps, "sample");
    Ok(super::conclude(&file.machine, listener.asked(), done, &all, output))
}

/// Returns this program, then the others in the order of the command line.
fn turns(args: &BenchArgs) -> Result<Vec<Turn>> {
    let ours = Turn { name: OURS.into(), command: super::own_process()? };
    let mut turns = vec![ours];
    for peer in &args.against {
        if turns.iter().any(|turn| turn.name == peer.name) {
            bail!("the name {:?} is used twice; each --against needs its own", peer.name);
        }
        let mut command = peer.command.clone();
        let names_a_model = command.iter().any(|arg| arg == "-m" || arg == "--model");
        if let (false, Some(model)) = (names_a_model, args.model.first()) {
            command.extend(["-m".into(), model.display().to_string()]);
        }
        turns.push(Turn { name: peer.name.clone(), command });
    }
    Ok(turns)
}

/// Measures the machine's limits in a separate process, so that its memory is not counted here.
fn measure_limits(
    file: &mut RunFile,
    threads: &[usize],
    repetition: usize,
    args: &BenchArgs,
    listener: &Listener,
) -> Result<()> {
    if args.no_limits && repetition > 0 {
        return Ok(());
    }
    let list: Vec<String> = threads.iter().map(ToString::to_string).collect();
    let mut command = vec![super::own_path()?];
    command.extend(
        ["bench", "--limits", "--output", "json", "--threads", &list.join(",")].map(String::from),
    );
    let Some(finished) = child::run(OURS, &command, listener)? else { return Ok(()) };
    let (machine, limits) = machine::read_limits(&finished.stdout)?;
    if repetition == 0 {
        file.machine = machine;
    }
    if !args.no_limits {
        limits.into_iter().for_each(|more| add_limits(&mut file.limits, more));
    }
    Ok(())
}

fn add_limits(all: &mut Vec<Limits>, more: Limits) {
    match all.iter_mut().find(|l| l.threads == more.threads) {
        None => all.push(more),
        Some(limits) => {
            limits.read_bytes_per_second.extend(more.read_bytes_per_second);
            limits.sustained_read_bytes_per_second.extend(more.sustained_read_bytes_per_second);
            limits.integer_macs_per_second.extend(more.integer_macs_per_second);
            limits.sustained_integer_macs_per_second.extend(more.sustained_integer_macs_per_second);
        }
    }
}

/// Takes one sample of every program in every test.
fn take_turns(
    file: &mut RunFile,
    turns: &[Turn],
    tests: &[Test],
    threads: &[usize],
    listener: &Listener,
    progress: &mut Progress,
    output: &mut Output,
) -> Result<()> {
    for &test in tests {
        for &threads in threads {
            for turn in turns {
                if listener.asked() {
                    return Ok(());
                }
                let count = output::count(threads, "thread");
                progress.begin(&format!("{}: {} with {count}", turn.name, test.name()), output);
                let ours = turn.name == OURS;
                let more =
                    if ours { super::once(test, threads) } else { child::arguments(test, threads) };
                let command = [&turn.command[..], &more].concat();
                let sample = child::sample(&turn.name, &command, test, listener)?;
                let Some(sample) = sample else { return Ok(()) };
                add_sample(file, turn, test, threads, &sample)?;
                progress.step();
            }
        }
    }
    Ok(())
}

fn add_sample(
    file: &mut RunFile,
    turn: &Turn,
    test: Test,
    threads: usize,
    sample: &Sample,
) -> Result<()> {
    if !file.participants.iter().any(|p| p.name == turn.name) {
        file.participants.push(participant(turn, &sample.record));
    }
    let same = |s: &Series| s.participant == turn.name && s.test == test && s.threads == threads;
    let index = file.series.iter().position(same).unwrap_or_else(|| {
        file.series.push(Series {
            participant: turn.name.clone(),
            test,
            threads,
            samples_ts: Vec::new(),
            peak_bytes: Vec::new(),
            cost: None,
        });
        file.series.len() - 1
    });
    let series = &mut file.series[index];
    series.samples_ts.push(sample.rate);
    series.peak_bytes.extend(sample.peak_bytes);
    if turn.name == OURS {
        let cost = serde_json::from_value(sample.record["cost"].clone());
        series.cost = Some(cost.context("this program's record has no cost")?);
    }
    Ok(())
}

fn participant(turn: &Turn, record: &Value) -> Participant {
    let text = |field: &str| record[field].as_str().unwrap_or("unavailable").to_owned();
    let number = |field: &str| record[field].as_u64().unwrap_or(0);
    let commit = text("build_commit");
    let build = match number("build_number") {
        0 => commit,
        number => format!("{number} ({commit})"),
    };
    let command = if turn.name == OURS { super::command_line() } else { turn.command.clone() };
    Participant {
        name: turn.name.clone(),
        command,
        build,
        model_filename: text("model_filename"),
        model_type: text("model_type"),
        model_size: number("model_size"),
        model_n_params: number("model_n_params"),
    }
}

fn show(file: &RunFile, format: Format, output: &mut Output) -> Result<()> {
    if format == Format::Json {
        return Ok(document::write(&serde_json::to_string_pretty(file)?)?);
    }
    output.verbatim(&tables::speed(file))?;
    output.verbatim(&tables::memory(file))?;
    machine::print(&file.machine, &file.limits, output)
}

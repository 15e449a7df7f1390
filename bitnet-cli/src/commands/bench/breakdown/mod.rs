//! `bitnet bench --account`: the time per operation of a generated token or of a prompt.

mod profiling;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use bitnet_cpu::CpuOptions;
use bitnet_inference::{Model, ModelSource, backend_by_name};
use serde_json::{Value, json};

use self::profiling::{Entry, ProfilingBackend};
use super::args::{BenchArgs, Format};
use super::measure::{self, Protocol};
use super::progress::Progress;
use super::record::{ModelName, percent};
use super::run_file::{Limits, Test};
use super::{WRITTEN, machine, tables};
use crate::args::Cli;
use crate::commands::Outcome;
use crate::interrupt::Listener;
use crate::load;
use crate::output::{self, Output};

/// The operations of the repetition with the median time.
#[derive(Debug)]
struct Breakdown {
    model: String,
    threads: usize,
    test: Test,
    /// The time of the whole repetition.
    time: Duration,
    entries: Vec<Entry>,
    /// The read bandwidth in bytes per second, if measured.
    bandwidth: Option<f64>,
    /// The integer peak in multiply-adds per second, if measured.
    integer_peak: Option<f64>,
}

/// Returns the requested test: generation, unless there is a prompt.
fn test(args: &BenchArgs) -> Result<Test> {
    let depths = BenchArgs::all(&args.n_depth, 0);
    let &[n_depth] = depths.as_slice() else { bail!("an account has one depth; use one -d") };
    let n_prompt = BenchArgs::all(&args.n_prompt, 0);
    let n_gen = BenchArgs::all(&args.n_gen, if args.n_prompt.is_empty() { WRITTEN } else { 0 });
    match (n_prompt.as_slice(), n_gen.as_slice()) {
        (&[0], &[n_gen]) if n_gen > 0 => Ok(Test { n_prompt: 0, n_gen, n_depth }),
        (&[n_prompt], &[0]) if n_prompt > 0 => Ok(Test { n_prompt, n_gen: 0, n_depth }),
        _ => bail!("an account has one test; use one -n or one -p"),
    }
}

/// Measures and prints an account for each number of threads.
pub(crate) fn run(cli: &Cli, args: &BenchArgs, output: &mut Output) -> Result<Outcome> {
    let path = match args.model.as_slice() {
        [] => None,
        [path] => Some(path),
        _ => bail!("an account has one model; use --model once"),
    };
    let (test, threads) = (test(args)?, super::threads(args)?);
    let machine = machine::machine()?;
    let markdown = super::format(args, output) == Format::Md;
    if markdown {
        output.verbatim(BEGINNING)?;
    }
    let listener = Listener::new();
    // The first repetition is the warm-up.
    let mut progress = Progress::new(threads.len() * (args.repetitions + 1), output);
    let (mut breakdowns, mut limits) = (Vec::new(), Vec::new());
    for &threads in &threads {
        let of_machine = if args.no_limits { None } else { Some(machine::limits(threads)?) };
        let (what, count) = (test.name(), output::count(threads, "thread"));
        progress.begin(&format!("{what} with {count}"), output);
        let measured = measured(cli, args, path, test, threads, &listener, &mut progress)?;
        progress.clear();
        let Some(mut breakdown) = measured else { break };
        breakdown.bandwidth = of_machine.as_ref().and_then(Limits::bandwidth);
        breakdown.integer_peak = of_machine.as_ref().and_then(Limits::integer_peak);
        if markdown {
            output.verbatim(&breakdown.section())?;
        }
        breakdowns.push(breakdown.to_json());
        limits.extend(of_machine);
    }
    drop(progress);
    if markdown {
        output.verbatim(&ending(&machine, &limits))?;
    } else {
        let program = machine::program();
        output.json(&json!({
            "program": program, "machine": machine, "limits": limits, "breakdowns": breakdowns,
        }))?;
    }
    if let Some(warning) = machine::disturbance(&machine) {
        output.warning(&warning);
    }
    Ok(if listener.asked() { Outcome::Interrupted } else { Outcome::Done })
}

/// Returns the account of one number of threads; `None` if the user stopped it.
fn measured(
    cli: &Cli,
    args: &BenchArgs,
    path: Option<&PathBuf>,
    test: Test,
    threads: usize,
    listener: &Listener,
    progress: &mut Progress,
) -> Result<Option<Breakdown>> {
    let source = path.map_or(ModelSource::Embedded, |path| ModelSource::Path(path));
    let options = load::options(cli)?;
    let cpu = CpuOptions { threads: Some(threads), isa: None };
    let profiling = Arc::new(ProfilingBackend::new(backend_by_name(cli.model.backend, cpu)?));
    let model = Model::load_with(source, &options, Arc::clone(&profiling) as _, &mut |_, _| {})?;
    let stored = model.decoder().token_cost(model.kv())?;
    let protocol = Protocol {
        batch_size: args.batch_size,
        repetitions: args.repetitions + 1,
        warm_up: false,
        seed: cli.general.seed().unwrap_or(super::single_run::SEED),
    };
    let mut taken = Vec::new();
    let measured = measure::run_test(&model, test, protocol, listener, &mut || {
        taken.push(profiling.take());
        progress.step();
    })?;
    if listener.asked() {
        return Ok(None);
    }
    let mut repetitions: Vec<_> = measured.times.into_iter().zip(taken).skip(1).collect();
    repetitions.sort_by_key(|(time, _)| *time);
    let middle = repetitions.len() / 2;
    let Some((time, entries)) = repetitions.into_iter().nth(middle) else { return Ok(None) };
    let model = ModelName::of(source, &options, stored.parameters)?.kind;
    Ok(Some(Breakdown { model, threads, test, time, entries, bandwidth: None, integer_peak: None }))
}

/// One line of the account, per step: a generated token, or a whole prompt.
#[derive(Default)]
struct Line<'a> {
    name: &'a str,
    calls: f64,
    micros: f64,
    bytes: f64,
    macs: f64,
}

impl Breakdown {
    /// Returns the operations, longest first, then the time outside of all of them.
    fn lines(&self) -> Vec<Line<'_>> {
        let steps = self.test.n_gen.max(1) as f64;
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / steps;
        let mut lines: Vec<_> = self
            .entries
            .iter()
            .map(|entry| Line {
                name: &entry.name,
                calls: entry.calls as f64 / steps,
                micros: micros(entry.time),
                bytes: entry.bytes as f64 / steps,
                macs: entry.macs as f64 / steps,
            })
            .collect();
        lines.sort_by(|a, b| b.micros.total_cmp(&a.micros));
        let inside: f64 = lines.iter().map(|line| line.micros).sum();
        let micros = micros(self.time) - inside;
        lines.push(Line { name: "between operations", calls: 1.0, micros, ..Line::default() });
        lines
    }

    /// Returns whether the integer peak, and not the bandwidth, limits a step.
    fn counts_products(&self) -> bool {
        self.test.n_prompt > 0
    }

    /// Returns the microseconds of a line at the limit of the step.
    fn floor(&self, line: &Line<'_>) -> Option<f64> {
        if self.counts_products() {
            return Some(line.macs * 1e6 / self.integer_peak?);
        }
        Some(line.bytes * 1e6 / self.bandwidth?)
    }

    fn section(&self) -> String {
        let lines = self.lines();
        let all = Line {
            name: "all",
            calls: 1.0,
            micros: lines.iter().map(|line| line.micros).sum(),
            bytes: lines.iter().map(|line| line.bytes).sum(),
            macs: lines.iter().map(|line| line.macs).sum(),
        };
        let [amount, rate] =
            if self.counts_products() { ["GMAC", "GMAC/s"] } else { ["MB", "GB/s"] };
        let headings = ["operation", "times", "µs", "share", amount, rate, "floor, µs", "gap, µs"];
        let or_none = |number: Option<f64>| number.map_or("-".into(), |n| format!("{n:.0}"));
        let rows = lines.iter().chain([&all]).map(|line| {
            let floor = self.floor(line);
            let (amount, count) = if self.counts_products() {
                (format!("{:.2}", line.macs / 1e9), line.macs)
            } else {
                (format!("{:.2}", line.bytes / 1e6), line.bytes)
            };
            let rate = (count > 0.0).then(|| count / line.micros / 1e3);
            vec![
                tables::escaped(line.name),
                format!("{:.0}", line.calls),
                format!("{:.0}", line.micros),
                percent(Some(line.micros / all.micros)),
                amount,
                rate.map_or("-".into(), |rate| format!("{rate:.1}")),
                or_none(floor),
                or_none(floor.map(|floor| line.micros - floor)),
            ]
        });
        let tokens = if self.counts_products() { self.test.n_prompt } else { 1 };
        format!(
            "## {}, {} with {}\n\n{:.2} tokens per second; {} of the limit.\n\n{}",
            tables::escaped(&self.model),
            self.test.name(),
            output::count(self.threads, "thread"),
            tokens as f64 * 1e6 / all.micros,
            percent(self.floor(&all).map(|floor| floor / all.micros)),
            tables::table(&headings, 1, rows),
        )
    }

    fn to_json(&self) -> Value {
        let operations: Vec<Value> = self
            .lines()
            .iter()
            .map(|line| {
                json!({
                    "name": line.name, "calls": line.calls, "us": line.micros, "bytes": line.bytes,
                    "macs": line.macs, "floor_us": self.floor(line),
                })
            })
            .collect();
        json!({
            "model": self.model, "threads": self.threads, "test": self.test.name(),
            "operations": operations,
        })
    }
}

/// The text before the tables.
const BEGINNING: &str = "\
# Time per operation

The output of `bitnet bench --account`. Each operation of the back end is timed by the clock, in the repetition with the
median time. `times` is the number of calls per generated token, or per prompt.

- For a generated token, MB are the bytes of weights, head and cache read, as counted by the kernels. The floor is their time
  at the read bandwidth measured with the same number of threads; the gap is the time above it.
- For a prompt, GMAC are the multiply-adds of ternary weights with activations; the floor is their time at the measured
  integer peak.
";

fn ending(machine: &super::run_file::Machine, limits: &[Limits]) -> String {
    let mut text = format!("The machine: {}.\n", tables::escaped(&machine::describe(machine)));
    for limits in limits {
        text.push_str(&format!("\n- {}", tables::escaped(&machine::describe_limits(limits))));
    }
    text
}

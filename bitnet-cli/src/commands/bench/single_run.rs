//! `bitnet bench` without other programs: every test on every model with every thread count.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use bitnet_cpu::CpuOptions;
use bitnet_inference::{Model, ModelSource, backend_by_name};

use super::args::{BenchArgs, Format};
use super::measure::{self, Protocol};
use super::print::Printer;
use super::progress::Progress;
use super::record::{ModelName, Record, peak, percent};
use super::run_file::{RunFile, Test};
use super::{calendar, machine, memory};
use crate::args::Cli;
use crate::commands::Outcome;
use crate::interrupt::Listener;
use crate::load;
use crate::output::{self, Output};

/// Default seed of the random tokens.
pub(crate) const SEED: u64 = 1;

/// State shared by all models.
struct Run<'a> {
    cli: &'a Cli,
    protocol: Protocol,
    tests: Vec<Test>,
    listener: Listener,
    progress: Progress,
    printer: Printer,
    notes: Vec<String>,
    file: RunFile,
}

/// Measures, prints results immediately, and saves them.
pub(crate) fn run(cli: &Cli, args: &BenchArgs, output: &mut Output) -> Result<Outcome> {
    let models: Vec<Option<PathBuf>> = match args.model.as_slice() {
        [] => vec![None],
        models => models.iter().cloned().map(Some).collect(),
    };
    if let Some(path) = &args.save {
        RunFile::at(path).check()?;
    }
    let tests = super::tests(args)?;
    let threads = super::threads(args)?;
    let mut file = super::new_run(args)?;
    file.machine = machine::machine()?;
    if !args.no_limits {
        file.limits = threads.iter().map(|&t| machine::limits(t)).collect::<Result<_>>()?;
    }
    let protocol = Protocol {
        batch_size: args.batch_size,
        repetitions: args.repetitions,
        warm_up: !args.no_warmup,
        seed: cli.general.seed().unwrap_or(SEED),
    };
    let steps = models.len() * threads.len() * tests.len() * args.repetitions;
    let format = super::format(args, output);
    let mut run = Run {
        cli,
        protocol,
        tests,
        listener: Listener::new(),
        progress: Progress::new(steps, output),
        printer: Printer::new(format),
        notes: Vec::new(),
        file,
    };
    'all: for model in &models {
        for &threads in &threads {
            run.model(model.as_ref(), threads, output)?;
            if run.listener.asked() {
                break 'all;
            }
        }
    }
    run.finish(args, format, output)
}

impl Run<'_> {
    /// Runs every test on one model with one thread count.
    fn model(&mut self, path: Option<&PathBuf>, threads: usize, output: &mut Output) -> Result<()> {
        let source = path.map_or(ModelSource::Embedded, |path| ModelSource::Path(path));
        let options = load::options(self.cli)?;
        memory::reset_peak();
        let start = Instant::now();
        let cpu = CpuOptions { threads: Some(threads), isa: None };
        let backend = backend_by_name(self.cli.model.backend, cpu)?;
        let model = Model::load_with(source, &options, backend, &mut |_, _| {})?;
        let load = start.elapsed();
        let stored = model.decoder().token_cost(model.kv())?;
        let name = ModelName::of(source, &options, stored.parameters)?;
        for test in self.tests.clone() {
            let what = format!("{} with {}", test.name(), output::count(threads, "thread"));
            self.progress.begin(&what, output);
            let (test_time, progress) = (calendar::now()?, &mut self.progress);
            let measured =
                measure::run_test(&model, test, self.protocol, &self.listener, &mut || {
                    progress.step();
                })?;
            if !measured.times.is_empty() {
                let record = Record {
                    model: &name,
                    machine: &self.file.machine,
                    limits: self.file.limits.iter().find(|l| l.threads == threads),
                    backend: model.decoder().backend().describe(),
                    threads,
                    batch_size: self.protocol.batch_size,
                    test,
                    test_time,
                    cost: measure::cost(&stored, &measured, test, self.protocol.batch_size),
                    times: measured.times,
                    load,
                    peak_bytes: memory::peak_bytes(),
                };
                self.progress.clear();
                self.printer.record(&record, output)?;
                if test.n_prompt == 0 {
                    self.notes.push(step(&name.kind, &what, &record));
                }
                self.file.series.push(record.series());
                if self.file.participants.is_empty() {
                    let command = self.file.command.clone();
                    self.file.participants.push(record.participant(command));
                }
            }
            if self.listener.asked() {
                break;
            }
        }
        self.notes.push(format!(
            "{} with {}: loaded in {:.0} ms; resident memory at the peak {}",
            name.kind,
            output::count(threads, "thread"),
            1e3 * load.as_secs_f64(),
            peak(memory::peak_bytes()),
        ));
        Ok(())
    }

    /// Ends the output and writes the run file.
    fn finish(mut self, args: &BenchArgs, format: Format, output: &mut Output) -> Result<Outcome> {
        self.file.interrupted = self.listener.asked();
        let done = self.progress.done;
        let all = output::count(self.progress.all, "repetition");
        drop(self.progress);
        self.printer.finish()?;
        if format == Format::Md {
            explain(&self.file, &self.notes, output)?;
        }
        if let Some(path) = &args.save {
            self.file.write(path)?;
        }
        Ok(super::conclude(&self.file.machine, self.file.interrupted, done, &all, output))
    }
}

/// Describes the bytes read per generated token.
fn step(model: &str, what: &str, record: &Record<'_>) -> String {
    let cost = &record.cost;
    let all = if cost.counted { "counted" } else { "total" };
    format!(
        "{model}, {what}: {:.2} MB read per token (ternary layers {:.2}, {all}; head {:.2}; KV cache {:.2}); \
        skipped because they are multiplied by zero: {} of the up-projections' rows, {} of the down-projections' columns",
        cost.bytes / 1e6,
        cost.ternary_bytes / 1e6,
        cost.head_bytes / 1e6,
        cost.kv_bytes / 1e6,
        percent(cost.gated_rows_skipped),
        percent(cost.sparse_columns_skipped),
    )
}

/// Prints the notes below the table.
fn explain(file: &RunFile, notes: &[String], output: &mut Output) -> Result<()> {
    output.line("")?;
    machine::print(&file.machine, &file.limits, output)?;
    for note in notes {
        output.line(note)?;
    }
    let program = &file.program;
    output
        .line(&format!("bitnet {} ({}, {})", program.version, program.profile, program.target))?;
    output.line(
        "pp: reading a prompt, and the choice of the likeliest next token; tg: writing token by token, with the \
         logits of each and the choice of the likeliest. The limit is the read bandwidth for tg, the integer peak for pp.",
    )
}

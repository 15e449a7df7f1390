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
use super::run_file::{Limits, Machine, Participant, RunFile, SCHEMA, Series, Test};
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
    machine: Machine,
    limits: Vec<Limits>,
    listener: Listener,
    progress: Progress,
    printer: Printer,
    notes: Vec<String>,
    series: Vec<Series>,
    participants: Vec<Participant>,
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
    let created = calendar::now();
    let machine = machine::machine()?;
    let limits = if args.no_limits {
        Vec::new()
    } else {
        threads.iter().map(|&t| machine::limits(t)).collect::<Result<_>>()?
    };
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
        machine,
        limits,
        listener: Listener::new(),
        progress: Progress::new(steps, output),
        printer: Printer::new(format),
        notes: Vec::new(),
        series: Vec::new(),
        participants: Vec::new(),
    };
    'all: for model in &models {
        for &threads in &threads {
            run.model(model.as_ref(), threads, output)?;
            if run.listener.asked() {
                break 'all;
            }
        }
    }
    run.finish(args, format, created, output)
}

impl Run<'_> {
    /// Runs every test on one model with one thread count.
    fn model(&mut self, path: Option<&PathBuf>, threads: usize, output: &mut Output) -> Result<()> {
        let source = path.map_or(ModelSource::Embedded, |path| ModelSource::Path(path));
        let options = load::options(self.cli)?;
        memory::reset_peak();
        let start = Instant::now();
        let cpu = CpuOptions { threads: Some(threads), isa: None };
        let backend = backend_by_name(self.cli.model.backend.name(), cpu)?;
        let model = Model::load_with(source, &options, backend, &mut |_, _| {})?;
        let load = start.elapsed();
        let stored = model.decoder().token_cost(model.kv())?;
        let name = ModelName::of(source, &options, stored.parameters)?;
        for test in self.tests.clone() {
            let what = format!("{} with {}", test.name(), output::count(threads, "thread"));
            self.progress.begin(&what, output);
            let (test_time, progress) = (calendar::now(), &mut self.progress);
            let measured =
                measure::run_test(&model, test, self.protocol, &self.listener, &mut || {
                    progress.step();
                })?;
            if !measured.times.is_empty() {
                let record = Record {
                    model: &name,
                    machine: &self.machine,
                    limits: self.limits.iter().find(|l| l.threads == threads),
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
                self.series.push(record.series());
                if self.participants.is_empty() {
                    self.participants.push(record.participant(super::command_line()));
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
    fn finish(
        self,
        args: &BenchArgs,
        format: Format,
        created: String,
        output: &mut Output,
    ) -> Result<Outcome> {
        let interrupted = self.listener.asked();
        let done = self.progress.done();
        let all = self.tests.len() * super::threads(args)?.len() * args.repetitions;
        drop(self.progress);
        self.printer.finish(output)?;
        if format == Format::Md {
            explain(&self.machine, &self.limits, &self.notes, output)?;
        }
        if let Some(path) = &args.save {
            let file = RunFile {
                schema: SCHEMA,
                created,
                command: super::command_line(),
                interrupted,
                repetitions: args.repetitions,
                program: machine::program(),
                machine: self.machine.clone(),
                limits: self.limits,
                participants: self.participants,
                series: self.series,
            };
            file.write(path)?;
        }
        if let Some(warning) = machine::disturbance(&self.machine) {
            output.warning(&warning);
        }
        if interrupted {
            output.warning(&format!(
                "interrupted: {done} of {} are in the results",
                output::count(all * args.model.len().max(1), "repetition")
            ));
            return Ok(Outcome::Interrupted);
        }
        Ok(Outcome::Done)
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
fn explain(
    machine: &Machine,
    limits: &[Limits],
    notes: &[String],
    output: &mut Output,
) -> Result<()> {
    output.line("")?;
    output.line(&machine::describe(machine))?;
    for limits in limits {
        output.line(&machine::describe_limits(limits))?;
    }
    for note in notes {
        output.line(note)?;
    }
    let program = machine::program();
    output
        .line(&format!("bitnet {} ({}, {})", program.version, program.profile, program.target))?;
    output.line(
        "pp: reading a prompt, and the choice of the likeliest next token; tg: writing token by token, with the \
         logits of each and the choice of the likeliest. The limit is the read bandwidth for tg, the integer peak for pp.",
    )
}

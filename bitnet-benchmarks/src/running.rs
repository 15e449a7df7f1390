//! The program of `cargo bench`: selects benchmarks, runs processes in turns, and prints the report.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use bitnet_core::memory::TrackingLevel;
use bitnet_core::simd::IsaLevel;
use clap::Parser;

use crate::command_line::{CommandLine, Format};
use crate::filter::Filter;
use crate::machine::Machine;
use crate::peers;
use crate::processes::{Column, Outcome, take_turns};
use crate::products::Library;
use crate::quantizing::Variant;
use crate::report::{
    Cell, ColumnReport, Compare, Group, Method, Report, Row, SuiteReport, Unavailable, html, text,
};
use crate::sampling::Plan;
use crate::stats;
use crate::suite::{self, Bench, Columns, Subject, Suite, Work};
use crate::suites;
use crate::worker;

/// Runs the selected benchmarks. The process starts itself as the measuring processes.
pub fn run() -> ExitCode {
    if env::args_os().nth(1).is_some_and(|first| first == worker::FLAG) {
        return worker::main();
    }
    match run_suites(&CommandLine::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_suites(line: &CommandLine) -> Result<()> {
    let filter = line.filter();
    let suites: Vec<Suite> = suites::all()
        .into_iter()
        .map(|suite| suite.filtered(&filter))
        .filter(|suite| !suite.benches.is_empty())
        .collect();
    anyhow::ensure!(
        !suites.is_empty(),
        "no benchmark matches {:?}: --list prints the names",
        line.filters
    );
    if line.list {
        list(&suites, &filter);
        return Ok(());
    }
    if line.only_tests() {
        return try_all(&suites);
    }
    measure_all(line, suites, &filter)
}

fn list(suites: &[Suite], filter: &Filter) {
    for suite in suites {
        for series in suite.benches.iter().flat_map(|bench| &bench.series) {
            if filter.matches(suite.name, &series.name()) {
                println!("{}/{}", suite.name, series.name());
            }
        }
    }
}

/// Runs every benchmark of this project once in this process, as a test.
fn try_all(suites: &[Suite]) -> Result<()> {
    for (suite, bench) in
        suites.iter().flat_map(|suite| suite.benches.iter().map(move |b| (suite, b)))
    {
        let samples = worker::measure(bench, suite.own_subject(), &Plan::ONCE)
            .map_err(|problem| anyhow::anyhow!("{}: {problem}", bench.id()))?;
        anyhow::ensure!(
            samples.len() == bench.series.len()
                && samples.iter().all(|samples| !samples.is_empty()),
            "{}: no samples",
            bench.id()
        );
        println!("test {} ... ok", bench.id());
    }
    Ok(())
}

fn measure_all(line: &CommandLine, suites: Vec<Suite>, filter: &Filter) -> Result<()> {
    let (plan, repetitions) = (line.plan(), line.repetitions());
    let mut report = Report {
        machine: Machine::here(),
        method: Method {
            repetitions,
            samples: plan.samples,
            warm_up_ms: plan.warm_up.as_secs_f64() * 1e3,
            sample_ms: plan.sample.as_secs_f64() * 1e3,
            resamples: stats::RESAMPLES,
            confidence: stats::CONFIDENCE,
        },
        unavailable: Vec::new(),
        suites: Vec::new(),
    };
    let show = line.output_format == Format::Text;
    let measuring = Measuring { plan, repetitions, filter, show };
    for suite in suites {
        let (columns, unavailable) = columns(&suite, line)?;
        report.unavailable.extend(unavailable);
        if show && report.suites.is_empty() {
            print!("{}", text::head(&report));
        }
        report.suites.push(measuring.suite(&suite, &columns));
    }
    finish(line, &report)
}

/// Writes the report as requested.
fn finish(line: &CommandLine, report: &Report) -> Result<()> {
    let json = || serde_json::to_string_pretty(report).context("the report could not be written");
    if let Some(path) = &line.json {
        write(path, &json()?)?;
    }
    match line.output_format {
        Format::Text => {}
        Format::Json => println!("{}", json()?),
        Format::Html => {
            let path = match &line.output {
                Some(path) => path.clone(),
                None => beside_build()?.join("report.html"),
            };
            write(&path, &html::page(report))?;
            println!("{}", path.display());
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Returns the folder `bitnet-benchmarks` in the build folder of this program.
fn beside_build() -> Result<PathBuf> {
    let program = env::current_exe().context("this program's path is not known")?;
    let profile = program.ancestors().find(|path| path.ends_with("deps")).and_then(Path::parent);
    let folder = profile.and_then(Path::parent).unwrap_or(Path::new("."));
    Ok(folder.join("bitnet-benchmarks"))
}

/// Returns the columns of a suite, and the missing ones.
fn columns(suite: &Suite, line: &CommandLine) -> Result<(Vec<Column>, Vec<Unavailable>)> {
    let program = env::current_exe().context("this program's path is not known")?;
    let own = |name: &str, subject| Column {
        name: name.to_owned(),
        version: None,
        program: program.clone(),
        subject,
    };
    if suite.columns == Columns::TrackingLevels {
        use TrackingLevel::{Basic, Detailed, None, Standard};
        let levels =
            [("none", None), ("basic", Basic), ("standard", Standard), ("detailed", Detailed)];
        let columns = levels.map(|(name, level)| own(name, Subject::Pool(level)));
        return Ok((columns.into(), Vec::new()));
    }
    if suite.columns == Columns::Products {
        let ours = own("bitnet-core", Subject::Product(Library::Core));
        let ndarray = own("ndarray", Subject::Product(Library::Ndarray));
        let version = peers::version_of("matrixmultiply");
        return Ok((vec![ours, Column { version, ..ndarray }], Vec::new()));
    }
    if suite.columns == Columns::Quantizers {
        let ours = own("bitnet-quant", Subject::Quantize(Variant::Quantizer));
        return Ok((vec![ours, own("reading", Subject::Quantize(Variant::Reading))], Vec::new()));
    }
    if suite.columns == Columns::Levels {
        // The scalar level is there for tests; on large layers it takes longer than a process may.
        let levels = IsaLevel::available().into_iter().rev();
        let levels = levels.filter(|level| *level != IsaLevel::Scalar);
        return Ok((
            levels.map(|level| own(level.name(), Subject::Level(level))).collect(),
            Vec::new(),
        ));
    }
    let system = if cfg!(target_env = "gnu") { "glibc" } else { "system" };
    let mut columns =
        vec![own("pool", Subject::Pool(TrackingLevel::None)), own(system, Subject::System)];
    let mut unavailable = Vec::new();
    let built = if line.no_peers { Vec::new() } else { peers::build() };
    for (peer, program) in built {
        match program {
            Ok(program) => columns.push(Column {
                name: peer.name.to_owned(),
                version: peer.version(),
                program,
                subject: Subject::System,
            }),
            Err(why) => unavailable.push(Unavailable { name: peer.name.to_owned(), why }),
        }
    }
    if line.no_peers {
        let why = "omitted by --no-peers".to_owned();
        unavailable.extend(
            peers::PEERS.map(|peer| Unavailable { name: peer.name.to_owned(), why: why.clone() }),
        );
    }
    Ok((columns, unavailable))
}

/// How suites are measured, and whether results are printed immediately.
struct Measuring<'a> {
    plan: Plan,
    repetitions: usize,
    filter: &'a Filter,
    show: bool,
}

impl Measuring<'_> {
    fn suite(&self, suite: &Suite, columns: &[Column]) -> SuiteReport {
        let mut report = SuiteReport {
            name: suite.name.to_owned(),
            columns: columns
                .iter()
                .map(|column| ColumnReport {
                    name: column.name.clone(),
                    version: column.version.clone(),
                })
                .collect(),
            groups: Vec::new(),
        };
        if self.show {
            print!("{}", text::versions(&report));
        }
        for (index, bench) in suite.benches.iter().enumerate() {
            eprintln!("[{}/{}] {}/{}", index + 1, suite.benches.len(), suite.name, bench.id());
            let outcomes = take_turns(bench, columns, &self.plan, self.repetitions_of(bench));
            self.add_rows(&mut report, suite, bench, outcomes);
            if self.show {
                show_finished(&report, bench, &suite.benches[index + 1..]);
            }
        }
        report
    }

    /// Returns the number of repetitions; counted results need fewer, because they hardly vary between processes.
    fn repetitions_of(&self, bench: &Bench) -> usize {
        match bench.work {
            Work::Footprint(_) => self.repetitions.min(2),
            _ => self.repetitions,
        }
    }

    fn add_rows(
        &self,
        report: &mut SuiteReport,
        suite: &Suite,
        bench: &Bench,
        mut outcomes: Vec<Outcome>,
    ) {
        let compare = match suite.columns {
            Columns::Allocators | Columns::Products | Columns::Quantizers | Columns::Levels => {
                Compare::FirstWithBestOther
            }
            Columns::TrackingLevels => Compare::OthersWithFirst,
        };
        for (at, series) in bench.series.iter().enumerate() {
            if !self.filter.matches(suite.name, &series.name()) {
                continue;
            }
            let cells = outcomes.iter_mut().map(|outcome| match outcome {
                Ok(series) => Cell::new(std::mem::take(&mut series[at])),
                Err(why) => Cell::Missing(why.clone()),
            });
            let row = Row::new(series.label.clone(), series.unit, cells.collect(), compare);
            if self.show
                && series.group.starts_with("Memory Pool")
                && let Some(estimate) = row.cells.first().and_then(Cell::estimate)
            {
                print!("{}", text::time_line(&series.name(), estimate));
            }
            match report.groups.iter_mut().find(|group| group.title == series.group) {
                Some(group) => group.rows.push(row),
                None => report.groups.push(Group {
                    title: series.group.to_owned(),
                    about: suite::about(series.group).to_owned(),
                    rows: vec![row],
                }),
            }
        }
    }
}

/// Prints the tables completed by `bench`.
fn show_finished(report: &SuiteReport, bench: &Bench, left: &[Bench]) {
    let in_bench = |bench: &Bench, title: &str| bench.series.iter().any(|s| s.group == title);
    for group in &report.groups {
        let waits = left.iter().any(|bench| in_bench(bench, &group.title));
        if in_bench(bench, &group.title) && !waits {
            println!("\n{}", text::table(report, group));
        }
    }
}

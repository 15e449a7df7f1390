//! `bitnet bench --streams`: several texts written at once, a token of each in every pass through the model.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bitnet_core::rng::SplitMix64;
use bitnet_cpu::CpuOptions;
use bitnet_inference::sampler::{Sampler, SamplerConfig};
use bitnet_inference::{
    BatchItem, LogitRows, Model, ModelSource, Session, backend_by_name, choose_batch, extend_batch,
};
use serde_json::{Value, json};

use super::args::{BenchArgs, Counts, Format};
use super::progress::Progress;
use super::record::{ModelName, peak};
use super::run_file::{Machine, Test};
use super::statistics::{Summary, median};
use super::{WRITTEN, conclude, machine, measure, memory, tables};
use crate::args::Cli;
use crate::commands::Outcome;
use crate::interrupt::Listener;
use crate::load;
use crate::output::{self, Output};

/// The times of one number of streams with one number of threads.
#[derive(Debug)]
struct Measured {
    streams: usize,
    threads: usize,
    test: Test,
    times: Vec<Duration>,
}

impl Measured {
    /// Returns the tokens per second of all streams together, in each repetition.
    fn rates(&self) -> Vec<f64> {
        let tokens = (self.streams * self.test.n_gen) as f64;
        self.times.iter().map(|time| tokens / time.as_secs_f64().max(1e-9)).collect()
    }

    /// Returns the median rate divided by that of one stream, if that was measured.
    fn ratio(&self, all: &[Self]) -> Option<f64> {
        let one = all.iter().find(|m| m.streams == 1 && m.threads == self.threads)?;
        Some(median(&self.rates())? / median(&one.rates())?)
    }

    fn cells(&self, all: &[Self]) -> Vec<String> {
        let summary = Summary::of(&self.rates());
        let of = |text: &dyn Fn(Summary) -> String| summary.map_or_else(String::new, text);
        vec![
            self.test.name(),
            self.threads.to_string(),
            self.streams.to_string(),
            of(&|s| format!("{:.2} ± {:.2}", s.mean, s.deviation)),
            of(&|s| format!("{:.2} ({:.2}..{:.2})", s.median, s.min, s.max)),
            of(&|s| format!("{:.2}", s.median / self.streams as f64)),
            self.ratio(all).map_or("-".into(), |ratio| format!("{ratio:.2}")),
        ]
    }

    fn to_json(&self, all: &[Self], model: &ModelName, machine: &Machine) -> Value {
        let rates = self.rates();
        let rate = Summary::of(&rates);
        json!({
            "model_filename": model.filename,
            "model_type": model.kind,
            "model_size": model.size,
            "model_n_params": model.parameters,
            "n_threads": self.threads,
            "n_streams": self.streams,
            "n_gen": self.test.n_gen,
            "n_depth": self.test.n_depth,
            "test": self.test.name(),
            "samples_ns": self.times.iter().map(|t| t.as_nanos() as u64).collect::<Vec<_>>(),
            "samples_ts": rates,
            "avg_ts": rate.map(|r| r.mean),
            "stddev_ts": rate.map(|r| r.deviation),
            "median_ts": rate.map(|r| r.median),
            "min_ts": rate.map(|r| r.min),
            "max_ts": rate.map(|r| r.max),
            "median_ts_per_stream": rate.map(|r| r.median / self.streams as f64),
            "ratio_to_one_stream": self.ratio(all),
            "machine": machine,
            "program": machine::program(),
        })
    }
}

/// Measures and prints the rates of each number of streams, for each number of threads.
pub(crate) fn run(
    cli: &Cli,
    args: &BenchArgs,
    Counts(streams): &Counts,
    output: &mut Output,
) -> Result<Outcome> {
    let source = match args.model.as_slice() {
        [] => ModelSource::Embedded,
        [path] => ModelSource::Path(path),
        _ => bail!("streams are measured with one model; use --model once"),
    };
    let test = test(args)?;
    let format = super::format(args, output);
    if matches!(format, Format::Jsonl | Format::Csv) {
        bail!("--streams prints a table (-o md) or JSON (-o json)");
    }
    let (threads, machine, options) =
        (super::threads(args)?, machine::machine()?, load::options(cli)?);
    let listener = Listener::new();
    let steps = threads.len() * streams.len() * args.repetitions;
    let mut progress = Progress::new(steps, output);
    let (mut all, mut name) = (Vec::new(), None);
    memory::reset_peak();
    for &threads in &threads {
        let cpu = CpuOptions { threads: Some(threads), isa: None };
        let backend = backend_by_name(cli.model.backend, cpu)?;
        let model = Model::load_with(source, &options, backend, &mut |_, _| {})?;
        check_memory(cli, &model, test, streams)?;
        let stored = model.decoder().token_cost(model.kv())?;
        name = Some(ModelName::of(source, &options, stored.parameters)?);
        let with = output::count(threads, "thread");
        progress.begin(&format!("{} in {streams:?} streams with {with}", test.name()), output);
        let seed = cli.general.seed().unwrap_or(super::single_run::SEED);
        let mut writer = Writer::new(&model, test, streams, seed, &listener)?;
        all.extend(writer.measure(streams, threads, args, &mut progress)?);
        if listener.asked() {
            break;
        }
    }
    let done = progress.done;
    drop(progress);
    if let Some(model) = name {
        print(&all, &model, &machine, format, output)?;
    }
    let steps = output::count(steps, "repetition");
    Ok(conclude(&machine, listener.asked(), done, &steps, output))
}

/// Returns the test of each stream.
fn test(args: &BenchArgs) -> Result<Test> {
    let n_gen = BenchArgs::all(&args.n_gen, WRITTEN);
    let n_depth = BenchArgs::all(&args.n_depth, 0);
    match (n_gen.as_slice(), n_depth.as_slice()) {
        (&[n_gen], &[n_depth]) if n_gen > 0 => Ok(Test { n_prompt: 0, n_gen, n_depth }),
        _ => {
            bail!("streams have one number of tokens and one depth; use one -n above 0 and one -d")
        }
    }
}

/// Rejects streams whose keys and values exceed free memory.
fn check_memory(cli: &Cli, model: &Model, test: Test, streams: &[usize]) -> Result<()> {
    let most = streams.iter().max().map_or(0, |&streams| streams as u64);
    let tokens = test.n_depth.saturating_add(test.n_gen) as u64;
    let Some(shortage) = load::shortage(cli, model, tokens.saturating_mul(most))? else {
        return Ok(());
    };
    bail!(
        "{most} streams of {tokens} tokens take {} for keys and values, and {} of memory are free; ask for fewer \
         streams or tokens, at most {} in all, or store them smaller (--kv int8)",
        shortage.needed,
        shortage.free,
        output::count(shortage.most, "token"),
    )
}

fn print(
    all: &[Measured],
    model: &ModelName,
    machine: &Machine,
    format: Format,
    output: &mut Output,
) -> Result<()> {
    if format != Format::Md {
        let records: Vec<_> = all.iter().map(|m| m.to_json(all, model, machine)).collect();
        return output.json(&records);
    }
    let headings =
        ["test", "threads", "streams", "t/s", "median (min..max)", "t/s a stream", "of one stream"];
    output.verbatim(&tables::table(&headings, 1, all.iter().map(|m| m.cells(all))))?;
    output.line(&format!("{}; {}", model.kind, machine::describe(machine)))?;
    output.line(&format!("resident memory at the peak {}", peak(memory::peak_bytes())))?;
    output.line(
        "t/s: tokens of all streams together. Each stream is a text of its own with its own cache; a pass through the \
         model reads a token of each, and one over the head chooses the likeliest next ones.",
    )
}

/// Sessions that write together, and what they begin with.
struct Writer<'a> {
    model: &'a Model,
    test: Test,
    listener: &'a Listener,
    sessions: Vec<Session>,
    samplers: Vec<Sampler>,
    /// The first token of each session.
    first: Vec<u32>,
}

impl<'a> Writer<'a> {
    /// Makes as many sessions as there are streams at most; each begins with random tokens of its own.
    fn new(
        model: &'a Model,
        test: Test,
        streams: &[usize],
        seed: u64,
        listener: &'a Listener,
    ) -> Result<Self> {
        let mut random = SplitMix64::new(seed);
        let vocab_size = model.config().vocab_size;
        let (mut sessions, mut samplers, mut first) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..streams.iter().copied().max().unwrap_or(0) {
            let mut session = model.session(Some(test.n_depth.saturating_add(test.n_gen)))?;
            let context = measure::tokens(&mut random, test.n_depth, vocab_size);
            if !context.is_empty() && !measure::read(&mut session, &context, listener)? {
                break;
            }
            sessions.push(session);
            samplers.push(Sampler::new(SamplerConfig::default(), vocab_size)?);
            first.extend(measure::tokens(&mut random, 1, vocab_size));
        }
        Ok(Self { model, test, listener, sessions, samplers, first })
    }

    /// Measures each number of streams in turns; fewer repetitions if the user stopped it.
    fn measure(
        &mut self,
        streams: &[usize],
        threads: usize,
        args: &BenchArgs,
        progress: &mut Progress,
    ) -> Result<Vec<Measured>> {
        let test = self.test;
        let empty = |&streams| Measured { streams, threads, test, times: Vec::new() };
        let mut all: Vec<_> = streams.iter().map(empty).collect();
        // The head is prepared once, as in every run with more than one token.
        self.model.decoder().prepare_top_logits()?;
        let warm_up = usize::from(!args.no_warmup);
        for repetition in 0..args.repetitions + warm_up {
            for measured in &mut all {
                let timed = repetition >= warm_up;
                let n_gen = if timed { test.n_gen } else { 1 };
                let Some(time) = self.write(measured.streams, n_gen)? else { break };
                if timed {
                    measured.times.push(time);
                    progress.step();
                }
            }
        }
        all.retain(|measured| !measured.times.is_empty());
        Ok(all)
    }

    /// Writes `n_gen` tokens in each of the first `streams` sessions; `None` if the user stopped it.
    fn write(&mut self, streams: usize, n_gen: usize) -> Result<Option<Duration>> {
        // Reading the context may have been stopped.
        let Some(sessions) = self.sessions.get_mut(..streams) else { return Ok(None) };
        for session in &mut *sessions {
            session.truncate(self.test.n_depth);
        }
        let mut tokens = self.first[..streams].to_vec();
        let start = Instant::now();
        for _ in 0..n_gen {
            if self.listener.asked() {
                return Ok(None);
            }
            let items = sessions.iter_mut().zip(tokens.chunks(1));
            let mut items: Vec<_> = items
                .map(|(session, tokens)| BatchItem { session, tokens, logits: LogitRows::None })
                .collect();
            extend_batch(&mut items)?;
            let mut items: Vec<_> = sessions.iter().zip(&mut self.samplers).collect();
            tokens = choose_batch(&mut items)?.into_iter().collect::<Result<_, _>>()?;
        }
        Ok(Some(start.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_one_stream_with_the_same_threads() {
        let test = Test { n_prompt: 0, n_gen: 4, n_depth: 0 };
        let of = |streams, threads, seconds: &[u64]| Measured {
            streams,
            threads,
            test,
            times: seconds.iter().map(|&s| Duration::from_secs(s)).collect(),
        };
        let all = [of(1, 1, &[4, 2, 3]), of(6, 1, &[6, 6]), of(6, 2, &[1])];
        assert_eq!(all[1].rates(), [4.0, 4.0]);
        assert_eq!(all[1].ratio(&all), Some(3.0));
        assert_eq!(all[2].ratio(&all), None);
        assert_eq!(all[2].cells(&all)[6], "-");
    }

    /// What is timed is what each text would be alone.
    #[test]
    fn streams_write_what_each_writes_alone() {
        let model = Model::embedded().unwrap();
        let listener = Listener::new();
        let test = Test { n_prompt: 0, n_gen: 5, n_depth: 3 };
        let mut writer = Writer::new(&model, test, &[1, 3], 1, &listener).unwrap();
        assert!(writer.write(3, 5).unwrap().is_some());
        for (session, first) in writer.sessions.iter().zip(&writer.first) {
            let written = session.tokens();
            assert_eq!((written.len(), written[3]), (8, *first));
            let mut alone = model.session(Some(8)).unwrap();
            let mut sampler =
                Sampler::new(SamplerConfig::default(), model.config().vocab_size).unwrap();
            alone.extend(&written[..4]).unwrap();
            for token in &written[4..] {
                assert_eq!(alone.choose(&mut sampler).unwrap(), *token);
                alone.extend(&[*token]).unwrap();
            }
        }
    }
}

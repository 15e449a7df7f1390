//! A measuring process: one benchmark, one subject, samples as JSON on standard output.

use std::process::ExitCode;
use std::time::Duration;

use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig, TrackingConfig, TrackingLevel};
use clap::Parser;
use serde::{Deserialize, Serialize};

use crate::blocks::{Blocks, Line, Pair, Pool, System};
use crate::decoding::decoding;
use crate::footprint::footprint;
use crate::kernels::{batch, cache_lines, handover, larson, mstress, pair, replay, xmalloc};
use crate::layers::layers;
use crate::products::products;
use crate::quantizing::quantizing;
use crate::sampling::Plan;
use crate::suite::{Bench, Subject, Work};
use crate::suites;
use crate::training::training;

/// The first argument of a measuring process.
pub const FLAG: &str = "--worker";

/// A request.
#[derive(Debug, Clone, Parser)]
#[command(name = "worker")]
pub struct Request {
    /// The benchmark's id.
    #[arg(long = "worker")]
    pub bench: String,
    /// The subject's name.
    #[arg(long)]
    pub subject: String,
    /// Microseconds of warm-up.
    #[arg(long)]
    pub warm_up: u64,
    /// Microseconds of a sample.
    #[arg(long)]
    pub sample: u64,
    /// Samples.
    #[arg(long)]
    pub samples: usize,
}

impl Request {
    /// Creates a request for one benchmark of one subject.
    pub fn new(bench: &Bench, subject: Subject, plan: &Plan) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            bench: bench.id(),
            subject: subject.name().to_owned(),
            warm_up: micros(plan.warm_up),
            sample: micros(plan.sample),
            samples: plan.samples,
        }
    }

    /// Returns the request as command-line arguments.
    pub fn arguments(&self) -> Vec<String> {
        let numbers = [("--warm-up", self.warm_up), ("--sample", self.sample)];
        let mut arguments =
            vec![FLAG.into(), self.bench.clone(), "--subject".into(), self.subject.clone()];
        arguments.extend(numbers.iter().flat_map(|(flag, n)| [flag.to_string(), n.to_string()]));
        arguments.extend(["--samples".into(), self.samples.to_string()]);
        arguments
    }

    fn plan(&self) -> Plan {
        Plan {
            warm_up: Duration::from_micros(self.warm_up),
            sample: Duration::from_micros(self.sample),
            samples: self.samples,
        }
    }
}

/// A response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The samples of each series.
    pub samples: Vec<Vec<f64>>,
}

/// The main function of a measuring process: parses the request and prints the response.
pub fn main() -> ExitCode {
    let request = match Request::try_parse() {
        Ok(request) => request,
        Err(error) => error.exit(),
    };
    match answer(&request) {
        Ok(answer) => {
            println!("{}", serde_json::json!(answer));
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn answer(request: &Request) -> Result<Answer, String> {
    let bench = suites::bench(&request.bench)
        .ok_or_else(|| format!("there is no benchmark {:?}", request.bench))?;
    let subject = Subject::named(&request.subject)
        .ok_or_else(|| format!("there is no subject {:?}", request.subject))?;
    measure(&bench, subject, &request.plan()).map(|samples| Answer { samples })
}

/// Runs a benchmark in this process; returns the samples of each series.
///
/// # Errors
/// A message.
pub fn measure(bench: &Bench, subject: Subject, plan: &Plan) -> Result<Vec<Vec<f64>>, String> {
    match (subject, &bench.work) {
        (Subject::Product(library), &Work::Product(shape)) => {
            Ok(vec![products(library, shape, plan)?])
        }
        (Subject::Quantize(variant), &Work::Quantize(task)) => {
            Ok(vec![quantizing(variant, task, plan)?])
        }
        (Subject::Level(level), &Work::Layers(shape)) => layers(level, shape, plan).map(Vec::from),
        (Subject::Level(_), _) => Err("an instruction set level runs ternary layers only".into()),
        (Subject::Quantize(_), _) => {
            Err("a quantiser is neither an allocator nor a matrix product".into())
        }
        (Subject::Product(_), _) => Err("a matrix product is not an allocator".into()),
        (Subject::Pool(level), Work::Decode) => Ok(vec![decoding(pool(level)?, plan)?]),
        (Subject::Pool(level), Work::Train) => Ok(vec![training(&pool(level)?, plan)?]),
        (Subject::Pool(level), _) => run(bench, &Pool(pool(level)?), plan),
        (Subject::System, _) if bench.natural => run(bench, &System::<Pair>::new(), plan),
        (Subject::System, _) => run(bench, &System::<Line>::new(), plan),
    }
}

/// Returns an unbounded pool.
fn pool(level: TrackingLevel) -> Result<HybridMemoryPool, String> {
    let tracked = level != TrackingLevel::None;
    let config = MemoryPoolConfig {
        enable_advanced_tracking: tracked,
        tracking_config: tracked.then(|| TrackingConfig { level, ..TrackingConfig::default() }),
        ..MemoryPoolConfig::unbounded()
    };
    HybridMemoryPool::with_config(config).map_err(|error| error.to_string())
}

/// Runs a benchmark on these blocks; returns the samples of each series.
///
/// # Errors
/// Same as [`measure`].
pub fn run<B: Blocks>(bench: &Bench, blocks: &B, plan: &Plan) -> Result<Vec<Vec<f64>>, String> {
    let samples = match &bench.work {
        &Work::Pair { bytes, threads, touch } => {
            pair::pair(blocks, plan, bytes, threads, touch).map(Vec::from)
        }
        Work::Batch(sizes) => batch::batch(blocks, plan, sizes).map(Vec::from),
        &Work::Handover(bytes) => handover::handover(blocks, plan, bytes).map(Vec::from),
        &Work::Larson { sizes, threads } => {
            larson::larson(blocks, plan, sizes, threads).map(Vec::from)
        }
        Work::Xmalloc => xmalloc::xmalloc(blocks, plan).map(Vec::from),
        Work::Mstress => mstress::mstress(blocks, plan).map(Vec::from),
        &Work::CacheLines { threads, inherited } => {
            cache_lines::cache_lines(blocks, plan, threads, inherited).map(Vec::from)
        }
        Work::Replay(pattern, touch) => {
            replay::replay(blocks, plan, &pattern.trace(), *touch).map(Vec::from)
        }
        &Work::Footprint(mix) => {
            let found = footprint(blocks, mix)?;
            let parts = [found.resident, found.retained, found.mapped];
            Ok(parts.iter().take(bench.series.len()).map(|&part| vec![part]).collect())
        }
        Work::Product(_) => return Err("products can't be measured with an allocator".into()),
        Work::Quantize(_) => return Err("quantisation can't be measured with an allocator".into()),
        Work::Layers(_) => return Err("layers can't be measured with an allocator".into()),
        Work::Decode | Work::Train => {
            return Err("decoding and training need a pool".into());
        }
    };
    samples.map_err(|refused| refused.to_string())
}

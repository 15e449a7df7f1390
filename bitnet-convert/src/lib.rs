//! Conversion of ternary language models between containers and storage formats, with proof.
//!
//! A conversion decides on every tensor first ([`inspect`] stops there), then reads, converts and writes one tensor after
//! another, on all cores, with a bounded amount of memory; then it opens the result as the engine opens models and
//! compares every trit and every byte; then the result gets its name. An interrupted conversion goes on where it stopped.
//!
//! ```no_run
//! use bitnet_convert::{ConvertOptions, convert};
//! use std::path::{Path, PathBuf};
//!
//! let options = ConvertOptions::default();
//! let report = convert(Path::new("bitnet-2b"), Path::new("bitnet-2b.gguf"), &options, &mut |_| true)?;
//! println!("{} bytes", report.bytes);
//! # Ok::<(), bitnet_convert::Error>(())
//! ```
#![forbid(unsafe_code)]

mod adapter;
mod budget;
mod choose;
mod diff;
mod digest;
mod encode;
mod error;
mod gguf_target;
mod hf_target;
mod options;
mod partial;
mod pattern;
mod plan;
mod report;
mod storage;
mod tensors;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_inference::loader::in_parallel;
use bitnet_inference::{ModelFiles, ModelSource};

pub use diff::{Difference, TensorDifference, diff};
pub use error::{Error, Result};
pub use options::{Budget, ConvertOptions, Progress, Stage, Target};
pub use report::{Fidelity, Report, TensorReport};
pub use storage::Storage;

use digest::Digest;
use encode::Encoder;
use hf_target::SideFile;
use options::Destination;
use partial::Partial;
use plan::{Plan, PlannedFile};
use verify::Meant;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// A decided conversion.
struct Decided {
    files: ModelFiles,
    plan: Plan,
    planned: Vec<PlannedFile>,
    side: Vec<SideFile>,
}

/// Says what a conversion would do; nothing is written.
///
/// # Errors
/// As [`convert`], as far as they show before a tensor is converted.
pub fn inspect(input: &Path, output: &Path, options: &ConvertOptions) -> Result<Report> {
    let decided = decide(input, output, options)?;
    Ok(decided.report(&[], 0))
}

/// Converts the model at `input` into `output`. `on_progress` is told how far it is, and stops it by answering `false`.
///
/// # Errors
/// [`Error::Refused`] for what would change the model unasked, [`Error::Tensor`] for a tensor that the storage can't hold,
/// [`Error::Unproven`] if the result does not read back as it was meant, [`Error::Stopped`] if it was asked to stop, and
/// those of reading and writing. Until it returns, `output` is what it was.
pub fn convert(
    input: &Path,
    output: &Path,
    options: &ConvertOptions,
    on_progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<Report> {
    let destination = Destination::new(output)?;
    let decided = decide(input, output, options)?;
    if let Some(there) = decided.final_names(output).iter().find(|name| name.exists())
        && !options.overwrite
    {
        let problem = "it is there already; --overwrite replaces it";
        return Err(Error::refused(there.display().to_string(), problem));
    }
    let Decided { files, plan, planned, side } = &decided;
    let fingerprint = decided.fingerprint();
    let partial = Partial::open(destination.clone(), plan, planned, fingerprint, options.resume)?;
    let left: Vec<usize> = (0..plan.works.len()).filter(|&step| !partial.is_done(step)).collect();
    let resumed = plan.works.len() - left.len();
    let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?;
    let threads = options.threads.unwrap_or_else(available_threads);
    let stop = AtomicBool::new(false);

    let start = Instant::now();
    let encoder = Encoder { files, options, plan, pool: &pool };
    let total: u64 = left.iter().map(|&step| plan.works[step].source_bytes).sum();
    let done = AtomicU64::new(0);
    let mut tell = |stage, done, total| {
        if !on_progress(Progress { stage, done, total }) {
            stop.store(true, Ordering::Relaxed);
        }
    };
    // Asked after each stage as well: its last pieces may have been done before anyone was told of the first.
    let go_on = || match stop.load(Ordering::Relaxed) {
        true => Err(Error::Stopped { partial: destination.partial.clone() }),
        false => Ok(()),
    };
    let work = |index: usize| -> Result<()> {
        go_on()?;
        let step = left[index];
        let encoded = encoder.encode(&plan.works[step])?;
        partial.take(plan, step, encoded)?;
        done.fetch_add(plan.works[step].source_bytes, Ordering::Relaxed);
        Ok(())
    };
    in_parallel(left.len(), threads, work, &mut |_, _| {
        tell(Stage::Converting, done.load(Ordering::Relaxed), total);
    })?;
    go_on()?;
    files.check()?;
    side.iter().try_for_each(|file| file.write(&destination.files()))?;
    let converting = start.elapsed();

    let records = partial.records();
    let start = Instant::now();
    if options.verify {
        let total = plan.parts.iter().map(|part| part.nbytes).sum();
        let at = match plan.target {
            Target::Gguf => destination.files().join(&planned[0].name),
            Target::HuggingFace | Target::Dense | Target::Mlx => destination.files(),
        };
        let on_bytes = &mut |read| tell(Stage::Proving, read, total);
        let meant = Meant { source: files, options, plan, records: &records };
        verify::prove(meant, &at, &pool, threads, &go_on, on_bytes)?;
        go_on()?;
    }
    let proving = options.verify.then(|| start.elapsed());
    partial.sync()?;
    match plan.target {
        Target::Gguf => partial.finish_files(&decided.final_names(output))?,
        Target::HuggingFace | Target::Dense | Target::Mlx => {
            partial.finish_folder(options.overwrite)?
        }
    }
    Ok(Report { converting, proving, ..decided.report(&records, resumed) })
}

/// Threads for work on models: as many as the system lets this process run.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn decide(input: &Path, output: &Path, options: &ConvertOptions) -> Result<Decided> {
    let files = ModelFiles::open(ModelSource::Path(input), &options.load)?;
    let is_gguf = output.extension().is_some_and(|extension| extension == "gguf");
    let target = options.target.unwrap_or(if is_gguf { Target::Gguf } else { Target::HuggingFace });
    if (target == Target::Gguf) != is_gguf {
        let problem =
            "a GGUF file's name ends in .gguf, a folder's does not; choose another name or --to";
        return Err(Error::refused(output.display().to_string(), problem));
    }
    let mut options = options.clone();
    if let Some(budget) = options.budget {
        let threads = options.threads.unwrap_or_else(available_threads);
        let chosen = budget::within(budget, &files, &options, target, threads)?;
        // What was asked for by name comes last and has the last word.
        options.overrides.splice(0..0, chosen);
    }
    let options = &options;
    let name = output.file_name().map(|name| name.to_string_lossy().into_owned());
    let (plan, planned, side) = match target {
        Target::Gguf => {
            let (plan, planned) = gguf_target::plan(&files, options, &name.unwrap_or_default())?;
            (plan, planned, Vec::new())
        }
        Target::HuggingFace | Target::Dense | Target::Mlx => {
            hf_target::plan(&files, options, target)?
        }
    };
    Ok(Decided { files, plan, planned, side })
}

impl Decided {
    /// A digest of everything that the result's bytes depend on.
    fn fingerprint(&self) -> Digest {
        let Self { files, plan, planned, side } = self;
        let mut text = format!("{} {plan:?} {side:?}", env!("CARGO_PKG_VERSION"));
        for file in files.files() {
            let (name, stamp) = (file.name(), file.stamp());
            text.push_str(&format!("{name} {stamp:?} {}", file.bytes().len()));
        }
        let mut bytes = text.into_bytes();
        planned.iter().for_each(|file| bytes.extend_from_slice(&file.header));
        Digest::of(&bytes)
    }

    /// What the result will be called: the folder, or each GGUF file.
    fn final_names(&self, output: &Path) -> Vec<PathBuf> {
        match self.plan.target {
            Target::Gguf => {
                self.planned.iter().map(|file| output.with_file_name(&file.name)).collect()
            }
            Target::HuggingFace | Target::Dense | Target::Mlx => vec![output.to_owned()],
        }
    }

    fn report(&self, records: &[partial::Record], resumed: usize) -> Report {
        let Self { files, plan, planned, .. } = self;
        Report {
            source: files.name().to_owned(),
            target: plan.target.name(),
            tensors: report::tensors(files, plan, records),
            remarks: plan.remarks.clone(),
            source_bytes: plan.works.iter().map(|work| work.source_bytes).sum(),
            bytes: planned.iter().map(|file| file.len).sum(),
            files: planned.iter().map(|file| file.name.clone()).collect(),
            resumed,
            steps: plan.works.len(),
            converting: std::time::Duration::ZERO,
            proving: None,
        }
    }
}

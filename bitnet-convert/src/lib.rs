//! Verified conversion of ternary language models between containers and storage types.
//!
//! A conversion has four steps: it plans every tensor ([`inspect`] stops here); it converts one tensor after another,
//! on all cores, with bounded memory; it opens the result with the engine's loader and compares every trit and every
//! byte; and it renames the result to its final name. An interrupted conversion resumes.
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
mod adapter_config;
mod budget;
mod choose;
mod claim;
mod compare;
mod destination;
mod diff;
mod digest;
mod encode;
mod entry;
mod error;
mod gguf_keys;
mod gguf_target;
mod hf_config;
mod hf_target;
mod manifest;
mod options;
mod order;
mod partial;
mod pattern;
mod plan;
mod rehearse;
mod report;
mod rotation;
mod side_files;
mod source;
mod special_ids;
mod tensors;
mod vector;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_inference::loader::{Container, in_parallel};
use bitnet_inference::{ModelFiles, ModelSource};

pub use bitnet_quant::codec::Storage;
pub use destination::UNSUPPORTED_EXTENSIONS;
pub use diff::{Difference, TensorDifference, diff};
pub use error::{Error, Result};
pub use options::{Budget, ConvertOptions, Progress, Stage, Target};
pub use report::{Fidelity, Report, TensorReport};

use destination::Destination;
use digest::Digest;
use encode::Encoder;
use hf_target::SideFile;
use partial::Partial;
use plan::{Plan, PlannedFile};
use source::SourceFiles;
use verify::Meant;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// A planned conversion.
struct Decided {
    files: ModelFiles,
    source: SourceFiles,
    destination: Destination,
    plan: Plan,
    planned: Vec<PlannedFile>,
    side: Vec<SideFile>,
}

/// Plans a conversion without writing anything.
///
/// # Errors
/// Same as [`convert`], as far as they are detected before a tensor is converted.
pub fn inspect(input: &Path, output: &Path, options: &ConvertOptions) -> Result<Report> {
    let decided = decide(input, output, options)?;
    Ok(decided.report(&[], 0))
}

/// Converts the model at `input` to `output`. `on_progress` receives the progress and stops the conversion by returning
/// `false`.
///
/// # Errors
/// [`Error::Refused`] for a change of the model that was not requested, or for replacing foreign files;
/// [`Error::Tensor`] for a tensor that the storage type does not support; [`Error::Unproven`] if verification fails;
/// [`Error::SourceChanged`] if the source changed; [`Error::Stopped`] and [`Error::Interrupted`] if the conversion was
/// stopped; and errors of reading and writing.
///
/// `output` is unchanged until the result is complete and verified. A single file is then renamed atomically. The files
/// of a split model are renamed one after another, the first one last; a replaced folder is moved aside first. Running
/// the same conversion again repairs an interruption between these steps.
pub fn convert(
    input: &Path,
    output: &Path,
    options: &ConvertOptions,
    on_progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<Report> {
    let decided = decide(input, output, options)?;
    let partial = decided.destination.partial.clone();
    run(decided, options, on_progress).map_err(|error| error.keeping(&partial))
}

fn run(
    decided: Decided,
    options: &ConvertOptions,
    on_progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<Report> {
    let Decided { files, source, destination, plan, planned, side } = &decided;
    let (fingerprint, names) = (decided.fingerprint(), decided.file_names());
    let partial = Partial::open(destination.clone(), plan, planned, &names, fingerprint, options)?;
    // The folder that an earlier run was replacing may have been restored.
    destination.check(plan.target, &decided.final_names(), options.overwrite)?;
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
    // Checked after each stage as well: its last pieces may finish before the first progress report.
    let check_stop = || match stop.load(Ordering::Relaxed) {
        true => Err(Error::Stopped { partial: destination.partial.clone() }),
        false => options.check_stop(),
    };
    let work = |index: usize| -> Result<()> {
        check_stop()?;
        let step = left[index];
        // If the source changed, that is the error to report, whatever else failed.
        let encoded = encoder
            .encode(&plan.works[step])
            .map_err(|error| source.check(files).err().unwrap_or(error))?;
        partial.take(plan, step, encoded)?;
        done.fetch_add(plan.works[step].source_bytes, Ordering::Relaxed);
        Ok(())
    };
    in_parallel(left.len(), threads, work, &mut |_, _| {
        tell(Stage::Converting, done.load(Ordering::Relaxed), total);
    })?;
    check_stop()?;
    side.iter().try_for_each(|file| file.write(&destination.files()))?;
    source.check(files)?;
    let converting = start.elapsed();

    let records = partial.records();
    let start = Instant::now();
    if options.verify {
        let total = plan.parts.iter().map(|part| part.nbytes).sum();
        let at = decided.opened_by(&destination.files());
        let on_bytes = &mut |read| tell(Stage::Proving, read, total);
        let meant = Meant { source: files, options, plan, records: &records };
        verify::prove(meant, &at, &pool, threads, &check_stop, on_bytes)?;
        check_stop()?;
    }
    let proving = options.verify.then(|| start.elapsed());
    partial.sync()?;
    source.check(files)?;
    match plan.target {
        Target::Gguf => partial.finish_files(&decided.final_names(), options.overwrite)?,
        Target::HuggingFace | Target::Dense | Target::Mlx => partial.finish_folder(options)?,
    }
    Ok(Report { converting, proving, ..decided.report(&records, resumed) })
}

/// Returns the number of threads: the available parallelism.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn decide(input: &Path, output: &Path, options: &ConvertOptions) -> Result<Decided> {
    let destination = Destination::new(output)?;
    let target = destination::target_of(output, options.target)?;
    let mut source = SourceFiles::side_files(input);
    let files = ModelFiles::open(ModelSource::Path(input), &options.load)?;
    source.add_weights(&files);
    refuse_what_a_target_cannot_say(&files, target, options)?;
    options.check_stop()?;
    let mut options = options.clone();
    if let Some(budget) = options.budget {
        let threads = options.threads.unwrap_or_else(available_threads);
        let selected = budget::within(budget, &files, &options, target, threads)?;
        // Types requested by name come last and take precedence.
        options.overrides.splice(0..0, selected);
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
    let mut decided = Decided { files, source, destination, plan, planned, side };
    let names = decided.final_names();
    decided.source.refuse_as_output(output, &names)?;
    decided.destination.check_bytes(target, &names, options)?;
    let remarks = rehearse::rehearse(&decided, options)?;
    decided.plan.remarks.extend(remarks);
    Ok(decided)
}

/// Refuses models whose parts have no form in the target yet.
fn refuse_what_a_target_cannot_say(
    files: &ModelFiles,
    target: Target,
    options: &ConvertOptions,
) -> Result<()> {
    let config = files.config();
    let between_gguf = matches!(files.container(), Container::Gguf(_)) && target == Target::Gguf;
    let problem = if config.draft_layers > config.drafts_read {
        "it has layers that draft tokens, of which one is read at most and only with `load.draft`; remove the others first"
    } else if config.mixture.is_some() && options.quantize {
        "mixtures of experts are not made ternary: convert one that is"
    } else if config.rotations.is_some() && !options.adapters.is_empty() {
        "its weights are stored rotated, and adapters are not: merge them into the model before it is rotated"
    } else if between_gguf {
        return Ok(());
    } else if config.mixture.is_some() {
        "mixtures of experts (maple) are converted from GGUF to GGUF only"
    } else if target != Target::Gguf && !config.has_head {
        "models without a head, for embeddings of texts, are written as GGUF files only: name a .gguf file"
    } else if target == Target::Mlx && config.drafts_read > 0 {
        "MLX's programs do not read layers that draft tokens: write a GGUF file, or --to hf-dense"
    } else if target == Target::Mlx && config.scales.is_some() {
        "models with scaled embeddings (minicpm, gemma3) are not written for MLX: write a GGUF file, or --to hf-dense"
    } else {
        return rotation::refuse_unsayable(files, target);
    };
    Err(Error::refused(files.name(), problem))
}

impl Decided {
    /// Returns the digest of all inputs that determine the result's bytes.
    fn fingerprint(&self) -> Digest {
        let Self { files, plan, planned, side, .. } = self;
        let mut text = format!("{} {plan:?} {side:?}", env!("CARGO_PKG_VERSION"));
        for file in files.files() {
            let (name, stamp) = (file.name(), file.stamp());
            text.push_str(&format!("{name} {stamp:?} {}", file.bytes().len()));
        }
        let mut bytes = text.into_bytes();
        planned.iter().for_each(|file| bytes.extend_from_slice(&file.header));
        Digest::of(&bytes)
    }

    /// Returns the final names: the folder, or each GGUF file.
    fn final_names(&self) -> Vec<PathBuf> {
        let output = &self.destination.path;
        match self.plan.target {
            Target::Gguf => {
                self.planned.iter().map(|file| output.with_file_name(&file.name)).collect()
            }
            Target::HuggingFace | Target::Dense | Target::Mlx => vec![output.clone()],
        }
    }

    /// Returns the names of all files of the result.
    fn file_names(&self) -> Vec<String> {
        let weights = self.planned.iter().map(|file| file.name.clone());
        weights.chain(self.side.iter().map(|file| file.name().to_owned())).collect()
    }

    /// Returns the path that opens a result in `folder`.
    fn opened_by(&self, folder: &Path) -> PathBuf {
        match self.plan.target {
            Target::Gguf => folder.join(&self.planned[0].name),
            Target::HuggingFace | Target::Dense | Target::Mlx => folder.to_owned(),
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

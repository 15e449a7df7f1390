//! A run in a folder: log, checkpoints and report.
//!
//! The folder contains `checkpoint.safetensors` (the state for resuming), `training.csv` (one line per
//! step), and after a session `training-curve.svg` and `model.gguf`.
use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use serde::Serialize;

use crate::{
    config::TrainConfig,
    curve::training_curve,
    error::{Error, Result},
    trainer::{Step, Trainer},
};

const HEADER: &str = "step,tokens,seconds,loss,validation_loss,learning_rate,gradient_norm\n";

/// The report of a run.
#[derive(Debug, Clone, Serialize)]
pub struct TrainReport {
    /// Trainable parameters.
    pub parameters: usize,
    /// Steps taken.
    pub steps: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Seconds of training, including resumed parts.
    pub seconds: f64,
    /// Loss of the last step, nats per token.
    pub loss: f64,
    /// Loss on held-out stories at the end, nats per token.
    pub validation_loss: f64,
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// The log, one line per step.
    pub log: PathBuf,
    /// The training curve (SVG), written from the second step.
    pub curve: PathBuf,
    /// The model as a GGUF file.
    pub model: PathBuf,
}

/// Trains in `out_dir`, which is created if necessary. With `resume`, continues from the checkpoint there.
///
/// Setting `stop` (for example from a signal handler) ends the run after the current step with a checkpoint. `on_step`
/// receives every step.
///
/// # Errors
/// [`Error::Occupied`] if an output file already exists, [`Error::NothingToResume`] if the checkpoint to resume is
/// missing; else errors of the configuration, the files or a diverging loss.
pub fn train_from_config(
    config: &TrainConfig,
    out_dir: &Path,
    resume: bool,
    stop: &AtomicBool,
    on_step: &mut dyn FnMut(&Step),
) -> Result<TrainReport> {
    let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?;
    train_in_pool(config, out_dir, resume, stop, &pool, on_step, &mut |_| {})
}

/// Like [`train_from_config`], with all large arrays in `pool`; `on_end` receives the trainer at the end, before its
/// memory is released.
///
/// # Errors
/// Same as [`train_from_config`].
pub fn train_in_pool(
    config: &TrainConfig,
    out_dir: &Path,
    resume: bool,
    stop: &AtomicBool,
    pool: &HybridMemoryPool,
    on_step: &mut dyn FnMut(&Step),
    on_end: &mut dyn FnMut(&Trainer),
) -> Result<TrainReport> {
    std::fs::create_dir_all(out_dir)
        .map_err(|source| Error::Io { path: out_dir.to_owned(), source })?;
    let (checkpoint, log) = (out_dir.join("checkpoint.safetensors"), out_dir.join("training.csv"));
    let continued = resume && checkpoint.is_file();
    if !continued {
        refuse_occupied(out_dir, resume)?;
    }
    let mut trainer = Trainer::in_pool(config.clone(), pool)?;
    let mut csv = HEADER.to_owned();
    if continued {
        trainer.resume(&checkpoint)?;
        csv = earlier_lines(&log, trainer.steps());
    }
    let mut last_loss = f64::NAN;
    trainer.train(stop, &mut |trainer, step| {
        let validation = step.validation_loss.map_or(String::new(), |l| format!("{l:.6}"));
        let _infallible = writeln!(
            csv,
            "{},{},{:.1},{:.6},{validation},{:.6e},{:.4}",
            step.step, step.tokens, step.seconds, step.loss, step.learning_rate, step.gradient_norm
        );
        last_loss = step.loss;
        if step.step.is_multiple_of(trainer.config().checkpoint_every) {
            trainer.save(&checkpoint)?;
            write_atomic(&log, csv.as_bytes())?;
        }
        on_step(step);
        Ok(())
    })?;
    trainer.save(&checkpoint)?;
    write_atomic(&log, csv.as_bytes())?;
    let (parameters, tokens) = (trainer.parameters().len(), trainer.tokens());
    let curve = out_dir.join("training-curve.svg");
    let title = format!("{}: {parameters} parameters, {tokens} tokens", config.name);
    if let Some(svg) = training_curve(&csv, &title) {
        write_atomic(&curve, svg.as_bytes())?;
    }
    let model = out_dir.join("model.gguf");
    trainer.export(&model)?;
    let validation_loss = trainer.validate()?;
    on_end(&trainer);
    Ok(TrainReport {
        parameters,
        steps: trainer.steps(),
        tokens,
        seconds: trainer.seconds(),
        loss: last_loss,
        validation_loss,
        checkpoint,
        log,
        curve,
        model,
    })
}

/// Rejects a folder with an output file of another run. With `resume`, the checkpoint is
/// missing.
fn refuse_occupied(out_dir: &Path, resume: bool) -> Result<()> {
    let names = ["checkpoint.safetensors", "training.csv", "training-curve.svg", "model.gguf"];
    let there = names
        .map(|name| out_dir.join(name))
        .into_iter()
        .find(|path| std::fs::symlink_metadata(path).is_ok());
    match there {
        None => Ok(()),
        Some(path) if resume => Err(Error::NothingToResume { path }),
        Some(path) => Err(Error::Occupied { path }),
    }
}

/// Writes a file atomically.
fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    bitnet_formats::write_whole_file(path, bytes).map_err(Error::Write)
}

/// Returns the header and the lines of an existing log up to `step`.
fn earlier_lines(log: &Path, step: u64) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let earlier = text.lines().skip(1).filter(|line| {
        line.split(',')
            .next()
            .and_then(|first| first.parse::<u64>().ok())
            .is_some_and(|number| number <= step)
    });
    earlier.fold(HEADER.to_owned(), |csv, line| csv + line + "\n")
}

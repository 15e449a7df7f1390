//! A whole run in a folder: log, checkpoints, and the report at the end.
//!
//! The folder holds `checkpoint.safetensors` (everything needed to continue), `training.csv` (one line per
//! step), and at the end of a session `training-curve.svg` and `model.gguf`.
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

/// What a run achieved.
#[derive(Debug, Clone, Serialize)]
pub struct TrainReport {
    /// Trainable parameters.
    pub parameters: usize,
    /// Steps taken.
    pub steps: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Seconds of training, resumed parts included.
    pub seconds: f64,
    /// Loss of the last step, nats per token.
    pub loss: f64,
    /// Loss on held-out stories at the end, nats per token.
    pub validation_loss: f64,
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// The log, one line per step.
    pub log: PathBuf,
    /// The training curve (SVG), there from the second step on.
    pub curve: PathBuf,
    /// The model as a GGUF file.
    pub model: PathBuf,
}

/// Trains in `out_dir`, which is made if absent. With `resume`, a checkpoint found there is continued.
///
/// Set `stop` (from a signal handler, say) to end after the current step with a checkpoint written; `on_step` sees every step.
///
/// # Errors
/// [`Error::Occupied`] where a file that the run would write already exists, [`Error::NothingToResume`] if it was to be
/// continued but its checkpoint is not there; else whatever the configuration, the files or a diverging loss give.
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

/// Like [`train_from_config`], with all large arrays in `pool`; `on_end` sees the trainer when all is done, before its memory
/// goes back.
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

/// Refuses a folder that holds a file of a name that a run writes: a new run would replace it. With `resume`, there is no
/// checkpoint to continue.
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

/// Writes a file so that it is written atomically.
fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    bitnet_formats::write_whole_file(path, bytes).map_err(Error::Write)
}

/// Returns the header and the lines of an earlier log up to `step`.
fn earlier_lines(log: &Path, step: u64) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let kept = text.lines().skip(1).filter(|line| {
        line.split(',')
            .next()
            .and_then(|first| first.parse::<u64>().ok())
            .is_some_and(|number| number <= step)
    });
    kept.fold(HEADER.to_owned(), |csv, line| csv + line + "\n")
}

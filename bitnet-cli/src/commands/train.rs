//! `bitnet train`: trains a small ternary model.

use std::path::Path;

use anyhow::{Context, Result};
use bitnet_core::memory::report::KnownFiles;
use bitnet_training::{Step, TrainConfig, TrainReport, Trainer, story, train_in_pool};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Outcome, memory};
use crate::args::{Cli, TrainArgs};
use crate::interrupt::Listener;
use crate::output::Output;

/// Number of progress lines of a run without a terminal.
const PLAIN_LINES: u64 = 100;

/// Trains, or prints a training story.
pub(crate) fn run(cli: &Cli, args: &TrainArgs, output: &mut Output) -> Result<Outcome> {
    if let Some(seed) = args.story {
        let text = story(seed);
        if output.json {
            output.json(&json!({ "seed": seed, "story": text }))?;
        } else {
            output.line(&text)?;
        }
        return Ok(Outcome::Done);
    }
    let (Some(config), Some(folder)) = (&args.config, &args.out) else {
        anyhow::bail!("set --config FILE and --out DIR");
    };
    let mut config = TrainConfig::load(config)?;
    if let Some(threads) = cli.general.threads {
        config.threads = threads;
    }
    if let Some(seed) = cli.general.seed() {
        config.seed = seed;
    }
    train(&config, folder, args.resume, output)
}

fn train(
    config: &TrainConfig,
    folder: &Path,
    resume: bool,
    output: &mut Output,
) -> Result<Outcome> {
    let listener = Listener::new();
    let bar = output.stderr_is_terminal.then(|| progress_bar(config.steps)).transpose()?;
    let every = (config.steps / PLAIN_LINES).max(1);
    let pool = memory::recorded_pool()?;
    let mut used = None;
    let report = train_in_pool(
        config,
        folder,
        resume,
        listener.flag(),
        &pool,
        &mut |step| match &bar {
            Some(bar) => show(bar, step),
            None if step.step.is_multiple_of(every) || step.step == step.steps => {
                output.note(&line(step))
            }
            None => {}
        },
        &mut |_| used = Some(memory::Used::now(&pool, &KnownFiles::default())),
    )?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let model = folder.join("model.gguf");
    let mut trainer = Trainer::new(config.clone())?;
    trainer.resume(&report.checkpoint)?;
    trainer.export(&model)?;
    let stopped = listener.asked();
    finish(&report, &model, stopped, used.as_ref(), output)?;
    Ok(if stopped { Outcome::Interrupted } else { Outcome::Done })
}

fn progress_bar(steps: u64) -> Result<ProgressBar> {
    let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}")
        .context("the progress bar's template")?
        .progress_chars("=> ");
    Ok(bar.with_style(style))
}

fn show(bar: &ProgressBar, step: &Step) {
    bar.set_position(step.step);
    bar.set_message(measurements(step));
}

/// Returns a line about a step.
fn line(step: &Step) -> String {
    format!("step {}/{}  {}", step.step, step.steps, measurements(step))
}

fn measurements(step: &Step) -> String {
    let validation =
        step.validation_loss.map_or_else(String::new, |l| format!(", held out {l:.4}"));
    let left = step.eta_seconds.max(0.0) as u64;
    format!(
        "loss {:.4}{validation}  {:.0} tokens/s  {}:{:02}:{:02} left",
        step.loss,
        step.tokens_per_second,
        left / 3600,
        left / 60 % 60,
        left % 60
    )
}

fn finish(
    report: &TrainReport,
    model: &Path,
    stopped: bool,
    used: Option<&memory::Used>,
    output: &mut Output,
) -> Result<()> {
    if output.json {
        return output.json(&json!({
            "memory": used.map(memory::Used::to_json),
            "parameters": report.parameters,
            "steps": report.steps,
            "tokens": report.tokens,
            "seconds": report.seconds,
            "loss": report.loss,
            "validation_loss": report.validation_loss,
            "stopped": stopped,
            "model": model.display().to_string(),
            "checkpoint": report.checkpoint.display().to_string(),
            "log": report.log.display().to_string(),
        }));
    }
    let what = if stopped { "stopped after" } else { "trained for" };
    output.line(&format!(
        "{what} {} steps, {} tokens, {:.0} s: loss {:.4}, held out {:.4} nats/token; {} parameters",
        report.steps,
        report.tokens,
        report.seconds,
        report.loss,
        report.validation_loss,
        report.parameters
    ))?;
    output.line(&format!("model       {}", model.display()))?;
    output.line(&format!("checkpoint  {}", report.checkpoint.display()))?;
    output.line(&format!("log         {}", report.log.display()))?;
    if let Some(used) = used {
        used.print(output);
    }
    if stopped {
        output.note("continue with --resume");
    }
    Ok(())
}

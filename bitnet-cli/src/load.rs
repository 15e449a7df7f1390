//! From the command line to a loaded model.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bitnet_core::backend::Backend;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_cpu::CpuOptions;
use bitnet_inference::{
    LoadOptions, Model, ModelSource, Notice, PreparedCache, Session, backend_by_name,
    backend_in_pool,
};
use bitnet_quant::calibration::Calibration;

use crate::args::Cli;
use crate::output::Output;

/// The model that is meant: `positional`, `--model`, or the embedded one.
pub(crate) fn source<'a>(cli: &'a Cli, positional: Option<&'a Path>) -> Result<ModelSource<'a>> {
    match (positional, cli.model.model.as_deref()) {
        (Some(_), Some(_)) => {
            bail!("the model is given twice: as an argument and with --model; give it once")
        }
        (Some(path), None) | (None, Some(path)) => Ok(ModelSource::Path(path)),
        (None, None) => Ok(ModelSource::Embedded),
    }
}

/// The options for loading that the command line gives.
pub(crate) fn options(cli: &Cli) -> Result<LoadOptions> {
    let chat_template = match &cli.model.chat_template {
        None => None,
        Some(path) => {
            let read = std::fs::read_to_string(path);
            Some(read.with_context(|| format!("can't read the chat template {}", path.display()))?)
        }
    };
    let calibration = match &cli.model.calibration {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("can't read the calibration {}", path.display()))?;
            let calibration = Calibration::from_json(&text);
            Some(calibration.with_context(|| format!("{}", path.display()))?)
        }
    };
    Ok(LoadOptions {
        calibration,
        i2s_layout: cli.model.i2s_layout.into(),
        activations: cli.model.activations.map(Into::into),
        chat_template,
        head: cli.model.head.into(),
        cache: if cli.model.no_cache { None } else { cache() },
        kv: cli.model.kv.into(),
        ..LoadOptions::default()
    })
}

/// Where prepared weights are kept; what there is to tell about them goes to standard error.
pub(crate) fn cache() -> Option<PreparedCache> {
    let mut cache = PreparedCache::new(PreparedCache::default_folder()?);
    cache.notice = Notice::new(|text| {
        // A remark that can't be shown is no reason to stop.
        let _ = writeln!(std::io::stderr(), "{text}");
    });
    Some(cache)
}

/// The back end that the command line names.
pub(crate) fn backend(cli: &Cli) -> Result<Arc<dyn Backend>> {
    let options = CpuOptions { threads: cli.general.threads, isa: None };
    Ok(backend_by_name(cli.model.backend.name(), options)?)
}

/// Loads the model that `--model` names, showing progress.
pub(crate) fn model(cli: &Cli, output: &mut Output) -> Result<Model> {
    model_on(backend(cli)?, cli, output)
}

/// As [`model`], with all that it holds in `pool`.
pub(crate) fn model_in(pool: &HybridMemoryPool, cli: &Cli, output: &mut Output) -> Result<Model> {
    let options = CpuOptions { threads: cli.general.threads, isa: None };
    model_on(backend_in_pool(cli.model.backend.name(), options, pool)?, cli, output)
}

/// Loads a model on a back end of its own, showing progress.
pub(crate) fn model_at(
    source: ModelSource<'_>,
    options: &LoadOptions,
    cli: &Cli,
    output: &mut Output,
) -> Result<Model> {
    load(source, options, backend(cli)?, output)
}

fn model_on(backend: Arc<dyn Backend>, cli: &Cli, output: &mut Output) -> Result<Model> {
    load(source(cli, None)?, &options(cli)?, backend, output)
}

fn load(
    source: ModelSource<'_>,
    options: &LoadOptions,
    backend: Arc<dyn Backend>,
    output: &mut Output,
) -> Result<Model> {
    let mut progress = output.progress("loading layer");
    let model = Model::load_with(source, options, backend, &mut |done, all| {
        progress.update(done, all);
    })?;
    drop(progress);
    if output.verbose {
        output.note(&format!("{}: {}", model.facts().file, model.decoder().backend().describe()));
        for assumption in &model.facts().assumptions {
            output.note(&format!("assumed: {assumption}"));
        }
    }
    Ok(model)
}

/// A sequence with the room that the command line asks for.
pub(crate) fn session<'m>(cli: &Cli, model: &'m Model, output: &mut Output) -> Result<Session<'m>> {
    let trained = model.config().context;
    if cli.model.ctx.is_some_and(|asked| asked > trained) {
        output.warning(&format!(
            "the model was trained for {trained} tokens of context; beyond them it may ramble"
        ));
    }
    Ok(model.session(cli.model.ctx)?)
}

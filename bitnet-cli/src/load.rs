//! Loading of the model selected on the command line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bitnet_core::backend::Backend;
use bitnet_core::device::{Device, DeviceCapabilities};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_cpu::CpuOptions;
use bitnet_inference::chat::{Builtin, TemplateChoice};
use bitnet_inference::{
    DraftMode, DraftSource, LoadOptions, MemoryNeed, Model, ModelSource, Notice, PreparedCache,
    Session, backend_by_name, backend_in_pool,
};
use bitnet_quant::calibration::Calibration;

use crate::args::{Cli, Draft, DraftArgs};
use crate::input_text::{self, LONGEST_SETTINGS};
use crate::output::{Output, bytes, without_controls};

/// KV cache size in bytes below which free memory is not checked.
const SMALL_CONTEXT: u64 = 64 << 20;
/// Text size in bytes below which the context is not checked before tokenization.
const SHORT_TEXT: usize = 1 << 20;

/// Returns the selected model: `positional`, `--model`, or the embedded one.
pub(crate) fn source<'a>(cli: &'a Cli, positional: Option<&'a Path>) -> Result<ModelSource<'a>> {
    match (positional, cli.model.model.as_deref()) {
        (Some(_), Some(_)) => {
            bail!("the model is set twice: as an argument and with --model; set it once")
        }
        (Some(path), None) | (None, Some(path)) => Ok(ModelSource::Path(path)),
        (None, None) => Ok(ModelSource::Embedded),
    }
}

/// Returns the load options of the command line.
pub(crate) fn options(cli: &Cli) -> Result<LoadOptions> {
    let chat_template = cli.model.chat_template.as_deref().map(template_choice).transpose()?;
    let calibration = match &cli.model.calibration {
        None => None,
        Some(path) => {
            let text = input_text::read_text(path, LONGEST_SETTINGS).context("--calibration")?;
            let calibration = Calibration::from_json(&text);
            Some(calibration.with_context(|| format!("{}", path.display()))?)
        }
    };
    Ok(LoadOptions {
        calibration,
        i2s_layout: cli.model.i2s_layout,
        activations: cli.model.activations,
        chat_template,
        head: cli.model.head,
        cache: if cli.model.no_cache { None } else { cache() },
        kv: cli.model.kv,
        ..LoadOptions::default()
    })
}

/// Checks files of options before a model is searched or downloaded. Pipes are not checked, because they can be read
/// only once.
pub(crate) fn check_files(cli: &Cli) -> Result<()> {
    let pipe = |path: &Option<PathBuf>| {
        let data = path.as_ref().and_then(|path| std::fs::metadata(path).ok());
        data.is_some_and(|data| !data.is_file()) || path.as_deref() == Some(Path::new("-"))
    };
    if pipe(&cli.model.chat_template) || pipe(&cli.model.calibration) {
        return Ok(());
    }
    options(cli).map(drop)
}

/// Returns the chat template of `--chat-template`: a built-in one by name, which precedes a file of that name
/// (`./chatml` is the file); else a file; else one of the model's by name.
fn template_choice(asked: &Path) -> Result<TemplateChoice> {
    if let Some(builtin) = asked.to_str().and_then(Builtin::from_name) {
        return Ok(TemplateChoice::Builtin(builtin));
    }
    match asked.to_str() {
        Some(name) if !name.contains(['/', '\\', '.']) && name != "-" && !asked.exists() => {
            Ok(TemplateChoice::Named(name.to_owned()))
        }
        _ => {
            let source = input_text::read_text(asked, LONGEST_SETTINGS);
            let wrong =
                || format!("--chat-template; the built-in templates are {}", Builtin::names());
            source.map(TemplateChoice::Source).with_context(wrong)
        }
    }
}

/// Returns the cache of prepared weights; its messages go to standard error.
pub(crate) fn cache() -> Option<PreparedCache> {
    let mut cache = PreparedCache::new(PreparedCache::default_folder()?);
    cache.notice = Notice::new(|text| {
        // A failure to print a remark is not an error.
        let _ = writeln!(std::io::stderr(), "{text}");
    });
    Some(cache)
}

/// Returns the back end of the command line.
pub(crate) fn backend(cli: &Cli) -> Result<Arc<dyn Backend>> {
    let options = CpuOptions { threads: cli.general.threads, isa: None };
    Ok(backend_by_name(cli.model.backend, options)?)
}

/// Loads the model of `--model`, with progress.
pub(crate) fn model(cli: &Cli, output: &mut Output) -> Result<Model> {
    model_on(backend(cli)?, cli, output)
}

/// Loads the model of `--model` for writing, with all memory from `pool` if there is one, and what drafts its tokens.
pub(crate) fn with_drafts(
    pool: Option<&HybridMemoryPool>,
    cli: &Cli,
    drafts: &DraftArgs,
    output: &mut Output,
) -> Result<(Model, DraftMode)> {
    let backend = match pool {
        Some(pool) => {
            let options = CpuOptions { threads: cli.general.threads, isa: None };
            backend_in_pool(cli.model.backend, options, pool)?
        }
        None => backend(cli)?,
    };
    let draft = match (&drafts.draft_model, drafts.draft) {
        (None, Draft::Auto | Draft::Mtp) => DraftSource::Own,
        (None, Draft::Ngram | Draft::Off) => DraftSource::None,
        (Some(file), Draft::Auto | Draft::Mtp) => DraftSource::File(file.clone()),
        (Some(_), _) => bail!("--draft-model is the layer of --draft mtp; leave one of them out"),
    };
    let options = LoadOptions { draft, ..options(cli)? };
    let model = load(source(cli, None)?, &options, backend, output)?;
    model.check_head()?;
    let has_layer = model.decoder().draft.is_some();
    let mode = match drafts.draft {
        Draft::Off => DraftMode::Off,
        Draft::Auto | Draft::Mtp if has_layer => DraftMode::Mtp,
        Draft::Auto | Draft::Ngram => DraftMode::NGram,
        Draft::Mtp => bail!(
            "{} has no layer that drafts tokens; name a file with one (--draft-model FILE), or use --draft ngram",
            model.facts().file
        ),
    };
    Ok((model, mode))
}

/// Loads a model on its own back end, with progress.
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
    warn_of_memory(source, options, output);
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

/// Warns before a model is loaded whose weights exceed free memory. What is wrong with its files is the loader's to say.
fn warn_of_memory(source: ModelSource<'_>, options: &LoadOptions, output: &mut Output) {
    let ModelSource::Path(path) = source else { return };
    let Some(free) = free_memory() else { return };
    // Weights take at most about twice their file.
    let is_small = |path: &Path| std::fs::metadata(path).is_ok_and(|data| data.len() < free / 4);
    if path.is_file() && is_small(path) && !path.to_string_lossy().contains("-of-") {
        return;
    }
    let Ok(need) = MemoryNeed::of(source, options) else { return };
    // What lies in files can be read again.
    let needed = need.with_context(0).saturating_sub(need.in_place);
    if needed > free {
        output.warning(&format!(
            "{} needs {} of memory and {} are free: it will be slow, or the system will end the program",
            without_controls(&path.display().to_string()),
            bytes(needed),
            bytes(free)
        ));
    }
}

/// Returns a session with the context length of the command line.
pub(crate) fn session(cli: &Cli, model: &Model, output: &mut Output) -> Result<Session> {
    if let Some(asked) = cli.model.ctx {
        check_memory(cli, model, asked)?;
        warn_beyond_training(model, asked, output);
    }
    Ok(model.session(cli.model.ctx)?)
}

/// Warns about a text longer than the trained context.
pub(crate) fn warn_beyond_training(model: &Model, tokens: usize, output: &mut Output) {
    let trained = model.config().context;
    if tokens > trained {
        output.warning(&format!(
            "the model was trained for {trained} tokens of context; beyond them its predictions may be poor"
        ));
    }
}

/// Rejects a context whose KV cache exceeds free memory.
fn check_memory(cli: &Cli, model: &Model, context: usize) -> Result<()> {
    if let Some(Shortage { needed, free, most }) = shortage(cli, model, context as u64)? {
        bail!(
            "--ctx {context} takes {needed} for keys and values, and {free} of memory are free; \
             ask for at most {most} tokens, or store them smaller (--kv int8)"
        );
    }
    Ok(())
}

/// KV caches that exceed free memory.
pub(crate) struct Shortage {
    pub(crate) needed: String,
    pub(crate) free: String,
    /// Positions that fit.
    pub(crate) most: usize,
}

/// Returns what is missing for the KV caches of `positions` positions, if they exceed free memory.
pub(crate) fn shortage(cli: &Cli, model: &Model, positions: u64) -> Result<Option<Shortage>> {
    let position = model.decoder().token_cost(cli.model.kv)?.kv_position_bytes as u64;
    let needed = position.saturating_mul(positions);
    if needed <= SMALL_CONTEXT {
        return Ok(None);
    }
    let free = free_memory().filter(|&free| needed > free);
    Ok(free.map(|free| {
        let most = usize::try_from(free / position.max(1)).unwrap_or(usize::MAX);
        Shortage { needed: bytes(needed), free: bytes(free), most }
    }))
}

/// Returns the memory that this process can get within all limits, if it is known.
pub(crate) fn free_memory() -> Option<u64> {
    let machine = DeviceCapabilities::without_bandwidth(&Device::Cpu);
    let limits = [machine.available_memory, machine.memory_limit, machine.address_space_limit];
    limits.into_iter().flatten().min()
}

/// Rejects a text that can't fit the context, before tokenization.
///
/// # Errors
/// If `text` needs more than `capacity` tokens even with the longest tokens of the vocabulary.
pub(crate) fn check_length(model: &Model, text: &str, capacity: usize) -> Result<()> {
    if text.len() <= SHORT_TEXT {
        return Ok(());
    }
    let Some(tokenizer) = model.tokenizer() else { return Ok(()) };
    let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
    let longest = ids.filter_map(|id| tokenizer.token_bytes(id).ok()).map(|b| b.len()).max();
    let least = text.len() / longest.unwrap_or(1).max(1);
    if least > capacity {
        bail!(
            "the text has {}, which is at least {least} tokens, and the context holds {capacity}; \
             shorten it or raise --ctx",
            bytes(text.len() as u64)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chat_template_resolution_order() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chatml");
        std::fs::write(&file, "x").unwrap();
        let choice = |path: &Path| template_choice(path);
        assert_eq!(choice(Path::new("chatml")).unwrap(), TemplateChoice::Builtin(Builtin::ChatMl));
        assert_eq!(choice(&file).unwrap(), TemplateChoice::Source("x".into()));
        let named = TemplateChoice::Named("tool_use".into());
        assert_eq!(choice(Path::new("tool_use")).unwrap(), named);
        let error = choice(&folder.path().join("missing.jinja")).unwrap_err();
        assert!(format!("{error:#}").contains("bitnet, llama3, chatml, falcon3"), "{error:#}");
    }
}

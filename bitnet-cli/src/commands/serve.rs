//! `bitnet serve`: a model behind HTTP.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bitnet_inference::engine::scheduler::StepLimits;
use bitnet_inference::engine::{DEFAULT_CONTEXTS, Engine, EngineConfig};
use bitnet_inference::{ModelSource, Session};
use bitnet_server::{ServerConfig, serve};
use serde_json::json;

use super::Outcome;
use crate::args::{Cli, ServeArgs};
use crate::input_text::{LONGEST_SETTINGS, read_text};
use crate::interrupt::Listener;
use crate::load;
use crate::output::{Output, bytes, count};

/// Serves until a signal comes.
pub(crate) fn run(cli: &Cli, args: &ServeArgs, output: &mut Output) -> Result<Outcome> {
    let api_keys = match &args.api_key_file {
        Some(path) => keys(path)?,
        None => Vec::new(),
    };
    // A port that is taken is found before the model is loaded.
    let address = (args.host, args.port);
    let socket = TcpListener::bind(address).with_context(|| {
        format!("can't listen on {}:{}; choose another --port", args.host, args.port)
    })?;
    if !args.host.is_loopback() && api_keys.is_empty() {
        output.warning("everyone who reaches this address may use the model; --api-key-file FILE asks for keys");
    }
    let name = args.name.clone().unwrap_or_else(|| model_name(load::source(cli, None)));
    let model = Arc::new(load::model(cli, output)?);
    // A model for embeddings keeps no keys and values from one text to the next.
    let kv_bytes = match model.config().has_head {
        true => Some(kv_bytes(&load::session(cli, &model, output)?, args)),
        false => None,
    };
    let step = StepLimits { max_sequences: args.parallel.into(), ..StepLimits::default() };
    let config = EngineConfig { context: cli.model.ctx, kv_bytes, step, ..EngineConfig::default() };
    let engine = Engine::start(Arc::clone(&model), config)?;
    if model.decoder().prepare_top_logits()? {
        model.write_cache();
    }
    let listener = Listener::new();
    let url = format!("http://{}", socket.local_addr()?);
    let stats = engine.stats();
    if output.json {
        output.json(&json!({
            "url": url, "model": name, "context": engine.context(), "parallel": args.parallel,
            "kv_bytes": stats.page_limit * stats.page_bytes,
        }))?;
    } else {
        output.line(&format!("{name} is served at {url}/v1 (Ctrl-C ends)"))?;
        output.note(&format!(
            "context {} tokens, {} at a time, {} for keys and values",
            engine.context(),
            count(args.parallel.into(), "text"),
            bytes((stats.page_limit * stats.page_bytes) as u64),
        ));
    }
    let config =
        ServerConfig { model_name: name, api_keys, drain: Duration::from_secs(args.drain) };
    let served = serve(engine, socket, config, crate::interrupt::asked)?;
    drop(listener);
    if served.cut_off > 0 {
        output.warning(&format!(
            "{} cut off after {} s",
            count(served.cut_off, "request"),
            args.drain
        ));
    }
    Ok(Outcome::Done)
}

/// Returns what clients call a model: its file's or folder's name.
fn model_name(source: Result<ModelSource<'_>>) -> String {
    let name = match source {
        Ok(ModelSource::Path(path)) => {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            name.map(|name| name.strip_suffix(".gguf").unwrap_or(&name).to_owned())
        }
        Ok(ModelSource::Embedded) | Err(_) => None,
    };
    name.unwrap_or_else(|| "stories".into())
}

/// Returns the memory for keys and values: what was asked for, else eight contexts, at most half of what is free but for one
/// context.
fn kv_bytes(session: &Session, args: &ServeArgs) -> usize {
    if let Some(mib) = args.kv_memory {
        return mib.saturating_mul(1 << 20);
    }
    let pages = session.capacity().div_ceil(bitnet_core::kv::KV_PAGE);
    let context = pages.saturating_mul(session.cache().page_bytes());
    let half = load::free_memory().map_or(usize::MAX, |free| (free / 2) as usize);
    context.saturating_mul(DEFAULT_CONTEXTS).min(half).max(context)
}

/// Returns the keys of a file: its lines, without those that are empty or begin with `#`.
fn keys(path: &Path) -> Result<Vec<String>> {
    let text = read_text(path, LONGEST_SETTINGS).context("--api-key-file")?;
    let lines = text.lines().map(str::trim);
    let keys: Vec<String> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    if keys.is_empty() {
        bail!("{}: there is no key; write one in a line", path.display());
    }
    Ok(keys)
}

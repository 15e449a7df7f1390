//! `bitnet serve`: a model behind HTTP.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bitnet_inference::engine::scheduler::StepLimits;
use bitnet_inference::engine::{DEFAULT_CONTEXTS, Engine, EngineConfig};
use bitnet_inference::{DraftMode, ModelSource, Session};
use bitnet_server::{AccessLog, ConnectionLimits, EngineWatch, LogFormat, ServerConfig, serve};
use serde_json::json;

use super::Outcome;
use crate::api_keys;
use crate::args::{Cli, LogForm, ServeArgs, ServeDraft};
use crate::interrupt::Listener;
use crate::load;
use crate::output::{Output, bytes, count};
use crate::service::{self, Notices};

/// Serves until a signal comes.
pub(crate) fn run(cli: &Cli, args: &ServeArgs, output: &mut Output) -> Result<Outcome> {
    let api_keys = match &args.api_key_file {
        Some(path) => api_keys::read(path)?,
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
    let notices = Notices::ready(EngineWatch::new(engine.clone()), &format!("{name} at {url}"));
    let config = ServerConfig {
        model_name: name,
        api_keys,
        drain: Duration::from_secs(args.drain),
        draft: match args.draft {
            ServeDraft::Ngram => DraftMode::NGram,
            ServeDraft::Off => DraftMode::Off,
        },
        access_log: access_log(args.log, output),
        connections: ConnectionLimits {
            most: connections(args.max_connections as usize, output),
            ..ConnectionLimits::default()
        },
    };
    let served = serve(engine, socket, config, move || {
        notices.tick();
        let should_stop = crate::interrupt::asked();
        if should_stop {
            notices.stopping();
        }
        should_stop
    })?;
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

/// Returns the log of requests that was asked for; on a terminal there is one unless it was refused.
fn access_log(form: Option<LogForm>, output: &Output) -> Option<AccessLog> {
    let format = match form {
        Some(LogForm::Json) => LogFormat::Json,
        Some(LogForm::Text) => LogFormat::Text,
        Some(LogForm::Off) => return None,
        None if output.stderr_is_terminal => LogFormat::Text,
        None => return None,
    };
    Some(AccessLog::new(format, std::io::stderr()))
}

/// Returns the connections that there may be: as many as were asked for, if the system allows so many files.
fn connections(most: usize, output: &mut Output) -> usize {
    let possible = service::connections(most);
    if possible < most {
        output.warning(&format!(
            "only {possible} connections are possible, {most} were asked for: raise the limit of open files (ulimit -n)"
        ));
    }
    possible
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

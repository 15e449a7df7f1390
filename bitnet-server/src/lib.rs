//! Serves a model over HTTP with the APIs of OpenAI, Anthropic and Ollama, for many clients at a time.
//!
//! Each API reads a request into parameters and a conversation; what the engine writes comes back in parts,
//! which each API turns into its own answers and events.
//!
//! ```no_run
//! use std::net::TcpListener;
//! use std::sync::Arc;
//!
//! use bitnet_inference::Model;
//! use bitnet_inference::engine::{Engine, EngineConfig};
//! use bitnet_server::{ServerConfig, serve};
//!
//! let engine = Engine::start(Arc::new(Model::embedded()?), EngineConfig::default())?;
//! let listener = TcpListener::bind("127.0.0.1:8080")?;
//! serve(engine, listener, ServerConfig::default(), || false)?; // until the closure returns true
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | route | what |
//! |---|---|
//! | `/v1/chat/completions`, `/v1/completions`, `/v1/responses`, `/v1/embeddings`, `/v1/models` | OpenAI's |
//! | `/v1/messages`, `/v1/messages/count_tokens` | Anthropic's |
//! | `/api/chat`, `/api/generate`, `/api/embed`, `/api/tags`, ... | Ollama's |
//! | `/tokenize`, `/detokenize`, `/apply-template`, `/props` | llama-server's |
//! | `/` | a page to chat with the model |
//! | `/health`, `/health/live`, `/health/ready`, `/metrics` | for operators |
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod access;
mod access_log;
mod anthropic;
mod body;
mod connections;
mod constraint;
mod conversation;
mod embeddings;
mod error;
mod logprobs;
mod metrics;
mod native;
mod ollama;
mod openai;
mod page;
mod parameters;
mod request;
mod responses;
mod state;
mod stream;
mod watch;
mod writing;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{any, get, post};
use bitnet_inference::DraftMode;
use bitnet_inference::engine::Engine;

use crate::access::Keys;
use crate::access_log::Recorder;
pub use crate::access_log::{AccessLog, LogFormat};
pub use crate::connections::ConnectionLimits;
use crate::error::ApiError;
use crate::state::AppState;
pub use crate::watch::EngineWatch;

/// How often the wish to stop is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How long the last bytes of answers may be on their way once the server ends.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// Settings of a server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// What clients call the model.
    pub model_name: String,
    /// API keys; none are needed if there are none.
    pub api_keys: Vec<String>,
    /// How long answers in progress may go on once the server shall end.
    pub drain: Duration,
    /// Where tokens come from that are read ahead while one text is written alone.
    pub draft: DraftMode,
    /// Where lines about requests go; nowhere if there is none.
    pub access_log: Option<AccessLog>,
    /// Limits of connections.
    pub connections: ConnectionLimits,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            model_name: "bitnet".into(),
            api_keys: Vec::new(),
            drain: Duration::from_secs(30),
            draft: DraftMode::Off,
            access_log: None,
            connections: ConnectionLimits::default(),
        }
    }
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// Requests that were cut off since they took longer than the drain.
    pub cut_off: usize,
}

/// Serves until `should_stop` returns true, which is looked at twenty times a second; then refuses new requests with
/// status 503 and lets those in progress end, at most for the drain of `config`.
///
/// # Errors
/// If the listener can't be used, or the system starts no runtime.
pub fn serve(
    engine: Engine,
    listener: TcpListener,
    config: ServerConfig,
    should_stop: impl Fn() -> bool + Send + Sync + 'static,
) -> std::io::Result<Served> {
    listener.set_nonblocking(true)?;
    let is_loopback = listener.local_addr()?.ip().is_loopback();
    let keys = Keys::new(&config.api_keys);
    let state = AppState::new(engine.clone(), config.model_name, keys, config.draft, is_loopback);
    let router = router(state, Recorder::new(config.access_log));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        // A load balancer must be able to read that it shall send no more: connections are accepted until the end.
        let drained = drained(&engine, config.drain, should_stop);
        let open = connections::accept(listener, router, config.connections, drained).await;
        let cut_off = engine.unfinished();
        let time = if cut_off == 0 { LAST_BYTES } else { Duration::ZERO };
        // Connections that are kept open without a request close at once.
        let _ = tokio::time::timeout(time, open.shutdown()).await;
        Ok(Served { cut_off })
    });
    runtime.shutdown_timeout(Duration::from_millis(500));
    served
}

/// Waits until the server shall stop, closes the engine, and waits until its requests have ended or the drain has passed.
async fn drained(engine: &Engine, drain: Duration, should_stop: impl Fn() -> bool) {
    while !should_stop() {
        tokio::time::sleep(LOOK).await;
    }
    engine.close();
    let start = Instant::now();
    while engine.unfinished() > 0 && start.elapsed() < drain {
        tokio::time::sleep(LOOK).await;
    }
}

/// The routes.
fn router(state: AppState, recorder: Recorder) -> Router {
    let api = Router::new()
        .route("/v1/chat/completions", post(openai::chat))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/responses", post(responses::responses))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/api/version", get(ollama::version))
        .route("/api/tags", get(ollama::tags))
        .route("/api/ps", get(ollama::ps))
        .route("/api/show", post(ollama::show))
        .route("/api/chat", post(ollama::chat))
        .route("/api/generate", post(ollama::generate))
        .route("/api/embed", post(ollama::embed))
        .route("/api/embeddings", post(ollama::embeddings))
        .route("/api/create", any(ollama::refuse_change))
        .route("/api/copy", any(ollama::refuse_change))
        .route("/api/delete", any(ollama::refuse_change))
        .route("/api/pull", any(ollama::refuse_change))
        .route("/api/push", any(ollama::refuse_change))
        .route("/api/blobs/{*digest}", any(ollama::refuse_change))
        .route("/v1/models", get(native::models))
        .route("/v1/models/{*name}", get(native::model))
        .route("/tokenize", post(native::tokenize))
        .route("/detokenize", post(native::detokenize))
        .route("/apply-template", post(native::apply_template))
        .route("/props", get(native::props))
        .route("/metrics", get(metrics::metrics))
        // Inside the check of the key: a client without one makes the server read nothing.
        .route_layer(from_fn(body::read))
        .route_layer(from_fn_with_state(state.clone(), access::check_key));
    Router::new()
        .route("/", get(page::page))
        .route("/health", get(native::ready))
        .route("/health/ready", get(native::ready))
        .route("/health/live", get(native::live))
        .merge(api)
        .fallback(async |request: Request| {
            body::discard(request);
            ApiError::new(StatusCode::NOT_FOUND, "there is no such route")
        })
        .method_not_allowed_fallback(async |request: Request| {
            body::discard(request);
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this route has another method")
        })
        .layer(from_fn_with_state(state.clone(), access::check_host))
        .layer(from_fn(connections::check_headers))
        .layer(from_fn_with_state(state.clone(), error::shape))
        .layer(from_fn_with_state(recorder, access_log::record))
        .layer(DefaultBodyLimit::max(body::MAX))
        .with_state(state)
}

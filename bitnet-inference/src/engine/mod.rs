//! An engine for many requests at a time, on one thread with the kernels' workers.
//!
//! Requests join and leave at every step. A step reads one token of each text that is being written, and fills what is
//! left of its time with tokens of prompts ([`scheduler`]), so that no stream waits for another's prompt. Keys and values
//! of common beginnings are held once. What is written for a request is, bit for bit, what is written for it alone.
//!
//! ```
//! use std::sync::Arc;
//!
//! use bitnet_inference::engine::{Engine, EngineConfig, Request};
//! use bitnet_inference::{GenerateOptions, Model};
//!
//! let model = Arc::new(Model::embedded()?);
//! let prompt = model.encode_prompt("Once upon a time")?;
//! let engine = Engine::start(model, EngineConfig::default())?;
//! let options = GenerateOptions { max_tokens: 8, ..GenerateOptions::default() };
//! let request = Request { choices: 2, ..Request::new(prompt, options) };
//! let answer = engine.submit(request)?.wait()?;
//! assert_eq!(answer.texts[0].text, answer.texts[1].text); // both greedy
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The [`Response`] is an async stream for any executor, with back-pressure; dropped, its request ends:
//!
//! ```
//! use std::sync::Arc;
//!
//! use bitnet_inference::engine::{Engine, EngineConfig, EngineError, Event, Request};
//!
//! async fn write(engine: &Engine, request: Request) -> Result<String, EngineError> {
//!     let mut text = String::new();
//!     let mut response = engine.submit(request)?;
//!     while let Some(event) = response.next_event().await {
//!         if let Event::Token { text: piece, .. } = event? {
//!             text.push_str(&piece);
//!         }
//!     }
//!     Ok(text)
//! }
//! ```

mod admission;
pub mod cost;
mod live;
mod logprobs;
mod memory;
mod prefix;
mod request;
mod response;
pub mod scheduler;
mod sequence;
mod stats;
mod step;
mod worker;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bitnet_core::kv::KV_PAGE;
use tokio::sync::mpsc::channel;

use self::live::Pending;
pub use self::request::{EngineError, Event, Logprobs, Request, TokenLogprob, Usage};
pub use self::response::{Answer, AnswerText, Response};
pub use self::scheduler::Priority;
use self::scheduler::StepLimits;
use self::sequence::MAX_CHOICES;
pub use self::stats::{EngineStats, STEP_BOUNDS};
use self::worker::Worker;
use crate::sampler::Sampler;
use crate::{InferenceError, Model, Result};

/// Events that wait for a reader before its text is held.
const EVENTS: usize = 64;

/// Contexts for which there is memory unless a limit says otherwise.
pub const DEFAULT_CONTEXTS: usize = 8;

/// Limits of an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// Tokens of a prompt and its answer together; the model's own context up to 4096 otherwise.
    pub context: Option<usize>,
    /// Bytes of keys and values, of texts in progress and earlier ones; enough for eight contexts otherwise.
    pub kv_bytes: Option<usize>,
    /// Limits of a step.
    pub step: StepLimits,
    /// Requests that may wait.
    pub max_waiting: usize,
    /// Prompt tokens that may wait.
    pub max_waiting_tokens: usize,
    /// Bytes of requests that may wait: prompts, stop strings, biases.
    pub max_waiting_bytes: usize,
    /// How long a reader may take nothing before its request ends.
    pub reader_patience: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            context: None,
            kv_bytes: None,
            step: StepLimits::default(),
            max_waiting: 512,
            max_waiting_tokens: 1 << 20,
            max_waiting_bytes: 64 << 20,
            reader_patience: Duration::from_secs(60),
        }
    }
}

/// Writes texts for many requests. Clones share one engine, which ends when the last of them is dropped.
#[derive(Debug, Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    context: usize,
    max_sequences: usize,
    page_limit: usize,
    model: Arc<Model>,
    _handle: Arc<Handle>,
}

/// What an engine and its thread share.
#[derive(Debug)]
struct Shared {
    inbox: Mutex<Inbox>,
    /// Signalled for a new request, and when the engine shall end.
    changed: Condvar,
    stats: Mutex<EngineStats>,
    start: Instant,
    /// What may wait.
    limit: Queue,
}

/// Requests that were taken and not admitted.
#[derive(Debug, Default, Clone, Copy)]
struct Queue {
    requests: usize,
    /// Tokens of their prompts.
    tokens: usize,
    /// Bytes that they take.
    bytes: usize,
}

impl Queue {
    /// Returns the queue with one more request.
    fn with(self, request: &Request) -> Self {
        Self {
            requests: self.requests + 1,
            tokens: self.tokens.saturating_add(request.prompt.len()),
            bytes: self.bytes.saturating_add(request.bytes()),
        }
    }

    /// Returns the queue without a request that is in it.
    fn without(self, request: &Request) -> Self {
        Self {
            requests: self.requests - 1,
            tokens: self.tokens - request.prompt.len(),
            bytes: self.bytes - request.bytes(),
        }
    }

    fn fits(self, limit: Self) -> bool {
        self.requests <= limit.requests && self.tokens <= limit.tokens && self.bytes <= limit.bytes
    }
}

#[derive(Debug, Default)]
struct Inbox {
    new: Vec<Pending>,
    next_id: u64,
    waiting: Queue,
    /// Requests that have not ended.
    unfinished: usize,
    /// No more requests are taken.
    is_closed: bool,
    /// All requests shall end.
    is_ending: bool,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stats(&self) -> MutexGuard<'_, EngineStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the engine's thread.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut inbox = self.shared.inbox();
        (inbox.is_closed, inbox.is_ending) = (true, true);
        drop(inbox);
        self.shared.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A thread that panicked has told its requests.
            let _ = thread.join();
        }
    }
}

impl Engine {
    /// Starts an engine.
    ///
    /// # Errors
    /// [`InferenceError::Resource`] for a context beyond the model's limit or for which `kv_bytes` are too few,
    /// [`InferenceError::UnsupportedOperation`] for a model without a tokenizer, [`InferenceError::Concurrency`] if the
    /// system starts no thread.
    pub fn start(model: Arc<Model>, config: EngineConfig) -> Result<Self> {
        if model.tokenizer().is_none() {
            return Err(InferenceError::no_tokenizer("an engine"));
        }
        // Checks the context.
        let empty = model.empty(config.context)?;
        let (context, page_bytes) = (empty.capacity(), empty.cache().page_bytes());
        let pages_of_context = context.div_ceil(KV_PAGE);
        let page_limit = match config.kv_bytes {
            Some(bytes) => bytes / page_bytes.max(1),
            None => DEFAULT_CONTEXTS * pages_of_context,
        };
        if page_limit < pages_of_context {
            return Err(InferenceError::Resource {
                what: "bytes of keys and values for one context",
                used: pages_of_context.saturating_mul(page_bytes),
                limit: config.kv_bytes.unwrap_or(0),
                advice: "give the engine more memory or a shorter context",
            });
        }
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            changed: Condvar::new(),
            stats: Mutex::new(EngineStats { page_limit, page_bytes, ..EngineStats::default() }),
            start: Instant::now(),
            limit: Queue {
                requests: config.max_waiting,
                tokens: config.max_waiting_tokens,
                bytes: config.max_waiting_bytes,
            },
        });
        let max_sequences = config.step.max_sequences;
        let worker =
            Worker::new(Arc::clone(&model), Arc::clone(&shared), config, empty, page_limit);
        let thread = std::thread::Builder::new()
            .name("bitnet-engine".into())
            .spawn(move || worker.run())
            .map_err(|error| InferenceError::Concurrency {
                what: format!("the engine's thread can't be started: {error}"),
                advice: "end other programs, or raise the limit of threads",
            })?;
        let handle = Handle { shared: Arc::clone(&shared), thread: Mutex::new(Some(thread)) };
        Ok(Self { shared, context, max_sequences, page_limit, model, _handle: Arc::new(handle) })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Tokens of a prompt and its answer together, at most.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Texts that are written at a time, at most.
    pub fn max_sequences(&self) -> usize {
        self.max_sequences
    }

    /// What the engine has done and holds.
    pub fn stats(&self) -> EngineStats {
        let mut stats = self.shared.stats().clone();
        let waiting = self.shared.inbox().waiting;
        (stats.waiting, stats.waiting_tokens) = (waiting.requests, waiting.tokens);
        stats
    }

    /// Requests that have not ended.
    pub fn unfinished(&self) -> usize {
        self.shared.inbox().unfinished
    }

    /// Takes no more requests; those that were taken go on.
    pub fn close(&self) {
        self.shared.inbox().is_closed = true;
    }

    /// Whether requests are taken.
    pub fn is_open(&self) -> bool {
        !self.shared.inbox().is_closed
    }

    /// Takes a request and returns its answer as it will come. Does not wait.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`], [`EngineError::ContextLength`], [`EngineError::ShuttingDown`],
    /// [`InferenceError::Parameter`] for a value out of range, and those of [`Model::check_head`].
    pub fn submit(&self, request: Request) -> std::result::Result<Response, EngineError> {
        self.model.check_head()?;
        self.check(&request)?;
        let config = self.model.config();
        let sampler = Sampler::for_text(&request.options, config.vocab_size)?;
        let (sender, events) = channel(EVENTS);
        let mut inbox = self.shared.inbox();
        if inbox.is_closed {
            return Err(EngineError::ShuttingDown);
        }
        let waiting = inbox.waiting.with(&request);
        if !waiting.fits(self.shared.limit) {
            let Queue { requests: waiting, tokens, .. } = inbox.waiting;
            drop(inbox);
            let mut stats = self.shared.stats();
            stats.refused += 1;
            let seconds = tokens as f64 / stats.tokens_per_second.max(1.0);
            let retry_after = Duration::from_secs_f64(seconds.clamp(1.0, 600.0));
            return Err(EngineError::QueueFull { waiting, tokens, retry_after });
        }
        let id = inbox.next_id;
        inbox.next_id += 1;
        inbox.waiting = waiting;
        inbox.unfinished += 1;
        inbox.new.push(Pending::new(id, request, sampler, sender, self.shared.start.elapsed()));
        drop(inbox);
        self.shared.changed.notify_all();
        Ok(Response { id, events })
    }

    fn check(&self, request: &Request) -> std::result::Result<(), EngineError> {
        let bad = |parameter, value: String, problem| {
            Err(InferenceError::Parameter { parameter, value, problem }.into())
        };
        let vocab_size = self.model.config().vocab_size;
        if let Some(grammar) = &request.options.constraint {
            grammar.check_model(self.model.tokenizer.as_ref())?;
        }
        if request.prompt.is_empty() {
            return Err(crate::session::no_tokens().into());
        }
        if let Some(token) = request.prompt.iter().find(|&&token| token as usize >= vocab_size) {
            return bad("prompt", format!("token {token}"), "tokens of the vocabulary");
        }
        if request.prompt.len() >= self.context {
            let tokens = request.prompt.len();
            return Err(EngineError::ContextLength { tokens, limit: self.context });
        }
        let choices = request.choices;
        if choices == 0 || choices > self.max_sequences.min(MAX_CHOICES) {
            return bad(
                "n",
                choices.to_string(),
                "at least 1, at most the texts written at a time",
            );
        }
        let least = request.prompt.len().div_ceil(KV_PAGE) + choices;
        if choices > 1 && least > self.page_limit {
            return bad("n", choices.to_string(), "fewer texts, for which there is memory");
        }
        Ok(())
    }
}

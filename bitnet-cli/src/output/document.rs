//! The JSON document of `--json`. Standard output always ends in one: the result, or an object with `finish_reason`
//! (`error` or `interrupted`), `error` as text, and the partial result. Commands without a result write `finish_reason`
//! (`done`) only.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};

/// How long an interrupted program waits for a blocked reader.
const PATIENCE: Duration = Duration::from_secs(1);

/// The state of the document.
struct State {
    /// Whether a document is required and not yet written.
    pending: bool,
    /// Whether one of several documents has been written.
    lines: bool,
    partial: Option<Map<String, Value>>,
}

static STATE: Mutex<State> = Mutex::new(State { pending: false, lines: false, partial: None });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Requires a document at the end.
pub(crate) fn require() {
    state().pending = true;
}

/// Sets the additional fields of a failure document, an object.
pub(crate) fn set_partial(value: Value) {
    if let Value::Object(partial) = value {
        state().partial = Some(partial);
    }
}

/// Writes the document.
pub(crate) fn write(text: &str) -> io::Result<()> {
    let mut state = state();
    // A second document can't repair a partial one.
    state.pending = false;
    put(text)
}

/// Writes one of several documents; another one may follow.
pub(crate) fn write_line(text: &str) -> io::Result<()> {
    let mut state = state();
    state.lines = true;
    put(text)
}

/// Writes the document of a command without a result, such as an empty chat.
pub(crate) fn done() -> io::Result<()> {
    let mut state = state();
    if !std::mem::take(&mut state.pending) || state.lines {
        return Ok(());
    }
    put(&json!({ "finish_reason": "done" }).to_string())
}

fn put(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes a failure document, if one is required and none has been written.
pub(crate) fn fail(reason: &str, error: &str) -> io::Result<()> {
    let mut state = state();
    if !std::mem::take(&mut state.pending) {
        return Ok(());
    }
    let mut document = state.partial.take().unwrap_or_default();
    document.insert("finish_reason".to_owned(), json!(reason));
    document.insert("error".to_owned(), json!(error));
    put(&Value::Object(document).to_string())
}

/// Like [`fail`], from a signal handler: waits a limited time for a document that is being written.
pub(crate) fn interrupt() {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // The reader may be gone.
        let _ = fail("interrupted", "interrupted");
        let _ = done.send(());
    });
    let _ = wait.recv_timeout(PATIENCE);
}

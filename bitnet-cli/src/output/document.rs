//! The JSON document of a command with `--json`. Standard output ends in one whatever happens: the result, or an object with
//! `finish_reason` (`error` or `interrupted`), `error` in words, and what there was by then; `finish_reason` alone (`done`) of a command
//! that had nothing to say.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};

/// How long an interrupted program waits for whoever reads its output.
const PATIENCE: Duration = Duration::from_secs(1);

/// What has been written, and what would be if the command ended now.
struct State {
    /// Whether a document is wanted and not yet written.
    pending: bool,
    /// Whether one of several documents has been written.
    lines: bool,
    partial: Option<Map<String, Value>>,
}

static STATE: Mutex<State> = Mutex::new(State { pending: false, lines: false, partial: None });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes sure of a document at the end.
pub(crate) fn require() {
    state().pending = true;
}

/// Sets what a document about a failure says beside the failure; an object.
pub(crate) fn set_partial(value: Value) {
    if let Value::Object(partial) = value {
        state().partial = Some(partial);
    }
}

/// Writes the document.
pub(crate) fn write(text: &str) -> io::Result<()> {
    let mut state = state();
    // Half a document can't be mended by another one.
    state.pending = false;
    put(text)
}

/// Writes one of several documents; another one may follow.
pub(crate) fn write_line(text: &str) -> io::Result<()> {
    let mut state = state();
    state.lines = true;
    put(text)
}

/// Writes a document about the end of a command that had nothing to write, such as a chat without a question.
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

/// Writes a document about a failure, if one is wanted and none has been written.
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

/// As [`fail`] from the handler of a signal: waits for a document that is being written, but not for ever.
pub(crate) fn interrupt() {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Whoever reads may have gone.
        let _ = fail("interrupted", "interrupted");
        let _ = done.send(());
    });
    let _ = wait.recv_timeout(PATIENCE);
}

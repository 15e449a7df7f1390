//! Names of requests, and a line about each for operators. No line has a prompt, a key, a query or a body.

use std::fmt;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bitnet_inference::chat::strftime;
use futures_util::FutureExt;
use http_body::{Body as _, Frame, SizeHint};
use serde_json::json;

use crate::access::Client;
use crate::error::ApiError;
use crate::state::since_1970;

/// The header with the name of a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of a name that a client chose, at most.
const MAX_ID: usize = 64;
/// Bytes of a path in a line, at most.
const MAX_PATH: usize = 256;

/// The form of the lines about requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object in a line.
    Json,
}

/// Writes a line about each request when its answer has ended.
#[derive(Clone)]
pub struct AccessLog {
    format: LogFormat,
    sink: Arc<Mutex<dyn Write + Send>>,
}

impl AccessLog {
    /// Creates a log. Lines that `sink` does not take are lost.
    pub fn new(format: LogFormat, sink: impl Write + Send + 'static) -> Self {
        Self { format, sink: Arc::new(Mutex::new(sink)) }
    }

    fn write(&self, line: &str) {
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that can't be written is no reason to refuse requests.
        let _ = sink.write_all(line.as_bytes()).and_then(|()| sink.flush());
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("format", &self.format).finish_non_exhaustive()
    }
}

/// Names requests and notes what became of them.
#[derive(Debug, Clone)]
pub(crate) struct Recorder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    log: Option<AccessLog>,
    /// Begins the names that are made, so that two runs of a server give different ones.
    run: u64,
    made: AtomicU64,
}

impl Recorder {
    pub(crate) fn new(log: Option<AccessLog>) -> Self {
        let run = since_1970().as_nanos() as u64;
        Self(Arc::new(Shared { log, run, made: AtomicU64::new(0) }))
    }

    /// Returns the name that the client gave to a request if it is short and plain, else a new one.
    fn id(&self, headers: &HeaderMap) -> HeaderValue {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:=+/@".contains(byte);
        let sent = headers.get(REQUEST_ID).filter(|value| {
            (1..=MAX_ID).contains(&value.len()) && value.as_bytes().iter().all(is_plain)
        });
        sent.cloned().unwrap_or_else(|| {
            let number = self.0.made.fetch_add(1, Ordering::Relaxed);
            let id = format!("req-{:016x}{number:08x}", self.0.run);
            HeaderValue::from_str(&id).unwrap_or(HeaderValue::from_static("req"))
        })
    }
}

/// Names a request and its answer, answers if the server fails at it, and writes a line when the answer has ended.
pub(crate) async fn record(
    State(recorder): State<Recorder>,
    request: Request,
    next: Next,
) -> Response {
    let id = recorder.id(request.headers());
    let mut line = recorder.0.log.clone().map(|log| Line::new(log, &request, &id));
    // A request that panics leaves nothing behind that others use: they share locks and atomics only.
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answer.unwrap_or_else(|_| {
        let message = "internal error: the request could not be answered";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
    });
    response.headers_mut().insert(REQUEST_ID, id);
    if let Some(line) = &mut line {
        line.status = Some(response.status());
        line.client = response.extensions().get().map(|Client(number)| *number);
    }
    match line {
        Some(line) => response.map(|body| Body::new(Logged { body, line })),
        None => response,
    }
}

/// A body whose end, or early drop, is written down.
struct Logged {
    body: Body,
    line: Line,
}

impl http_body::Body for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                self.line.bytes += frame.data_ref().map_or(0, Bytes::len);
                self.line.is_whole = self.body.is_end_stream();
            }
            Poll::Ready(None) => self.line.is_whole = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        // A body without bytes is never asked for any.
        self.line.is_whole |= self.body.is_end_stream();
    }
}

/// What is written about a request, when it is dropped.
struct Line {
    log: AccessLog,
    start: Instant,
    id: String,
    method: String,
    path: String,
    /// `None` if the client went away before there was an answer.
    status: Option<StatusCode>,
    client: Option<u64>,
    /// Bytes of the answer's body that were sent.
    bytes: usize,
    is_whole: bool,
}

impl Line {
    fn new(log: AccessLog, request: &Request, id: &HeaderValue) -> Self {
        Self {
            log,
            start: Instant::now(),
            id: id.to_str().unwrap_or_default().to_owned(),
            method: request.method().to_string(),
            // A URI is ASCII.
            path: request.uri().path().chars().take(MAX_PATH).collect(),
            status: None,
            client: None,
            bytes: 0,
            is_whole: false,
        }
    }

    fn text(&self, now: Duration, taken: Duration) -> String {
        let status = self.status.map(|status| status.as_u16());
        let level = match status {
            Some(500..) => "error",
            Some(400..) | None => "warn",
            _ if !self.is_whole => "warn",
            _ => "info",
        };
        let milliseconds = taken.as_micros() as f64 / 1000.0;
        if self.log.format == LogFormat::Json {
            let object = json!({
                "time": rfc3339(now),
                "level": level,
                "request_id": self.id,
                "method": self.method,
                "path": self.path,
                "status": status,
                "duration_ms": milliseconds,
                "bytes": self.bytes,
                "client": self.client,
                "aborted": !self.is_whole,
            });
            return format!("{object}\n");
        }
        let status = status.map_or("-".into(), |status| status.to_string());
        let client = self.client.map_or("-".into(), |client| client.to_string());
        let end = if self.is_whole { "" } else { " aborted" };
        format!(
            "{} {level} {status} {} {} {milliseconds:.1} ms {} B client {client} {}{end}\n",
            rfc3339(now),
            self.method,
            self.path,
            self.bytes,
            self.id,
        )
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.log.write(&self.text(since_1970(), self.start.elapsed()));
    }
}

/// Formats a time since the start of 1970: `2026-01-31T23:59:59.123Z`.
fn rfc3339(time: Duration) -> String {
    let seconds = strftime("%FT%T", time.as_secs()).unwrap_or_default();
    format!("{seconds}.{:03}Z", time.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_plain_names_of_clients_are_used() {
        let recorder = Recorder::new(None);
        let id = |sent: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(sent).unwrap());
            recorder.id(&headers)
        };
        for good in [&b"a"[..], b"7f3c-AB_c.d:e=f+g/h@i", &[b'x'; MAX_ID]] {
            assert_eq!(id(good), good);
        }
        for bad in [&b""[..], &[b'x'; MAX_ID + 1], b"a b", b"\"}", "é".as_bytes(), b"a\tb"] {
            assert!(id(bad).as_bytes().starts_with(b"req-"));
        }
        assert_ne!(recorder.id(&HeaderMap::new()), recorder.id(&HeaderMap::new()));
    }

    #[test]
    fn times_are_written_as_rfc_3339_says() {
        assert_eq!(rfc3339(Duration::from_millis(951_782_399_007)), "2000-02-28T23:59:59.007Z");
    }
}

//! Answers as streams: server-sent events, or lines of JSON.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt};
use serde_json::Value;

use crate::error::ApiError;
use crate::writing::{Part, Writing};

/// How often something is sent while there is nothing to say, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How an API writes the parts of an answer.
pub(crate) trait Events: Send + 'static {
    type Item: Send + 'static;

    /// What comes before everything else.
    fn begin(&mut self, out: &mut VecDeque<Self::Item>);

    /// What says that this came.
    fn part(&mut self, part: Part, out: &mut VecDeque<Self::Item>);

    /// What says that the answer ends with an error; nothing comes after it.
    fn fail(&mut self, error: &ApiError, out: &mut VecDeque<Self::Item>);
}

fn items<E: Events>(writing: Writing, mut events: E) -> impl Stream<Item = E::Item> + Send {
    let mut pending = VecDeque::new();
    events.begin(&mut pending);
    unfold((writing, events, pending), async |(mut writing, mut events, mut pending)| {
        loop {
            if let Some(item) = pending.pop_front() {
                return Some((item, (writing, events, pending)));
            }
            match writing.next().await? {
                Ok(part) => events.part(part, &mut pending),
                Err(error) => events.fail(&error, &mut pending),
            }
        }
    })
}

/// Answers with server-sent events; `ping` is what is sent while there is nothing to say, a comment unless it is given.
pub(crate) fn sse<E: Events<Item = Event>>(
    writing: Writing,
    events: E,
    ping: Option<Event>,
) -> Response {
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let keep_alive = match ping {
        Some(ping) => keep_alive.event(ping),
        None => keep_alive,
    };
    let events = items(writing, events).map(Ok::<_, Infallible>);
    Sse::new(events.boxed()).keep_alive(keep_alive).into_response()
}

/// Answers with lines of JSON.
pub(crate) fn lines<E: Events<Item = Value>>(writing: Writing, events: E) -> Response {
    let lines = items(writing, events).map(|value| Ok::<_, Infallible>(format!("{value}\n")));
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(lines.boxed())).into_response()
}

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

#[cfg(test)]
pub(crate) mod tests {
    //! Answers with reasoning, text and calls, which the models of the tests do not write.

    use std::sync::Arc;

    use bitnet_inference::chat::{AnswerEvent, FunctionCall, Message, ToolCall};
    use bitnet_inference::engine::{Engine, EngineConfig, Usage};
    use bitnet_inference::{FinishReason, Model};
    use futures_util::stream::iter;

    use super::*;
    use crate::access::Keys;
    use crate::state::AppState;
    use crate::writing::{Ending, Written};

    pub(crate) fn state() -> AppState {
        let model = Arc::new(Model::builder().threads(1).embedded().unwrap());
        let engine = Engine::start(model, EngineConfig::default()).unwrap();
        AppState::new(
            engine,
            "stories".into(),
            Keys::default(),
            bitnet_inference::DraftMode::Off,
            true,
        )
    }

    /// Reasoning, a text and two calls.
    pub(crate) fn written() -> Written {
        let call = |id: &str| ToolCall {
            id: id.into(),
            function: FunctionCall { name: "weather".into(), arguments: "{\"place\":1}".into() },
            ..ToolCall::default()
        };
        let message = Message {
            reasoning_content: Some("Why?".into()),
            tool_calls: vec![call("c0"), call("c1")],
            ..Message::new("assistant", "Let me see.")
        };
        let (finish, reasoning_tokens) = (FinishReason::EndOfText, 2);
        let end = Ending { finish, stop: None, message: Some(message.clone()), reasoning_tokens };
        let usage = Usage { prompt_tokens: 9, written_tokens: 7, ..Usage::default() };
        Written { message, end, usage, logprobs: Vec::new() }
    }

    /// What is sent of it.
    pub(crate) fn sent<E: Events>(mut events: E) -> VecDeque<E::Item> {
        let Written { message, end, usage, .. } = written();
        let text = |event| Part::Text { index: 0, event, token: None, logprobs: None };
        let mut out = VecDeque::new();
        events.begin(&mut out);
        for piece in ["Wh", "y?"] {
            events.part(text(AnswerEvent::Reasoning(piece.into())), &mut out);
        }
        for piece in ["Let me", "", " see."] {
            events.part(text(AnswerEvent::Content(piece.into())), &mut out);
        }
        for call in message.tool_calls {
            events.part(text(AnswerEvent::ToolCall(call)), &mut out);
        }
        events.part(Part::End { index: 0, end }, &mut out);
        events.part(Part::Done(usage), &mut out);
        out
    }

    /// The data of server-sent events.
    pub(crate) fn data(events: VecDeque<Event>) -> Vec<Value> {
        let response = Sse::new(iter(events).map(Ok::<_, Infallible>)).into_response();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(axum::body::to_bytes(response.into_body(), 1 << 20)).unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

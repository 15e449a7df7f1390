//! Answers as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::IntoResponse;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use bitnet_inference::FinishReason;
use bitnet_inference::chat::{AnswerEvent, AnswerParser, Message};
use bitnet_inference::engine::{EngineError, Event, Logprobs, Response, Usage};
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all, unfold};
use serde_json::{Value, json};

use super::answer::{Context, finish_name, sum, timings, usage};
use crate::error::ApiError;

/// How often a comment is sent while nothing else is, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One text of a stream.
struct Text {
    /// That of a chat's text, until it ends.
    parser: Option<AnswerParser>,
    has_role: bool,
    calls: usize,
    /// Where its next token begins, in characters.
    offset: usize,
}

/// A stream in progress.
struct Stream {
    context: Context,
    events:
        SelectAll<futures_util::stream::BoxStream<'static, (usize, Result<Event, EngineError>)>>,
    texts: Vec<Text>,
    usages: Vec<Usage>,
    unfinished: usize,
    /// What is to be sent.
    pending: VecDeque<String>,
    is_over: bool,
}

/// Answers with the events of all responses as they come.
pub(super) fn respond(context: Context, responses: Vec<Response>) -> impl IntoResponse {
    let texts = responses.len() * context.parameters.choices;
    let texts =
        (0..texts).map(|_| Text { parser: context.parser(), has_role: false, calls: 0, offset: 0 });
    let stream = Stream {
        texts: texts.collect(),
        unfinished: responses.len(),
        events: select_all(responses.into_iter().enumerate().map(|(index, response)| {
            StreamExt::map(response, move |event| (index, event)).boxed()
        })),
        usages: Vec::new(),
        pending: VecDeque::new(),
        is_over: false,
        context,
    };
    let events = unfold(stream, async |mut stream| {
        let data = stream.next().await?;
        Some((Ok::<_, Infallible>(SseEvent::default().data(data)), stream))
    });
    Sse::new(events.boxed()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

impl Stream {
    /// Returns the data of the next event; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.pending.pop_front() {
                return Some(data);
            }
            if self.is_over {
                return None;
            }
            match self.events.next().await {
                Some((index, Ok(event))) => self.take(index, event),
                Some((_, Err(error))) => self.fail(error),
                None => self.fail(EngineError::ShuttingDown),
            }
        }
    }

    fn fail(&mut self, error: EngineError) {
        self.pending.push_back(ApiError::from(error).body().to_string());
        self.is_over = true;
    }

    fn send(&mut self, choices: Vec<Value>, more: &[(&str, Value)]) {
        let mut object = self.context.object(true, choices);
        if self.context.parameters.include_usage && more.iter().all(|(name, _)| *name != "usage") {
            object.insert("usage".into(), Value::Null);
        }
        object.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self.pending.push_back(Value::Object(object).to_string());
    }

    fn take(&mut self, request: usize, event: Event) {
        let index = |choice: usize| request * self.context.parameters.choices + choice;
        match event {
            Event::Prompt { done, cached, total, .. }
                if self.context.parameters.return_progress =>
            {
                let progress = json!({"total": total, "cache": cached, "processed": done});
                self.send(Vec::new(), &[("prompt_progress", progress)]);
            }
            Event::Token { choice, text, logprobs, id } => {
                let index = index(choice);
                match self.context.is_chat() {
                    true => self.chat_text(index, &text, logprobs.as_ref()),
                    false => self.completion_text(index, id, text, logprobs.as_ref()),
                }
            }
            Event::End { choice, finish, .. } => self.end(index(choice), finish),
            Event::Done(usage) => self.done(usage),
            _ => {}
        }
    }

    fn chat_text(&mut self, index: usize, text: &str, logprobs: Option<&Logprobs>) {
        let Some(parser) = &mut self.texts[index].parser else { return };
        let events = parser.push(text);
        let mut logprobs =
            logprobs.map(|scores| json!({"content": [self.context.chat_logprobs(scores)]}));
        if events.is_empty() && logprobs.is_some() {
            self.delta(index, json!({"content": ""}), logprobs.take());
        }
        for event in events {
            self.answer_event(index, event, logprobs.take());
        }
    }

    fn answer_event(&mut self, index: usize, event: AnswerEvent, logprobs: Option<Value>) {
        let delta = match event {
            AnswerEvent::Reasoning(text) => json!({"reasoning_content": text}),
            AnswerEvent::Content(text) => json!({"content": text}),
            AnswerEvent::ToolCall(call) => {
                let call_index = self.texts[index].calls;
                self.texts[index].calls += 1;
                json!({"tool_calls": [{
                    "index": call_index,
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }]})
            }
            _ => return,
        };
        self.delta(index, delta, logprobs);
    }

    fn delta(&mut self, index: usize, mut delta: Value, logprobs: Option<Value>) {
        let text = &mut self.texts[index];
        if !text.has_role {
            text.has_role = true;
            delta["role"] = "assistant".into();
        }
        let choice =
            json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": null});
        self.send(vec![choice], &[]);
    }

    fn completion_text(
        &mut self,
        index: usize,
        token: Option<u32>,
        text: String,
        logprobs: Option<&Logprobs>,
    ) {
        let scores = token.map(|token| (token, logprobs)).filter(|_| logprobs.is_some());
        let scores = scores.map(|scores| {
            let offset = self.texts[index].offset;
            let (value, end) = self.context.completion_logprobs(std::iter::once(scores), offset);
            self.texts[index].offset = end;
            value
        });
        if text.is_empty() && scores.is_none() {
            return;
        }
        let choice =
            json!({"index": index, "text": text, "logprobs": scores, "finish_reason": null});
        self.send(vec![choice], &[]);
    }

    fn end(&mut self, index: usize, finish: FinishReason) {
        if !self.context.is_chat() {
            let finish = finish_name(Some(finish), None);
            let choice =
                json!({"index": index, "text": "", "logprobs": null, "finish_reason": finish});
            self.send(vec![choice], &[]);
            return;
        }
        let Some(parser) = self.texts[index].parser.take() else { return };
        let answer = parser.finish();
        for event in answer.events {
            self.answer_event(index, event, None);
        }
        let message: &Message = &answer.message;
        let finish = finish_name(Some(finish), Some(message));
        let mut delta = json!({});
        if !self.texts[index].has_role {
            delta = json!({"role": "assistant", "content": ""});
        }
        let choice =
            json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": finish});
        self.send(vec![choice], &[]);
    }

    fn done(&mut self, of_request: Usage) {
        self.usages.push(of_request);
        self.unfinished -= 1;
        if self.unfinished > 0 {
            return;
        }
        let total = sum(self.usages.iter().copied());
        if self.context.parameters.include_usage {
            let more = [("usage", usage(&total)), ("timings", timings(&total))];
            self.send(Vec::new(), &more);
        }
        self.pending.push_back("[DONE]".into());
        self.is_over = true;
    }
}

//! Answers as server-sent events.

use std::collections::VecDeque;

use axum::response::Response as HttpResponse;
use axum::response::sse::Event;
use bitnet_inference::chat::AnswerEvent;
use bitnet_inference::engine::{Logprobs, Response, Usage};
use serde_json::{Value, json};

use super::answer::{Context, finish_name, timings, usage};
use crate::error::{Api, ApiError};
use crate::stream::{Events, sse};
use crate::writing::{Ending, Part, Writing};

/// One text of a stream.
#[derive(Debug, Clone, Default)]
struct Text {
    has_role: bool,
    calls: usize,
    /// Where its next token begins, in characters.
    offset: usize,
}

/// The chunks of a stream.
struct Chunks {
    context: Context,
    texts: Vec<Text>,
}

/// Answers with the events of all responses as they come.
pub(super) fn respond(context: Context, responses: Vec<Response>) -> HttpResponse {
    let choices = context.parameters.choices;
    let texts = vec![Text::default(); responses.len() * choices];
    let writing = Writing::new(responses, choices, context.parser().as_ref());
    sse(writing, Chunks { context, texts }, None)
}

impl Events for Chunks {
    type Item = Event;

    fn begin(&mut self, _: &mut VecDeque<Event>) {}

    fn part(&mut self, part: Part, out: &mut VecDeque<Event>) {
        match part {
            Part::Prompt { done, cached, total } if self.context.parameters.return_progress => {
                let progress = json!({"total": total, "cache": cached, "processed": done});
                out.push_back(self.chunk(Vec::new(), &[("prompt_progress", progress)]));
            }
            Part::Prompt { .. } => {}
            Part::Text { index, event, logprobs, .. } if self.context.is_chat() => {
                out.extend(self.delta_of(index, event, logprobs.as_ref()));
            }
            Part::Text { index, event, token, logprobs } => {
                out.extend(self.completion_text(index, event, token, logprobs.as_ref()));
            }
            Part::End { index, end } => out.push_back(self.end(index, &end)),
            Part::Done(usage) => self.done(&usage, out),
        }
    }

    fn fail(&mut self, error: &ApiError, out: &mut VecDeque<Event>) {
        out.push_back(Event::default().data(error.body(Api::OpenAi, None).to_string()));
    }
}

impl Chunks {
    fn chunk(&self, choices: Vec<Value>, more: &[(&str, Value)]) -> Event {
        let mut object = self.context.object(true, choices);
        if self.context.parameters.include_usage && more.iter().all(|(name, _)| *name != "usage") {
            object.insert("usage".into(), Value::Null);
        }
        object.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        Event::default().data(Value::Object(object).to_string())
    }

    fn delta_of(
        &mut self,
        index: usize,
        event: AnswerEvent,
        logprobs: Option<&Logprobs>,
    ) -> Option<Event> {
        let text = &mut self.texts[index];
        let mut delta = match event {
            AnswerEvent::Reasoning(text) => json!({"reasoning_content": text}),
            AnswerEvent::Content(text) => json!({"content": text}),
            AnswerEvent::ToolCall(call) => {
                let call_index = text.calls;
                text.calls += 1;
                json!({"tool_calls": [{
                    "index": call_index,
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }]})
            }
            _ => return None,
        };
        if !text.has_role {
            text.has_role = true;
            delta["role"] = "assistant".into();
        }
        let logprobs =
            logprobs.map(|scores| json!({"content": [self.context.chat_logprobs(scores)]}));
        let choice =
            json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": null});
        Some(self.chunk(vec![choice], &[]))
    }

    fn completion_text(
        &mut self,
        index: usize,
        event: AnswerEvent,
        token: Option<u32>,
        logprobs: Option<&Logprobs>,
    ) -> Option<Event> {
        let AnswerEvent::Content(text) = event else { return None };
        let scores = token.map(|token| (token, logprobs)).filter(|_| logprobs.is_some());
        let scores = scores.map(|scores| {
            let offset = self.texts[index].offset;
            let (value, end) = self.context.completion_logprobs(std::iter::once(scores), offset);
            self.texts[index].offset = end;
            value
        });
        let choice =
            json!({"index": index, "text": text, "logprobs": scores, "finish_reason": null});
        Some(self.chunk(vec![choice], &[]))
    }

    fn end(&mut self, index: usize, end: &Ending) -> Event {
        let finish = finish_name(Some(end.finish), end.message.as_ref());
        let choice = match self.context.is_chat() {
            false => json!({"index": index, "text": "", "logprobs": null, "finish_reason": finish}),
            true => {
                let delta = match self.texts[index].has_role {
                    true => json!({}),
                    false => json!({"role": "assistant", "content": ""}),
                };
                json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": finish})
            }
        };
        self.chunk(vec![choice], &[])
    }

    fn done(&mut self, total: &Usage, out: &mut VecDeque<Event>) {
        if self.context.parameters.include_usage {
            let more = [("usage", usage(total)), ("timings", timings(total))];
            out.push_back(self.chunk(Vec::new(), &more));
        }
        out.push_back(Event::default().data("[DONE]"));
    }
}

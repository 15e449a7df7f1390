//! Answers as blocks: whole, or as the events of a stream.

use std::collections::VecDeque;

use axum::response::sse::Event;
use bitnet_inference::chat::{AnswerEvent, ToolCall};
use bitnet_inference::engine::Usage;
use serde_json::{Value, json};

use crate::error::{Api, ApiError};
use crate::state::AppState;
use crate::stream::Events;
use crate::writing::{Ending, Part, Written};

/// Returns a whole answer.
pub(super) fn message(state: &AppState, id: &str, written: &Written) -> Value {
    let mut content = Vec::new();
    if let Some(thinking) = &written.message.reasoning_content {
        content.push(json!({"type": "thinking", "thinking": thinking, "signature": ""}));
    }
    let calls = &written.message.tool_calls;
    if !written.message.content.is_empty() || (content.is_empty() && calls.is_empty()) {
        content.push(json!({"type": "text", "text": written.message.content, "citations": null}));
    }
    content.extend(calls.iter().map(|call| {
        let mut block = call_block(call);
        block["input"] = serde_json::from_str(&call.function.arguments).unwrap_or_default();
        block
    }));
    let (reason, stop) = stop_reason(&written.end);
    json!({
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": state.model_name,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": stop,
        "stop_details": null,
        "container": null,
        "usage": usage(&written.usage),
    })
}

/// Returns the block of a call, without its arguments.
fn call_block(call: &ToolCall) -> Value {
    json!({"type": "tool_use", "id": call.id, "name": call.function.name, "input": {}})
}

/// Returns why an answer ended, and the stop sequence with which it did.
fn stop_reason(end: &Ending) -> (&'static str, Option<&str>) {
    match &end.stop {
        Some(stop) => ("stop_sequence", Some(stop)),
        None if end.is_cut_off() => ("max_tokens", None),
        None if end.has_calls() => ("tool_use", None),
        None => ("end_turn", None),
    }
}

/// Tokens that were found in memory are counted apart from the others of the prompt. What is null has no meaning here, and
/// is there since the API's schema wants it.
fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens.saturating_sub(usage.cached_tokens),
        "cache_creation": null,
        "cache_creation_input_tokens": null,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.written_tokens,
        "output_tokens_details": null,
        "server_tool_use": null,
        "service_tier": null,
        "inference_geo": null,
    })
}

/// The kind of a block that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
}

/// The events of a stream.
pub(super) struct Blocks {
    state: AppState,
    id: String,
    prompt_tokens: usize,
    /// Blocks that have begun.
    begun: usize,
    open: Option<Kind>,
    end: Option<Ending>,
}

impl Blocks {
    pub(super) fn new(state: AppState, id: String, prompt_tokens: usize) -> Self {
        Self { state, id, prompt_tokens, begun: 0, open: None, end: None }
    }

    fn close(&mut self, out: &mut VecDeque<Event>) {
        if self.open.take().is_some() {
            out.push_back(self.stop_of_block());
        }
    }

    fn stop_of_block(&self) -> Event {
        event("content_block_stop", json!({"index": self.begun - 1}))
    }

    fn start(&mut self, block: Value, out: &mut VecDeque<Event>) {
        self.close(out);
        let start = json!({"index": self.begun, "content_block": block});
        out.push_back(event("content_block_start", start));
        self.begun += 1;
    }

    fn delta(&self, delta: Value) -> Event {
        event("content_block_delta", json!({"index": self.begun - 1, "delta": delta}))
    }

    fn text(&mut self, kind: Kind, text: &str, out: &mut VecDeque<Event>) {
        if text.is_empty() {
            return;
        }
        let (block, delta) = match kind {
            Kind::Thinking => (
                json!({"type": "thinking", "thinking": "", "signature": ""}),
                json!({"type": "thinking_delta", "thinking": text}),
            ),
            Kind::Text => (
                json!({"type": "text", "text": "", "citations": null}),
                json!({"type": "text_delta", "text": text}),
            ),
        };
        if self.open != Some(kind) {
            self.start(block, out);
            self.open = Some(kind);
        }
        out.push_back(self.delta(delta));
    }

    fn call(&mut self, call: &ToolCall, out: &mut VecDeque<Event>) {
        self.start(call_block(call), out);
        let delta = json!({"type": "input_json_delta", "partial_json": call.function.arguments});
        out.push_back(self.delta(delta));
        out.push_back(self.stop_of_block());
    }

    fn done(&mut self, of_answer: &Usage, out: &mut VecDeque<Event>) {
        let (reason, stop) = self.end.as_ref().map_or(("end_turn", None), stop_reason);
        let delta = json!({"stop_reason": reason, "stop_sequence": stop});
        let delta = json!({"delta": delta, "usage": usage(of_answer)});
        out.push_back(event("message_delta", delta));
        out.push_back(event("message_stop", json!({})));
    }
}

impl Events for Blocks {
    type Item = Event;

    fn begin(&mut self, out: &mut VecDeque<Event>) {
        let usage = Usage { prompt_tokens: self.prompt_tokens, ..Usage::default() };
        let message = json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.state.model_name,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "stop_details": null,
            "container": null,
            "usage": self::usage(&usage),
        });
        out.push_back(event("message_start", json!({"message": message})));
        out.push_back(event("ping", json!({})));
    }

    fn part(&mut self, part: Part, out: &mut VecDeque<Event>) {
        match part {
            Part::Text { event: AnswerEvent::Reasoning(text), .. } => {
                self.text(Kind::Thinking, &text, out);
            }
            Part::Text { event: AnswerEvent::Content(text), .. } => {
                self.text(Kind::Text, &text, out);
            }
            Part::Text { event: AnswerEvent::ToolCall(call), .. } => self.call(&call, out),
            Part::Text { .. } | Part::Prompt { .. } => {}
            Part::End { end, .. } => {
                if self.begun == 0 {
                    self.start(json!({"type": "text", "text": "", "citations": null}), out);
                    self.open = Some(Kind::Text);
                }
                self.close(out);
                self.end = Some(end);
            }
            Part::Done(usage) => self.done(&usage, out),
        }
    }

    fn fail(&mut self, error: &ApiError, out: &mut VecDeque<Event>) {
        let body = error.body(Api::Anthropic, None);
        out.push_back(Event::default().event("error").data(body.to_string()));
    }
}

fn event(name: &str, mut data: Value) -> Event {
    data["type"] = name.into();
    Event::default().event(name).data(data.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::tests::{data, sent, state, written};

    #[test]
    fn each_kind_of_part_is_a_block() {
        let whole = message(&state(), "msg_1", &written());
        assert_eq!(whole["stop_reason"], "tool_use");
        let call = |id: &str| json!({"type": "tool_use", "id": id, "name": "weather", "input": {"place": 1}});
        assert_eq!(whole["content"][0]["thinking"], "Why?");
        assert_eq!(whole["content"][1]["text"], "Let me see.");
        assert_eq!((&whole["content"][2], &whole["content"][3]), (&call("c0"), &call("c1")));

        let events = data(sent(Blocks::new(state(), "msg_1".into(), 9)));
        let mut blocks = Vec::new();
        let mut open = None;
        for event in &events {
            match event["type"].as_str().unwrap() {
                "content_block_start" => {
                    assert_eq!((open, &event["index"]), (None, &json!(blocks.len())));
                    open = Some(blocks.len());
                    blocks.push((event["content_block"]["type"].clone(), String::new()));
                }
                "content_block_delta" => {
                    assert_eq!(event["index"], open.unwrap());
                    let delta = &event["delta"];
                    let text =
                        ["text", "thinking", "partial_json"].iter().find_map(|n| delta[n].as_str());
                    blocks.last_mut().unwrap().1.push_str(text.unwrap());
                }
                "content_block_stop" => assert_eq!(event["index"], open.take().unwrap()),
                _ => assert_eq!(open, None),
            }
        }
        let expected = [
            (json!("thinking"), "Why?".to_owned()),
            (json!("text"), "Let me see.".to_owned()),
            (json!("tool_use"), "{\"place\":1}".to_owned()),
            (json!("tool_use"), "{\"place\":1}".to_owned()),
        ];
        assert_eq!(blocks, expected);
        assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], "tool_use");
    }
}

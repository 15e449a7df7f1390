//! Answers as the events of a stream.

use std::collections::VecDeque;

use axum::response::sse::Event;
use bitnet_inference::chat::{AnswerEvent, ToolCall};
use serde_json::{Value, json};

use super::object::{
    Answer, call_item, message_item, reasoning_item, reasoning_part, status, text_part,
};
use crate::error::ApiError;
use crate::stream::Events;
use crate::writing::{Ending, Part};

/// The kind of an item that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Text,
}

impl Kind {
    /// What the names of its events begin with.
    fn name(self) -> &'static str {
        match self {
            Self::Reasoning => "response.reasoning_text",
            Self::Text => "response.output_text",
        }
    }

    fn item(self, id: &str, text: Option<&str>, status: &str) -> Value {
        match self {
            Self::Reasoning => reasoning_item(id, text, status),
            Self::Text => message_item(id, text, status),
        }
    }

    fn part(self, text: &str) -> Value {
        match self {
            Self::Reasoning => reasoning_part(text),
            Self::Text => text_part(text),
        }
    }
}

/// An item that is being written.
struct Open {
    kind: Kind,
    id: String,
    text: String,
}

/// The events of a stream.
pub(super) struct Items {
    answer: Answer,
    sequence: usize,
    open: Option<Open>,
    /// Items that are complete.
    output: Vec<Value>,
    end: Option<Ending>,
}

impl Items {
    pub(super) fn new(answer: Answer) -> Self {
        Self { answer, sequence: 0, open: None, output: Vec::new(), end: None }
    }

    fn event(&mut self, name: &str, mut data: Value) -> Event {
        data["type"] = name.into();
        data["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        Event::default().event(name).data(data.to_string())
    }

    /// Begins an item of this kind, unless it is being written.
    fn begin_item(&mut self, kind: Kind, out: &mut VecDeque<Event>) {
        if self.open.as_ref().is_some_and(|open| open.kind == kind) {
            return;
        }
        self.close("completed", out);
        let id = self.answer.item_id(if kind == Kind::Text { "msg_" } else { "rs_" });
        let index = self.output.len();
        let added = json!({"output_index": index, "item": kind.item(&id, None, "in_progress")});
        out.push_back(self.event("response.output_item.added", added));
        let part = json!({
            "item_id": id, "output_index": index, "content_index": 0, "part": kind.part(""),
        });
        out.push_back(self.event("response.content_part.added", part));
        self.open = Some(Open { kind, id, text: String::new() });
    }

    fn text(&mut self, kind: Kind, text: &str, out: &mut VecDeque<Event>) {
        if text.is_empty() {
            return;
        }
        self.begin_item(kind, out);
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let id = open.id.clone();
        let mut delta = json!({
            "item_id": id, "output_index": self.output.len(), "content_index": 0, "delta": text,
        });
        if kind == Kind::Text {
            delta["logprobs"] = json!([]);
        }
        out.push_back(self.event(&format!("{}.delta", kind.name()), delta));
    }

    /// Ends the item that is being written.
    fn close(&mut self, status: &str, out: &mut VecDeque<Event>) {
        let Some(Open { kind, id, text }) = self.open.take() else { return };
        let index = self.output.len();
        let mut done =
            json!({"item_id": id, "output_index": index, "content_index": 0, "text": text});
        if kind == Kind::Text {
            done["logprobs"] = json!([]);
        }
        out.push_back(self.event(&format!("{}.done", kind.name()), done));
        let part = json!({
            "item_id": id, "output_index": index, "content_index": 0, "part": kind.part(&text),
        });
        out.push_back(self.event("response.content_part.done", part));
        self.done_item(kind.item(&id, Some(&text), status), out);
    }

    fn done_item(&mut self, item: Value, out: &mut VecDeque<Event>) {
        let done = json!({"output_index": self.output.len(), "item": item});
        self.output.push(item);
        out.push_back(self.event("response.output_item.done", done));
    }

    fn call(&mut self, call: &ToolCall, out: &mut VecDeque<Event>) {
        self.close("completed", out);
        let (id, index) = (self.answer.item_id("fc_"), self.output.len());
        let added = json!({"output_index": index, "item": call_item(&id, call, false)});
        out.push_back(self.event("response.output_item.added", added));
        let arguments = &call.function.arguments;
        let delta = json!({"item_id": id, "output_index": index, "delta": arguments});
        out.push_back(self.event("response.function_call_arguments.delta", delta));
        let done = json!({
            "item_id": id, "output_index": index, "name": call.function.name,
            "arguments": arguments,
        });
        out.push_back(self.event("response.function_call_arguments.done", done));
        self.done_item(call_item(&id, call, true), out);
    }
}

impl Events for Items {
    type Item = Event;

    fn begin(&mut self, out: &mut VecDeque<Event>) {
        for name in ["response.created", "response.in_progress"] {
            let response = json!({"response": self.answer.in_progress()});
            out.push_back(self.event(name, response));
        }
    }

    fn part(&mut self, part: Part, out: &mut VecDeque<Event>) {
        match part {
            Part::Text { event: AnswerEvent::Reasoning(text), .. } => {
                self.text(Kind::Reasoning, &text, out);
            }
            Part::Text { event: AnswerEvent::Content(text), .. } => {
                self.text(Kind::Text, &text, out);
            }
            Part::Text { event: AnswerEvent::ToolCall(call), .. } => self.call(&call, out),
            Part::Text { .. } | Part::Prompt { .. } => {}
            Part::End { end, .. } => {
                let has_text = self.open.as_ref().is_some_and(|open| open.kind == Kind::Text)
                    || self.output.iter().any(|item| item["type"] != "reasoning");
                // There is a text, if an empty one, as in a whole answer.
                if !has_text {
                    self.begin_item(Kind::Text, out);
                }
                self.close(status(&end), out);
                self.end = Some(end);
            }
            Part::Done(usage) => {
                let output = self.output.clone();
                let response = self.answer.ended(self.end.as_ref(), output, &usage);
                let is_cut_off = self.end.as_ref().is_some_and(Ending::is_cut_off);
                let name = if is_cut_off { "incomplete" } else { "completed" };
                let response = json!({"response": response});
                out.push_back(self.event(&format!("response.{name}"), response));
            }
        }
    }

    fn fail(&mut self, error: &ApiError, out: &mut VecDeque<Event>) {
        let response = self.answer.failed(error, self.output.clone());
        out.push_back(self.event("response.failed", json!({"response": response})));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::{Fields, Parameters};
    use crate::stream::tests::{data, sent, state, written};

    fn answer() -> Answer {
        let (state, request) = (state(), serde_json::Map::new());
        let parameters = Parameters::of_one_answer(Fields::new(&request, &[]), &state, None);
        Answer::new(state, request, &parameters.unwrap())
    }

    #[test]
    fn each_kind_of_part_is_an_item() {
        let whole = answer().whole(&written());
        assert_eq!((&whole["status"], &whole["error"]), (&json!("completed"), &Value::Null));
        let events = data(sent(Items::new(answer())));
        let done: Vec<&Value> =
            events.iter().filter(|e| e["type"] == "response.output_item.done").collect();
        let added = events.iter().filter(|e| e["type"] == "response.output_item.added").count();
        let output = whole["output"].as_array().unwrap();
        assert_eq!((done.len(), added, output.len()), (4, 4, 4));
        for (index, item) in output.iter().enumerate() {
            assert_eq!(done[index]["output_index"], index);
            let mut streamed = done[index]["item"].clone();
            streamed["id"] = item["id"].clone();
            assert_eq!(&streamed, item);
        }
        assert_eq!(output[3]["call_id"], "c1");
        let last = &events[events.len() - 1];
        assert_eq!(last["type"], "response.completed");
        assert_eq!(last["response"]["output"].as_array().unwrap().len(), 4);
        assert_eq!(last["response"]["usage"]["output_tokens_details"]["reasoning_tokens"], 2);
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], number);
        }
    }
}

//! Answers: whole, or as lines of JSON.

use std::collections::VecDeque;
use std::time::Duration;

use bitnet_inference::chat::{AnswerEvent, Message, ToolCall, strftime};
use bitnet_inference::engine::{Logprobs, Usage};
use serde_json::{Value, json};

use crate::error::{Api, ApiError};
use crate::logprobs::of_token;
use crate::state::{AppState, since_1970};
use crate::stream::Events;
use crate::writing::{Ending, Part, Written};

/// Which route an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Chat,
    Generate,
}

/// Returns a time as text.
pub(super) fn time(seconds: u64) -> String {
    strftime("%Y-%m-%dT%H:%M:%SZ", seconds).unwrap_or_default()
}

/// Returns a line with more of the text, or with more of the reasoning.
pub(super) fn line(state: &AppState, route: Route, text: &str, thinking: Option<&str>) -> Value {
    let mut line = json!({
        "model": state.model_name,
        "created_at": time(since_1970().as_secs()),
        "done": false,
    });
    let holder = match route {
        Route::Chat => {
            line["message"] = json!({"role": "assistant", "content": text});
            &mut line["message"]
        }
        Route::Generate => {
            line["response"] = text.into();
            &mut line
        }
    };
    if let Some(thinking) = thinking {
        holder["thinking"] = thinking.into();
    }
    line
}

/// Returns a call; its arguments are an object here.
fn call(index: usize, call: &ToolCall) -> Value {
    let arguments: Value = serde_json::from_str(&call.function.arguments).unwrap_or_default();
    let function = json!({"index": index, "name": call.function.name, "arguments": arguments});
    json!({"id": call.id, "function": function})
}

/// Adds how an answer ended, its tokens and times.
fn finish(line: &mut Value, end: Option<&Ending>, usage: &Usage) {
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let total = usage.queue_time + usage.prompt_time + usage.write_time;
    let is_cut_off = end.is_some_and(Ending::is_cut_off);
    line["done"] = true.into();
    line["done_reason"] = if is_cut_off { "length" } else { "stop" }.into();
    line["total_duration"] = nanoseconds(total).into();
    // The model is there before the first request.
    line["load_duration"] = 0.into();
    line["prompt_eval_count"] = usage.prompt_tokens.into();
    line["prompt_eval_duration"] = nanoseconds(usage.prompt_time).into();
    line["eval_count"] = usage.written_tokens.into();
    line["eval_duration"] = nanoseconds(usage.write_time).into();
}

fn add_logprobs<'a>(
    line: &mut Value,
    state: &AppState,
    logprobs: impl Iterator<Item = &'a Logprobs>,
) {
    let items: Vec<Value> = logprobs.map(|scores| of_token(state, scores)).collect();
    if !items.is_empty() {
        line["logprobs"] = items.into();
    }
}

/// Returns a whole answer.
pub(super) fn whole(state: &AppState, route: Route, written: &Written) -> Value {
    let message: &Message = &written.message;
    let mut line = line(state, route, &message.content, message.reasoning_content.as_deref());
    let calls = message.tool_calls.iter().enumerate();
    let calls: Vec<Value> = calls.map(|(index, of_message)| call(index, of_message)).collect();
    if !calls.is_empty() && route == Route::Chat {
        line["message"]["tool_calls"] = calls.into();
    }
    add_logprobs(&mut line, state, written.logprobs.iter());
    finish(&mut line, Some(&written.end), &written.usage);
    line
}

/// The lines of a stream.
pub(super) struct Lines {
    state: AppState,
    route: Route,
    calls: usize,
    end: Option<Ending>,
}

impl Lines {
    pub(super) fn new(state: AppState, route: Route) -> Self {
        Self { state, route, calls: 0, end: None }
    }

    fn text(&mut self, event: AnswerEvent, logprobs: Option<&Logprobs>) -> Option<Value> {
        let mut line = match event {
            AnswerEvent::Content(text) if text.is_empty() && logprobs.is_none() => return None,
            AnswerEvent::Content(text) => line(&self.state, self.route, &text, None),
            AnswerEvent::Reasoning(text) => line(&self.state, self.route, "", Some(&text)),
            AnswerEvent::ToolCall(of_message) => {
                let mut line = line(&self.state, self.route, "", None);
                line["message"]["tool_calls"] = json!([call(self.calls, &of_message)]);
                self.calls += 1;
                line
            }
            _ => return None,
        };
        add_logprobs(&mut line, &self.state, logprobs.into_iter());
        Some(line)
    }
}

impl Events for Lines {
    type Item = Value;

    fn begin(&mut self, _: &mut VecDeque<Value>) {}

    fn part(&mut self, part: Part, out: &mut VecDeque<Value>) {
        match part {
            Part::Prompt { .. } => {}
            Part::Text { event, logprobs, .. } => out.extend(self.text(event, logprobs.as_ref())),
            Part::End { end, .. } => self.end = Some(end),
            Part::Done(usage) => {
                let mut line = line(&self.state, self.route, "", None);
                finish(&mut line, self.end.as_ref(), &usage);
                out.push_back(line);
            }
        }
    }

    fn fail(&mut self, error: &ApiError, out: &mut VecDeque<Value>) {
        out.push_back(error.body(Api::Ollama, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::tests::{sent, state, written};

    #[test]
    fn calls_have_objects_as_arguments() {
        let whole = whole(&state(), Route::Chat, &written());
        let calls = whole["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(calls[1]["function"]["arguments"], json!({"place": 1}));
        assert_eq!(calls[1]["function"]["index"], 1);
        assert_eq!(whole["message"]["thinking"], "Why?");

        let lines = sent(Lines::new(state(), Route::Chat));
        let join = |name: &str| -> String {
            lines.iter().filter_map(|line| line["message"][name].as_str()).collect()
        };
        assert_eq!((join("thinking"), join("content")), ("Why?".into(), "Let me see.".into()));
        let streamed: Vec<&Value> = lines
            .iter()
            .filter_map(|line| line["message"]["tool_calls"].as_array())
            .flatten()
            .collect();
        assert_eq!(streamed, calls.iter().collect::<Vec<_>>());
        assert_eq!(
            (&lines[lines.len() - 1]["done_reason"], whole["done"].as_bool()),
            (&json!("stop"), Some(true))
        );
    }
}

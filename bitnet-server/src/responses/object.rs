//! The object that an answer is, and its items.

use bitnet_inference::chat::ToolCall;
use bitnet_inference::engine::Usage;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::parameters::Parameters;
use crate::state::{AppState, since_1970};
use crate::writing::{Ending, Written};

/// What the forms of one answer have in common.
pub(super) struct Answer {
    state: AppState,
    id: String,
    created: u64,
    /// The request's own fields, which an answer repeats.
    fields: Map<String, Value>,
}

impl Answer {
    pub(super) fn new(
        state: AppState,
        request: Map<String, Value>,
        parameters: &Parameters,
    ) -> Self {
        let or = |name: &str, default: Value| {
            let value = request.get(name).filter(|value| !value.is_null()).cloned();
            (name.to_owned(), value.unwrap_or(default))
        };
        let sampler = &parameters.options.sampler;
        let mut fields: Map<String, Value> = [
            or("instructions", Value::Null),
            or("max_output_tokens", Value::Null),
            or("max_tool_calls", Value::Null),
            or("metadata", json!({})),
            or("parallel_tool_calls", json!(true)),
            or("prompt_cache_key", Value::Null),
            or("safety_identifier", Value::Null),
            or("tools", json!([])),
            or("tool_choice", json!("auto")),
            or("user", Value::Null),
        ]
        .into_iter()
        .collect();
        let reasoning = |name: &str| request.get("reasoning").and_then(|r| r.get(name)).cloned();
        let format = request.get("text").and_then(|text| text.get("format")).cloned();
        let format = format.filter(|format| !format.is_null());
        let format = format.unwrap_or_else(|| json!({"type": "text"}));
        let numbers = json!({
            "temperature": sampler.temperature,
            "top_p": sampler.top_p,
            "frequency_penalty": sampler.frequency_penalty,
            "presence_penalty": sampler.presence_penalty,
            "top_logprobs": 0,
            "reasoning": {"effort": reasoning("effort"), "summary": reasoning("summary")},
            "text": {"format": format},
            "truncation": "disabled",
            "store": false,
            "background": false,
            "service_tier": "default",
            "previous_response_id": null,
        });
        if let Value::Object(numbers) = numbers {
            fields.extend(numbers);
        }
        let id = state.answer_id("resp_");
        Self { state, id, created: since_1970().as_secs(), fields }
    }

    /// Returns a name for an item.
    pub(super) fn item_id(&self, prefix: &str) -> String {
        self.state.answer_id(prefix)
    }

    /// Returns the object of an answer that is not over.
    pub(super) fn in_progress(&self) -> Value {
        self.object("in_progress", Vec::new(), None)
    }

    /// Returns the object of an answer that ended.
    pub(super) fn ended(&self, end: Option<&Ending>, output: Vec<Value>, usage: &Usage) -> Value {
        let is_cut_off = end.is_some_and(Ending::is_cut_off);
        let reasoning = end.map_or(0, |end| end.reasoning_tokens);
        let status = if is_cut_off { "incomplete" } else { "completed" };
        let mut object = self.object(status, output, Some(usage_of(usage, reasoning)));
        if is_cut_off {
            object["incomplete_details"] = json!({"reason": "max_output_tokens"});
        } else {
            object["completed_at"] = since_1970().as_secs().into();
        }
        object
    }

    /// Returns the object of an answer that failed.
    pub(super) fn failed(&self, error: &ApiError, output: Vec<Value>) -> Value {
        let mut object = self.object("failed", output, None);
        object["error"] = json!({"code": "server_error", "message": error.message});
        object
    }

    /// Returns a whole answer.
    pub(super) fn whole(&self, written: &Written) -> Value {
        let message = &written.message;
        let status = status(&written.end);
        let mut output = Vec::new();
        if let Some(text) = &message.reasoning_content {
            output.push(reasoning_item(&self.item_id("rs_"), Some(text), status));
        }
        if !message.content.is_empty() || message.tool_calls.is_empty() {
            output.push(message_item(&self.item_id("msg_"), Some(&message.content), status));
        }
        let calls = message.tool_calls.iter();
        output.extend(calls.map(|call| call_item(&self.item_id("fc_"), call, true)));
        self.ended(Some(&written.end), output, &written.usage)
    }

    fn object(&self, status: &str, output: Vec<Value>, usage: Option<Value>) -> Value {
        let mut object = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": null,
            "status": status,
            "error": null,
            "incomplete_details": null,
            "model": self.state.model_name,
            "output": output,
            "usage": usage,
        });
        if let Value::Object(object) = &mut object {
            object.extend(self.fields.clone());
        }
        object
    }
}

fn usage_of(usage: &Usage, reasoning_tokens: usize) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.written_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.written_tokens,
    })
}

/// Returns the status of an item that ended with the answer.
pub(super) fn status(end: &Ending) -> &'static str {
    if end.is_cut_off() { "incomplete" } else { "completed" }
}

pub(super) fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

pub(super) fn reasoning_part(text: &str) -> Value {
    json!({"type": "reasoning_text", "text": text})
}

/// Returns the item of a text; without its content while it is empty.
pub(super) fn message_item(id: &str, text: Option<&str>, status: &str) -> Value {
    let content: Vec<Value> = text.map(text_part).into_iter().collect();
    json!({"id": id, "type": "message", "role": "assistant", "status": status, "content": content})
}

pub(super) fn reasoning_item(id: &str, text: Option<&str>, status: &str) -> Value {
    let content: Vec<Value> = text.map(reasoning_part).into_iter().collect();
    json!({"id": id, "type": "reasoning", "status": status, "summary": [], "content": content})
}

/// Returns the item of a call; without its arguments while it is not `whole`.
pub(super) fn call_item(id: &str, call: &ToolCall, whole: bool) -> Value {
    json!({
        "id": id,
        "type": "function_call",
        "status": if whole { "completed" } else { "in_progress" },
        "call_id": call.id,
        "name": call.function.name,
        "arguments": if whole { call.function.arguments.as_str() } else { "" },
    })
}

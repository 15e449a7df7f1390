//! Items of the input as the messages of a conversation.

use std::collections::HashMap;

use bitnet_inference::chat::{FunctionCall, Message, ToolCall};
use serde_json::{Map, Value};

use crate::conversation::text_of;
use crate::error::ApiError;

/// Reads `instructions` and `input`. An empty input, which clients send to try a server, is an empty message.
pub(super) fn messages(body: &Map<String, Value>) -> Result<Vec<Message>, ApiError> {
    let mut messages = Messages::default();
    let instructions = text_of(body.get("instructions"), "instructions")?;
    if !instructions.is_empty() {
        messages.add("system", instructions);
    }
    match body.get("input") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => messages.add("user", text.clone()),
        Some(Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                messages.read(item, &format!("input[{index}]"))?;
            }
        }
        Some(_) => return Err(ApiError::field("input", "must be a text or a list of items")),
    }
    if messages.list.iter().all(|message| message.role == "system") {
        messages.add("user", String::new());
    }
    Ok(messages.list)
}

#[derive(Default)]
struct Messages {
    list: Vec<Message>,
    /// The functions of the calls by their ids.
    names: HashMap<String, String>,
}

impl Messages {
    /// Adds a message. Several system prompts at the beginning are one: templates take one.
    fn add(&mut self, role: &str, text: String) {
        if let [first] = &mut self.list[..]
            && first.role == "system"
            && role == "system"
        {
            first.content.push_str("\n\n");
            first.content.push_str(&text);
            return;
        }
        self.list.push(Message::new(role, text));
    }

    /// Returns the answer to which reasoning, text and calls in a row belong.
    fn answer(&mut self) -> &mut Message {
        if self.list.last().is_none_or(|last| last.role != "assistant") {
            self.list.push(Message::new("assistant", ""));
        }
        let last = self.list.len() - 1;
        &mut self.list[last]
    }

    fn read(&mut self, item: &Value, place: &str) -> Result<(), ApiError> {
        let text = |name: &str| -> Result<String, ApiError> {
            let text = item.get(name).and_then(Value::as_str).map(str::to_owned);
            text.ok_or_else(|| ApiError::field(place, format!("{name} must be a text")))
        };
        match item.get("type").and_then(Value::as_str) {
            None | Some("message") => self.read_message(item, place),
            Some("reasoning") => {
                if let Some(content) = item.get("content").and_then(Value::as_array) {
                    let parts = content.iter().filter_map(|part| part.get("text")?.as_str());
                    let reasoning: String = parts.collect();
                    self.answer().reasoning_content.get_or_insert_default().push_str(&reasoning);
                }
                Ok(())
            }
            Some("function_call") => {
                let (id, name) = (text("call_id")?, text("name")?);
                self.names.insert(id.clone(), name.clone());
                let function = FunctionCall { name, arguments: text("arguments")? };
                self.answer().tool_calls.push(ToolCall { id, function, ..ToolCall::default() });
                Ok(())
            }
            Some("function_call_output") => {
                let id = text("call_id")?;
                let name = self.names.get(&id).cloned();
                let output = Message::new("tool", text_of(item.get("output"), place)?);
                self.list.push(Message { tool_call_id: Some(id), name, ..output });
                Ok(())
            }
            Some(kind) => {
                let problem = format!("items of type {kind:?} are not supported");
                Err(ApiError::field(place, problem))
            }
        }
    }

    fn read_message(&mut self, item: &Value, place: &str) -> Result<(), ApiError> {
        if !item.get("content").is_some_and(|content| content.is_string() || content.is_array()) {
            return Err(ApiError::field(place, "content must be a text or a list of parts"));
        }
        let text = text_of(item.get("content"), place)?;
        match item.get("role").and_then(Value::as_str) {
            Some("user") => self.add("user", text),
            Some("system" | "developer") => self.add("system", text),
            Some("assistant") => {
                // What follows reasoning belongs to it; two answers in a row stay two.
                let is_new =
                    |last: &Message| !last.content.is_empty() || !last.tool_calls.is_empty();
                if self.list.last().is_some_and(is_new) {
                    self.add("assistant", text);
                } else {
                    self.answer().content = text;
                }
            }
            _ => {
                let problem = "role must be user, assistant, system or developer";
                return Err(ApiError::field(place, problem));
            }
        }
        Ok(())
    }
}

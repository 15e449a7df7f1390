//! Messages of blocks as the messages of a conversation.

use std::collections::HashMap;

use bitnet_inference::chat::{FunctionCall, Message, ToolCall};
use serde_json::{Map, Value, json};

use crate::conversation::{
    Conversation, check_tool_choice, message_list, text_of, text_of_part, tools_of,
};
use crate::error::ApiError;
use crate::request::check_model;
use crate::state::AppState;

/// Reads a conversation.
///
/// # Errors
/// An error that names the field of what is missing, wrong or not supported.
pub(super) fn conversation(
    body: &Map<String, Value>,
    state: &AppState,
) -> Result<Conversation, ApiError> {
    check_model(body)?;
    for name in ["mcp_servers", "container"] {
        if body.get(name).is_some_and(|value| !value.is_null() && *value != json!([])) {
            return Err(ApiError::field(name, "is not supported"));
        }
    }
    let mut conversation = Conversation::default();
    let system = system(body.get("system"))?;
    if !system.is_empty() {
        conversation.messages.push(Message::new("system", system));
    }
    let mut names = HashMap::new();
    for (index, message) in message_list(body)?.iter().enumerate() {
        let place = format!("messages[{index}]");
        match message.get("role").and_then(Value::as_str) {
            Some("user") => user(message, &place, &names, &mut conversation.messages)?,
            Some("assistant") => {
                conversation.messages.push(assistant(message, &place, &mut names)?);
            }
            Some("system") => {
                let text = text_of(message.get("content"), &place)?;
                conversation.messages.push(Message::new("system", text));
            }
            _ => {
                let problem = "role must be \"user\" or \"assistant\"";
                return Err(ApiError::field(&place, problem));
            }
        }
    }
    check_tool_choice(body.get("tool_choice"))?;
    let choice = body.get("tool_choice").and_then(|choice| choice.get("type"));
    if let Some(list) = body.get("tools").filter(|list| !list.is_null())
        && choice.and_then(Value::as_str) != Some("none")
    {
        conversation.options.tools = tools_of(tools(list)?)?;
    }
    let thinking = body.get("thinking").and_then(|thinking| thinking.get("type"));
    let thinking = match thinking.and_then(Value::as_str) {
        None => None,
        Some("disabled") => Some(false),
        Some("enabled" | "adaptive") => Some(true),
        Some(_) => {
            let problem = "type must be \"enabled\", \"adaptive\" or \"disabled\"";
            return Err(ApiError::field("thinking", problem));
        }
    };
    conversation.think(thinking, state, "thinking")?;
    conversation.continue_last_answer();
    Ok(conversation)
}

/// Returns the system prompt: a text, or blocks, each a paragraph.
fn system(system: Option<&Value>) -> Result<String, ApiError> {
    let Some(Value::Array(blocks)) = system else { return text_of(system, "system") };
    let texts = blocks.iter().map(|block| text_of_part(block, "system"));
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n\n"))
}

/// Returns the blocks of a message; a text is one block.
fn blocks(message: &Value, place: &str) -> Result<Vec<Value>, ApiError> {
    match message.get("content") {
        Some(Value::String(text)) => Ok(vec![json!({"type": "text", "text": text})]),
        Some(Value::Array(blocks)) => Ok(blocks.clone()),
        _ => Err(ApiError::field(place, "content must be a text or a list of blocks")),
    }
}

fn kind(block: &Value) -> &str {
    block.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn field<'a>(block: &'a Value, name: &str, place: &str) -> Result<&'a str, ApiError> {
    let text = block.get(name).and_then(Value::as_str);
    let missing =
        || ApiError::field(place, format!("a block of type {} has no {name}", kind(block)));
    text.ok_or_else(missing)
}

/// Reads what a user says: results of calls are messages of their own before the text.
fn user(
    message: &Value,
    place: &str,
    names: &HashMap<String, String>,
    messages: &mut Vec<Message>,
) -> Result<(), ApiError> {
    let blocks = blocks(message, place)?;
    let mut text = String::new();
    let mut has_text = false;
    for block in &blocks {
        if kind(block) != "tool_result" {
            text.push_str(text_of_part(block, place)?);
            has_text = true;
            continue;
        }
        let id = field(block, "tool_use_id", place)?;
        messages.push(Message {
            tool_call_id: Some(id.to_owned()),
            name: names.get(id).cloned(),
            ..Message::new("tool", text_of(block.get("content"), place)?)
        });
    }
    if has_text || blocks.is_empty() {
        messages.push(Message::new("user", text));
    }
    Ok(())
}

/// Reads what the model said.
fn assistant(
    message: &Value,
    place: &str,
    names: &mut HashMap<String, String>,
) -> Result<Message, ApiError> {
    let mut read = Message::new("assistant", "");
    for block in &blocks(message, place)? {
        match kind(block) {
            "thinking" => {
                let thinking = field(block, "thinking", place)?;
                read.reasoning_content.get_or_insert_default().push_str(thinking);
            }
            "redacted_thinking" => {}
            "tool_use" => {
                let (id, name) = (field(block, "id", place)?, field(block, "name", place)?);
                let input = match block.get("input") {
                    Some(input @ Value::Object(_)) => input.to_string(),
                    None | Some(Value::Null) => "{}".into(),
                    Some(_) => return Err(ApiError::field(place, "input must be an object")),
                };
                names.insert(id.to_owned(), name.to_owned());
                let function = FunctionCall { name: name.to_owned(), arguments: input };
                let call = ToolCall { id: id.to_owned(), function, ..ToolCall::default() };
                read.tool_calls.push(call);
            }
            _ => read.content.push_str(text_of_part(block, place)?),
        }
    }
    Ok(read)
}

/// Returns the tools as OpenAI's API has them.
fn tools(list: &Value) -> Result<Value, ApiError> {
    let list = list.as_array().ok_or_else(|| ApiError::field("tools", "must be a list"))?;
    let tool = |(index, tool): (usize, &Value)| {
        let place = format!("tools[{index}]");
        match tool.get("type").and_then(Value::as_str) {
            None | Some("custom") => {}
            Some(kind) => {
                let problem = format!("type {kind:?} is not supported; \"custom\" is");
                return Err(ApiError::field(&place, problem));
            }
        }
        let mut function = Map::new();
        for (name, of_openai) in
            [("name", "name"), ("description", "description"), ("input_schema", "parameters")]
        {
            let value = tool.get(name).filter(|value| !value.is_null());
            function.extend(value.map(|value| (of_openai.to_owned(), value.clone())));
        }
        Ok(json!({"type": "function", "function": function}))
    };
    list.iter().enumerate().map(tool).collect()
}

//! Options and messages of a request.

use std::collections::HashMap;

use bitnet_inference::chat::{Message, ToolCall};
use serde_json::{Map, Value, json};

use super::answer::{Route, line};
use crate::constraint;
use crate::conversation::{Conversation, answer_format, message_list, tools_of};
use crate::error::ApiError;
use crate::parameters::{Fields, Parameters, Spelling};
use crate::request::check_model;
use crate::state::AppState;

const SPELLINGS: &[Spelling] =
    &[("max_tokens", "num_predict"), ("repetition_penalty", "repeat_penalty")];

/// Samplers that are not there, with the value at which they do nothing.
const UNSUPPORTED: [(&str, f64); 2] = [("mirostat", 0.0), ("tfs_z", 1.0)];

/// Reads `options`, and the fields beside it that change the answer.
pub(super) fn parameters(
    body: &Map<String, Value>,
    state: &AppState,
) -> Result<Parameters, ApiError> {
    check_model(body)?;
    refuse(body, &["images"])?;
    let empty = Map::new();
    let options = match body.get("options") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(options)) => options,
        Some(_) => return Err(ApiError::field("options", "must be an object")),
    };
    let fields = Fields::new(options, SPELLINGS);
    for (name, without) in UNSUPPORTED {
        if fields.number(name)?.is_some_and(|value| f64::from(value) != without) {
            return Err(ApiError::field(name, "is not supported"));
        }
    }
    let context = state.engine.context();
    if fields.count("num_ctx", usize::MAX)?.is_some_and(|count| count > context) {
        let problem = format!("at most {context}, with which the server was started");
        return Err(ApiError::field("num_ctx", problem));
    }
    // -2 is all that the context holds, as is -1 here.
    let fills = fields.get("max_tokens") == Some(&json!(-2));
    let max_tokens = if fills { None } else { fields.tokens("max_tokens")? };
    let mut parameters = Parameters::of_one_answer(fields, state, max_tokens)?;
    if let Some(window) = fields.tokens("repeat_last_n")? {
        parameters.options.sampler.penalty_window = window;
    }
    parameters.follow(constraint::of_ollama(body.get("format"))?)?;
    parameters.logprobs = Fields::new(body, &[]).logprobs()?;
    Ok(parameters)
}

/// Refuses fields that can't be obeyed.
pub(super) fn refuse(body: &Map<String, Value>, names: &[&str]) -> Result<(), ApiError> {
    let is_set = |name: &&&str| body.get(**name).is_some_and(|value| !is_nothing(value));
    match names.iter().find(is_set) {
        Some(name) => Err(ApiError::field(name, "is not supported")),
        None => Ok(()),
    }
}

/// Whether a field has nothing to say: a request without messages or prompt asks for the model to be loaded.
pub(super) fn is_without(body: &Map<String, Value>, name: &str) -> bool {
    body.get(name).is_none_or(is_nothing)
}

fn is_nothing(value: &Value) -> bool {
    *value == Value::Null || *value == json!("") || *value == json!([])
}

/// Returns the answer to a request that asks for the model to be loaded, which it is, or unloaded, which it stays.
pub(super) fn load(state: &AppState, route: Route, body: &Map<String, Value>) -> Value {
    let is_unload = body.get("keep_alive").is_some_and(|value| *value == json!(0));
    let mut line = line(state, route, "", None);
    line["done"] = true.into();
    line["done_reason"] = if is_unload { "unload" } else { "load" }.into();
    line
}

/// Reads `messages`, `tools` and `think`.
pub(super) fn conversation(
    body: &Map<String, Value>,
    state: &AppState,
) -> Result<Conversation, ApiError> {
    let mut conversation = Conversation::default();
    let mut names = HashMap::new();
    for (index, message) in message_list(body)?.iter().enumerate() {
        let message = read(message, &format!("messages[{index}]"), &names)?;
        for call in &message.tool_calls {
            names.insert(call.id.clone(), call.function.name.clone());
        }
        conversation.messages.push(message);
    }
    if let Some(tools) = body.get("tools").filter(|tools| !is_nothing(tools)) {
        conversation.options.tools = tools_of(tools.clone())?;
    }
    think(&mut conversation, body, state)?;
    conversation.continue_last_answer();
    Ok(conversation)
}

fn read(
    message: &Value,
    place: &str,
    names: &HashMap<String, String>,
) -> Result<Message, ApiError> {
    let text = |name: &str| match message.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ApiError::field(place, format!("{name} must be a text"))),
    };
    let role = text("role")?.ok_or_else(|| ApiError::field(place, "role must be a text"))?;
    if message.get("images").is_some_and(|images| !is_nothing(images)) {
        return Err(ApiError::field(place, "images are not supported"));
    }
    let calls = message.get("tool_calls").filter(|calls| !calls.is_null()).cloned();
    let calls: Vec<ToolCall> = calls
        .map_or(Ok(Vec::new()), serde_json::from_value)
        .map_err(|error| ApiError::field(place, format!("tool_calls: {error}")))?;
    let id = text("tool_call_id")?;
    let name = match text("tool_name")? {
        None => id.as_ref().and_then(|id| names.get(id)).cloned(),
        name => name,
    };
    Ok(Message {
        role,
        content: text("content")?.unwrap_or_default(),
        reasoning_content: text("thinking")?.filter(|text| !text.is_empty()),
        tool_calls: calls,
        tool_call_id: id,
        name,
    })
}

/// Reads `think`: true, false, or how much.
pub(super) fn think(
    conversation: &mut Conversation,
    body: &Map<String, Value>,
    state: &AppState,
) -> Result<(), ApiError> {
    let wanted = match body.get("think") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Bool(wanted)) => *wanted,
        Some(Value::String(level)) if ["low", "medium", "high"].contains(&level.as_str()) => true,
        Some(_) => {
            let problem = "must be true, false, \"low\", \"medium\" or \"high\"";
            return Err(ApiError::field("think", problem));
        }
    };
    if wanted && answer_format(state).reasoning.is_none() {
        let problem = format!("{:?} does not support thinking", state.model_name);
        return Err(ApiError::field("think", problem));
    }
    conversation.think(Some(wanted), state, "think")
}

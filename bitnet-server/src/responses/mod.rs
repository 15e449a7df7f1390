//! OpenAI's route `/v1/responses`, without a memory of earlier answers.

mod items;
mod object;
mod stream;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Map, Value, json};

use self::object::Answer;
use self::stream::Items;
use crate::access::Client;
use crate::constraint::of_format;
use crate::conversation::{Conversation, check_tool_choice, tools_of};
use crate::error::ApiError;
use crate::parameters::{Fields, Parameters, Spelling};
use crate::request::{answer, check_model, object};
use crate::state::AppState;
use crate::stream::sse;

const SPELLINGS: &[Spelling] = &[("max_tokens", "max_output_tokens")];

/// `POST /v1/responses`.
pub(crate) async fn responses(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let body = object(&body)?;
    check(&body)?;
    let fields = Fields::new(&body, SPELLINGS);
    let max_tokens = fields.tokens("max_tokens")?;
    let mut parameters = Parameters::of_one_answer(fields, &state, max_tokens)?;
    let format = body.get("text").and_then(|text| text.get("format"));
    parameters.follow(of_format("text.format", format)?)?;
    let stream = fields.flag("stream")?.unwrap_or(false);
    let conversation = conversation(&body, &state)?;
    let (writing, _) = answer(&state, client, &parameters, conversation).await?;
    let answer = Answer::new(state, body, &parameters);
    if stream {
        return Ok(sse(writing, Items::new(answer), None));
    }
    let written = writing.whole().await?;
    Ok(Json(answer.whole(&written)).into_response())
}

/// Refuses what would need a memory, and what changes the answer in a way that can't be obeyed.
fn check(body: &Map<String, Value>) -> Result<(), ApiError> {
    check_model(body)?;
    for name in ["previous_response_id", "conversation", "prompt"] {
        if body.get(name).is_some_and(|value| !value.is_null()) {
            let problem = "is not supported: this server keeps no answers; send the whole input";
            return Err(ApiError::field(name, problem));
        }
    }
    if body.get("background") == Some(&json!(true)) {
        return Err(ApiError::field("background", "true is not supported"));
    }
    if body.get("truncation").is_some_and(|value| !value.is_null() && value != "disabled") {
        return Err(ApiError::field("truncation", "only \"disabled\" is supported"));
    }
    if body.get("top_logprobs").and_then(Value::as_u64).is_some_and(|count| count > 0) {
        return Err(ApiError::field("top_logprobs", "is not supported here"));
    }
    check_tool_choice(body.get("tool_choice"))
}

fn conversation(body: &Map<String, Value>, state: &AppState) -> Result<Conversation, ApiError> {
    let mut conversation = Conversation { messages: items::messages(body)?, ..Default::default() };
    let choice = body.get("tool_choice").and_then(Value::as_str);
    if let Some(list) = body.get("tools").filter(|list| !list.is_null() && choice != Some("none")) {
        conversation.options.tools = tools_of(functions(list)?)?;
    }
    let effort = body.get("reasoning").and_then(|reasoning| reasoning.get("effort"));
    let thinking = effort.and_then(Value::as_str).map(|effort| effort != "none");
    conversation.think(thinking, state, "reasoning.effort")?;
    Ok(conversation)
}

/// Returns the functions among the tools as the chat API has them. Tools of other types run at OpenAI; clients name them
/// to every server.
fn functions(list: &Value) -> Result<Value, ApiError> {
    let list = list.as_array().ok_or_else(|| ApiError::field("tools", "must be a list"))?;
    let functions = list.iter().filter(|tool| tool.get("type") == Some(&json!("function")));
    let function = |tool: &Value| {
        let mut function = Map::new();
        for name in ["name", "description", "parameters", "strict"] {
            let value = tool.get(name).filter(|value| !value.is_null());
            function.extend(value.map(|value| (name.to_owned(), value.clone())));
        }
        json!({"type": "function", "function": function})
    };
    Ok(functions.map(function).collect())
}

//! Anthropic's routes: `/v1/messages` and `/v1/messages/count_tokens`.

mod answer;
mod request;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use self::answer::Blocks;
use crate::access::Client;
use crate::constraint::of_format;
use crate::error::ApiError;
use crate::parameters::{Fields, Parameters, Spelling};
use crate::request::{answer, object};
use crate::state::AppState;
use crate::stream::sse;

const SPELLINGS: &[Spelling] = &[("stop", "stop_sequences")];

/// `POST /v1/messages`.
pub(crate) async fn messages(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let body = object(&body)?;
    let fields = Fields::new(&body, SPELLINGS);
    let max_tokens = fields.count("max_tokens", usize::MAX)?.filter(|&count| count > 0);
    let missing = || ApiError::field("max_tokens", "must be a whole number, 1 or more");
    let max_tokens = max_tokens.ok_or_else(missing)?;
    let config = fields.get("output_config").and_then(|config| config.get("format"));
    let mut parameters = Parameters::of_one_answer(fields, &state, Some(max_tokens))?;
    parameters.follow(of_format("output_format", fields.get("output_format"))?)?;
    parameters.follow(of_format("output_config.format", config)?)?;
    let stream = fields.flag("stream")?.unwrap_or(false);
    let conversation = request::conversation(&body, &state)?;
    let (writing, prompt) = answer(&state, client, &parameters, conversation).await?;
    let id = state.answer_id("msg_");
    if stream {
        let ping = Event::default().event("ping").data(r#"{"type":"ping"}"#);
        return Ok(sse(writing, Blocks::new(state, id, prompt), Some(ping)));
    }
    let written = writing.whole().await?;
    Ok(Json(answer::message(&state, &id, &written)).into_response())
}

/// `POST /v1/messages/count_tokens`.
pub(crate) async fn count_tokens(
    State(state): State<AppState>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let conversation = request::conversation(&object(&body)?, &state)?;
    let prompt = conversation.prompt(&state).await?;
    Ok(Json(json!({"input_tokens": prompt.tokens.len()})))
}

//! Ollama's routes for texts: `/api/chat` and `/api/generate`, and those that would change models, which are refused.

mod answer;
mod embed;
mod models;
mod request;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bitnet_inference::chat::Message;
use serde_json::{Map, Value};

use self::answer::{Lines, Route};
pub(crate) use self::embed::{embed, embeddings};
pub(crate) use self::models::{ps, show, tags, version};
use self::request::{load, parameters, think};
use crate::access::Client;
use crate::conversation::Conversation;
use crate::error::ApiError;
use crate::parameters::{Fields, Parameters};
use crate::request::{answer, blocking, object, write};
use crate::state::AppState;
use crate::stream::lines;
use crate::writing::Writing;

/// `POST /api/chat`.
pub(crate) async fn chat(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let body = object(&body)?;
    let parameters = parameters(&body, &state)?;
    if request::is_without(&body, "messages") {
        return Ok(Json(load(&state, Route::Chat, &body)).into_response());
    }
    let conversation = request::conversation(&body, &state)?;
    let (writing, _) = answer(&state, client, &parameters, conversation).await?;
    respond(state, &body, Route::Chat, writing).await
}

/// `POST /api/generate`: the answer to a prompt, or its continuation where the model has no chat template.
pub(crate) async fn generate(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let body = object(&body)?;
    let parameters = parameters(&body, &state)?;
    request::refuse(&body, &["suffix", "template", "context"])?;
    if request::is_without(&body, "prompt") {
        return Ok(Json(load(&state, Route::Generate, &body)).into_response());
    }
    let text = |name: &'static str| match body.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(ApiError::field(name, "must be a text")),
    };
    let (prompt, system) = (text("prompt")?, text("system")?);
    let is_raw = Fields::new(&body, &[]).flag("raw")?.unwrap_or(false);
    let writing = if is_raw || state.model().template().is_none() {
        if !system.is_empty() {
            return Err(ApiError::field("system", "needs a model with a chat template"));
        }
        continuation(&state, client, &parameters, prompt).await?
    } else {
        let mut conversation = Conversation::default();
        if !system.is_empty() {
            conversation.messages.push(Message::new("system", system));
        }
        conversation.messages.push(Message::new("user", prompt));
        think(&mut conversation, &body, &state)?;
        answer(&state, client, &parameters, conversation).await?.0
    };
    respond(state, &body, Route::Generate, writing).await
}

async fn continuation(
    state: &AppState,
    client: Client,
    parameters: &Parameters,
    prompt: String,
) -> Result<Writing, ApiError> {
    let model = state.clone();
    let tokens = blocking(move || Ok(model.model().encode_prompt(&prompt)?)).await?;
    Ok(write(state, client, parameters, tokens, None).await?.0)
}

async fn respond(
    state: AppState,
    body: &Map<String, Value>,
    route: Route,
    writing: Writing,
) -> Result<Response, ApiError> {
    if Fields::new(body, &[]).flag("stream")?.unwrap_or(true) {
        return Ok(lines(writing, Lines::new(state, route)));
    }
    let written = writing.whole().await?;
    Ok(Json(answer::whole(&state, route, &written)).into_response())
}

/// The routes that would change which models there are.
pub(crate) async fn refuse_change() -> ApiError {
    let message = "this server serves one model and changes none";
    ApiError::new(StatusCode::FORBIDDEN, message)
}

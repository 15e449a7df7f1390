//! Routes beside OpenAI's texts: health, models, tokens, and what tools read of a server.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use bitnet_inference::chat::ChatOptions;
use bitnet_inference::tokenizer::EncodeOptions;
use serde_json::{Map, Value, json};

use crate::conversation::messages;
use crate::error::ApiError;
use crate::request::{blocking, object};
use crate::state::AppState;

/// The process runs, and its engine does not hang.
pub(crate) async fn live(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    if state.watch.is_alive() {
        return Ok(Json(json!({"status": "ok"})));
    }
    let message = "the engine makes no steps; restart the server";
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message))
}

/// Requests are taken.
pub(crate) async fn ready(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    if state.engine.is_open() {
        return Ok(Json(json!({"status": "ok"})));
    }
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down"))
}

fn model_object(state: &AppState) -> Value {
    json!({
        "id": state.model_name,
        "object": "model",
        "created": state.created,
        "owned_by": "bitnet",
        "meta": {
            "n_ctx": state.engine.context(),
            "n_vocab": state.model().config().vocab_size,
        },
    })
}

/// The models: the one that is served.
pub(crate) async fn models(State(state): State<AppState>) -> Json<Value> {
    Json(json!({"object": "list", "data": [model_object(&state)]}))
}

/// One model.
pub(crate) async fn model(
    State(state): State<AppState>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    if name == state.model_name {
        return Ok(Json(model_object(&state)));
    }
    let message = format!("there is no model {name:?}; {:?} is served", state.model_name);
    Err(ApiError { code: Some("model_not_found"), ..ApiError::new(StatusCode::NOT_FOUND, message) })
}

/// What tools read of a server: the context, the defaults, the chat template.
pub(crate) async fn props(State(state): State<AppState>) -> Json<Value> {
    let defaults = state.model().default_sampling();
    let model = state.model();
    let template = model.template().and_then(Result::ok).map(|template| template.source());
    Json(json!({
        "default_generation_settings": {
            "n_ctx": state.engine.context(),
            "params": {
                "temperature": defaults.temperature,
                "top_k": defaults.top_k,
                "top_p": defaults.top_p,
                "min_p": defaults.min_p,
            },
        },
        "total_slots": state.engine.max_sequences(),
        "model_path": model.facts().file,
        "chat_template": template,
    }))
}

/// `{"content": TEXT, "add_special": false, "parse_special": true}` to `{"tokens": [...]}`.
pub(crate) async fn tokenize(
    State(state): State<AppState>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body = object(&body)?;
    let text = text_field(&body, "content")?;
    let flag = |name: &str, default| body.get(name).and_then(Value::as_bool).unwrap_or(default);
    let options = EncodeOptions {
        add_special: flag("add_special", false),
        parse_special: flag("parse_special", true),
    };
    let tokens = blocking(move || {
        let tokenizer = state.tokenizer()?;
        Ok(tokenizer.encode(&text, options).map_err(bitnet_inference::InferenceError::from)?)
    });
    Ok(Json(json!({"tokens": tokens.await?})))
}

/// `{"tokens": [...]}` to `{"content": TEXT}`.
pub(crate) async fn detokenize(
    State(state): State<AppState>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body = object(&body)?;
    let tokens = body.get("tokens").and_then(Value::as_array);
    let tokens = tokens.ok_or_else(|| ApiError::field("tokens", "must be a list of tokens"))?;
    let tokens: Option<Vec<u32>> = tokens
        .iter()
        .map(|token| token.as_u64().and_then(|token| u32::try_from(token).ok()))
        .collect();
    let tokens = tokens.ok_or_else(|| ApiError::field("tokens", "must be a list of tokens"))?;
    let text = blocking(move || {
        let tokenizer = state.tokenizer()?;
        Ok(tokenizer.decode(&tokens, false).map_err(bitnet_inference::InferenceError::from)?)
    });
    Ok(Json(json!({"content": text.await?})))
}

/// `{"messages": [...]}` to `{"prompt": TEXT}`.
pub(crate) async fn apply_template(
    State(state): State<AppState>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let messages = messages(&object(&body)?)?;
    let prompt =
        blocking(move || Ok(state.model().render_chat(&messages, &ChatOptions::default())?));
    Ok(Json(json!({"prompt": prompt.await?})))
}

fn text_field(body: &Map<String, Value>, name: &str) -> Result<String, ApiError> {
    let text = body.get(name).and_then(Value::as_str);
    text.map(str::to_owned).ok_or_else(|| ApiError::field(name, "must be a text"))
}

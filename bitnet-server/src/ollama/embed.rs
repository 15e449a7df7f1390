//! Embeddings of texts: `/api/embed`, and the older `/api/embeddings`.

use std::time::Instant;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use bitnet_inference::EmbedOptions;
use serde_json::{Value, json};

use crate::embeddings::{MAX_TEXTS, check_dimensions};
use crate::error::ApiError;
use crate::parameters::Fields;
use crate::request::{Input, check_model, inputs, object};
use crate::state::AppState;

/// `POST /api/embed`: of texts that are too long the end is left out, unless `truncate` is false.
pub(crate) async fn embed(
    State(state): State<AppState>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let start = Instant::now();
    let body = object(&body)?;
    check_model(&body)?;
    check_dimensions(&body, &state)?;
    let truncate = Fields::new(&body, &[]).flag("truncate")?.unwrap_or(true);
    let texts = inputs(&body, "input", MAX_TEXTS)?;
    if texts.iter().any(|text| matches!(text, Input::Tokens(_))) {
        return Err(ApiError::field("input", "must be a text or a list of texts"));
    }
    let options = EmbedOptions { truncate, ..EmbedOptions::default() };
    let found = crate::embeddings::embed(&state, texts, &options).await?;
    Ok(Json(json!({
        "model": state.model_name,
        "embeddings": found.vectors,
        "total_duration": u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
        "load_duration": 0,
        "prompt_eval_count": found.tokens,
    })))
}

/// `POST /api/embeddings`: one vector, not divided by its length.
pub(crate) async fn embeddings(
    State(state): State<AppState>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body = object(&body)?;
    check_model(&body)?;
    let text = body.get("prompt").and_then(Value::as_str);
    let text = text.ok_or_else(|| ApiError::field("prompt", "must be a text"))?;
    let options = EmbedOptions { truncate: true, normalize: false, ..EmbedOptions::default() };
    let texts = vec![Input::Text(text.to_owned())];
    let found = crate::embeddings::embed(&state, texts, &options).await?;
    Ok(Json(json!({"embedding": found.vectors.first()})))
}

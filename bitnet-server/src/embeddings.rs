//! Embeddings of texts, of models that are made for it, and OpenAI's route `/v1/embeddings`.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bitnet_inference::{EmbedOptions, InferenceError, Pooling};
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use crate::error::ApiError;
use crate::parameters::Fields;
use crate::request::{Input, blocking, inputs, object};
use crate::state::AppState;

/// Texts of one request, at most; as many as at OpenAI.
pub(crate) const MAX_TEXTS: usize = 2048;
/// Texts that are read at a time, after which a client that went away is noticed.
const TOGETHER: usize = 8;
/// Requests that may wait, and how long those beyond them are told to.
const MAX_WAITING: usize = 512;
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// One request computes at a time; the others wait in the order in which they came.
#[derive(Debug)]
pub(crate) struct Turns {
    waiting: Semaphore,
    turn: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self { waiting: Semaphore::new(MAX_WAITING), turn: Semaphore::new(1) }
    }
}

/// Vectors, and the tokens that were read for them.
#[derive(Debug, Default)]
pub(crate) struct Embedded {
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) tokens: usize,
}

/// Whether the model is made for embeddings: it has no head, or its files say how states become vectors.
pub(crate) fn is_for_embeddings(state: &AppState) -> bool {
    let model = state.model();
    let names_pooling = |settings: &bitnet_inference::EmbeddingSettings| settings.pooling.is_some();
    !model.config().has_head || model.embedding_settings().is_ok_and(names_pooling)
}

/// Embeds texts.
///
/// # Errors
/// An error of status 400 if the model is not made for it, or refuses a text; 429 if too many requests wait.
pub(crate) async fn embed(
    state: &AppState,
    texts: Vec<Input>,
    options: &EmbedOptions,
) -> Result<Embedded, ApiError> {
    if !is_for_embeddings(state) {
        let message = format!("{:?} is no model for embeddings", state.model_name);
        return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
    }
    let shutting_down =
        |_| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down");
    let _place = state.turns.waiting.try_acquire().map_err(|_| {
        let message = format!("{MAX_WAITING} requests wait already; try again later");
        let retry_after = Some(RETRY_AFTER.as_secs());
        ApiError { retry_after, ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, message) }
    })?;
    let _turn = state.turns.turn.acquire().await.map_err(shutting_down)?;
    let limit = state.engine.context().min(state.model().config().full_context());
    let options = EmbedOptions { max_tokens: Some(limit), ..options.clone() };
    let mut all = Embedded::default();
    let mut texts = texts.into_iter().peekable();
    while texts.peek().is_some() {
        let some: Vec<Input> = texts.by_ref().take(TOGETHER).collect();
        let (state, options) = (state.clone(), options.clone());
        let found = blocking(move || embed_some(&state, &some, &options)).await?;
        all.tokens += found.tokens;
        all.vectors.extend(found.vectors);
    }
    Ok(all)
}

fn embed_some(
    state: &AppState,
    texts: &[Input],
    options: &EmbedOptions,
) -> Result<Embedded, ApiError> {
    let model = state.model();
    let mut all = Embedded::default();
    for text in texts {
        match text {
            Input::Text(text) => {
                for embedding in model.embed(&[text], options)? {
                    all.tokens += embedding.tokens;
                    all.vectors.push(embedding.values);
                }
            }
            Input::Tokens(tokens) => {
                check_tokens(state, tokens, options.max_tokens.unwrap_or(0))?;
                let pooling = model.embedding_settings()?.pooling.unwrap_or(Pooling::Mean);
                all.vectors.extend(model.embed_tokens(&[tokens], pooling, options.normalize)?);
                all.tokens += tokens.len();
            }
        }
    }
    Ok(all)
}

fn check_tokens(state: &AppState, tokens: &[u32], limit: usize) -> Result<(), ApiError> {
    let vocab_size = state.model().config().vocab_size;
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
        let problem = format!("token {token} is not in the vocabulary of {vocab_size}");
        return Err(ApiError::field("input", problem));
    }
    if tokens.len() > limit {
        return Err(InferenceError::Resource {
            what: "tokens of a text",
            used: tokens.len(),
            limit,
            advice: "shorten it",
        }
        .into());
    }
    Ok(())
}

/// Refuses vectors of another length than the model's.
pub(crate) fn check_dimensions(
    body: &Map<String, Value>,
    state: &AppState,
) -> Result<(), ApiError> {
    let hidden = state.model().config().hidden;
    match Fields::new(body, &[]).count("dimensions", usize::MAX)? {
        Some(count) if count != hidden => {
            let problem = format!("only {hidden}, the length of the model's vectors, is supported");
            Err(ApiError::field("dimensions", problem))
        }
        _ => Ok(()),
    }
}

/// `POST /v1/embeddings`.
pub(crate) async fn embeddings(
    State(state): State<AppState>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body = object(&body)?;
    check_dimensions(&body, &state)?;
    let is_base64 = match body.get("encoding_format").filter(|value| !value.is_null()) {
        None => false,
        Some(format) if format == "float" => false,
        Some(format) if format == "base64" => true,
        Some(_) => {
            let problem = "must be \"float\" or \"base64\"";
            return Err(ApiError::field("encoding_format", problem));
        }
    };
    let texts = inputs(&body, "input", MAX_TEXTS)?;
    let found = embed(&state, texts, &EmbedOptions::default()).await?;
    let items = found.vectors.iter().enumerate().map(|(index, vector)| {
        let value = if is_base64 { base64_of(vector).into() } else { json!(vector) };
        json!({"object": "embedding", "index": index, "embedding": value})
    });
    Ok(Json(json!({
        "object": "list",
        "data": items.collect::<Vec<_>>(),
        "model": state.model_name,
        "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
    })))
}

/// Returns the little-endian bytes of a vector's numbers.
fn base64_of(vector: &[f32]) -> String {
    STANDARD.encode(vector.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())
}

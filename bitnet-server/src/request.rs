//! From the body of a request to the engine.

use axum::body::Bytes;
use axum::http::StatusCode;
use bitnet_inference::chat::AnswerParser;
use bitnet_inference::engine::{Request, Response};
use serde_json::{Map, Value};

use crate::access::Client;
use crate::constraint;
use crate::conversation::{Conversation, Prompt};
use crate::error::ApiError;
use crate::parameters::Parameters;
use crate::state::AppState;
use crate::writing::Writing;

/// Runs work that takes a while, as rendering and tokenizing do, beside the connections.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        let message = "internal error: the request could not be prepared";
        Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message))
    })
}

/// Returns the JSON object of a request.
pub(crate) fn object(body: &Bytes) -> Result<Map<String, Value>, ApiError> {
    let value = serde_json::from_slice(body).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, format!("the request is not JSON: {error}"))
    })?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(ApiError::new(StatusCode::BAD_REQUEST, "the request must be a JSON object")),
    }
}

/// Checks that a request names a model, where its API wants that. Which one is no matter: one is served.
pub(crate) fn check_model(body: &Map<String, Value>) -> Result<(), ApiError> {
    match body.get("model") {
        Some(Value::String(_)) => Ok(()),
        _ => Err(ApiError::field("model", "must be a text")),
    }
}

/// Gives a prompt to the engine.
pub(crate) fn submit(
    state: &AppState,
    client: Client,
    parameters: &Parameters,
    prompt: Vec<u32>,
) -> Result<Response, ApiError> {
    let request = Request {
        choices: parameters.choices,
        logprobs: parameters.logprobs,
        prompt_logprobs: parameters.logprobs.filter(|_| parameters.echo),
        client: client.0,
        group: client.0,
        ..Request::new(prompt, parameters.options.clone())
    };
    Ok(state.engine.submit(request)?)
}

/// Asks for one answer in a conversation. Returns it as it will be written, and the tokens of its prompt.
pub(crate) async fn answer(
    state: &AppState,
    client: Client,
    parameters: &Parameters,
    conversation: Conversation,
) -> Result<(Writing, usize), ApiError> {
    let Prompt { tokens, parser } = conversation.prompt(state).await?;
    write(state, client, parameters, tokens, Some(parser)).await
}

/// Asks for one text after a prompt, which `parser` takes apart.
pub(crate) async fn write(
    state: &AppState,
    client: Client,
    parameters: &Parameters,
    prompt: Vec<u32>,
    parser: Option<AnswerParser>,
) -> Result<(Writing, usize), ApiError> {
    let len = prompt.len();
    let parameters = constraint::compiled(state, parameters, parser.as_ref()).await?;
    let response = submit(state, client, &parameters, prompt)?;
    Ok((Writing::new(vec![response], 1, parser.as_ref()), len))
}

/// A text, or its tokens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Input {
    Text(String),
    Tokens(Vec<u32>),
}

/// Returns the texts of a field, at most `most`: a text, a list of texts, tokens, or lists of tokens.
pub(crate) fn inputs(
    body: &Map<String, Value>,
    field: &str,
    most: usize,
) -> Result<Vec<Input>, ApiError> {
    let wrong = || {
        let problem = "must be a text, a list of texts, a list of tokens, or a list of such lists";
        ApiError::field(field, problem)
    };
    let tokens = |value: &Value| -> Option<Vec<u32>> {
        let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
        value.as_array()?.iter().map(token).collect()
    };
    let one = |value: &Value| match value {
        Value::String(text) => Ok(Input::Text(text.clone())),
        list => tokens(list).filter(|t| !t.is_empty()).map(Input::Tokens).ok_or_else(wrong),
    };
    match body.get(field).ok_or_else(wrong)? {
        Value::Array(list) if list.first().is_some_and(|first| !first.is_number()) => {
            if list.len() > most {
                return Err(ApiError::field(field, format!("at most {most} texts")));
            }
            list.iter().map(one).collect()
        }
        value => Ok(vec![one(value)?]),
    }
}

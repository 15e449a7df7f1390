//! Errors, each in the shape that the clients of its API read.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bitnet_inference::InferenceError;
use bitnet_inference::engine::EngineError;
use serde_json::{Value, json};

use crate::state::AppState;

/// A request that can't be answered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// The field of the request, as the client spells it.
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
    /// Seconds after which another attempt makes sense.
    pub(crate) retry_after: Option<u64>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// A field that is missing, or has a value out of range.
    pub(crate) fn field(param: &str, problem: impl std::fmt::Display) -> Self {
        let message = format!("{param}: {problem}");
        Self { param: Some(param.to_owned()), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// The type of the error, as OpenAI and Anthropic call it.
    fn kind(&self, api: Api) -> &'static str {
        match (self.status, api) {
            (StatusCode::UNAUTHORIZED, _) => "authentication_error",
            (StatusCode::FORBIDDEN, _) => "permission_error",
            (StatusCode::NOT_FOUND, _) => "not_found_error",
            (StatusCode::TOO_MANY_REQUESTS, _) => "rate_limit_error",
            (StatusCode::PAYLOAD_TOO_LARGE, Api::Anthropic) => "request_too_large",
            (StatusCode::SERVICE_UNAVAILABLE, Api::Anthropic) => "overloaded_error",
            (status, Api::Anthropic) if status.is_server_error() => "api_error",
            (status, _) if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body; `request_id` is Anthropic's.
    pub(crate) fn body(&self, api: Api, request_id: Option<&str>) -> Value {
        match api {
            Api::OpenAi => json!({"error": {
                "message": self.message,
                "type": self.kind(api),
                "param": self.param,
                "code": self.code,
            }}),
            Api::Anthropic => json!({
                "type": "error",
                "error": {"type": self.kind(api), "message": self.message},
                "request_id": request_id,
            }),
            Api::Ollama => json!({"error": self.message}),
        }
    }

    fn response(&self, api: Api, request_id: Option<&str>) -> Response {
        let mut response = (self.status, Json(self.body(api, request_id))).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Whose API a route belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    OpenAi,
    Anthropic,
    Ollama,
}

impl Api {
    fn of_path(path: &str) -> Self {
        match path {
            "/v1/messages" => Self::Anthropic,
            path if path.starts_with("/v1/messages/") => Self::Anthropic,
            path if path.starts_with("/api/") => Self::Ollama,
            _ => Self::OpenAi,
        }
    }
}

/// Gives errors the shape of the route's API, and Anthropic's answers their `request-id`.
pub(crate) async fn shape(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let api = Api::of_path(request.uri().path());
    let id = (api == Api::Anthropic).then(|| state.answer_id("req_"));
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = error.response(api, id.as_deref());
    }
    if let Some(id) = id.and_then(|id| HeaderValue::try_from(id).ok()) {
        response.headers_mut().insert("request-id", id);
    }
    response
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.response(Api::OpenAi, None);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<InferenceError> for ApiError {
    fn from(error: InferenceError) -> Self {
        let param = match &error {
            InferenceError::Parameter { parameter, .. } => Some((*parameter).to_owned()),
            InferenceError::Template(_) => Some("messages".into()),
            InferenceError::Tools(_) => Some("tools".into()),
            _ => None,
        };
        let status = match &error {
            InferenceError::Parameter { .. }
            | InferenceError::Template(_)
            | InferenceError::Tools(_)
            | InferenceError::Tokenizer(_)
            | InferenceError::Resource { .. }
            | InferenceError::UnsupportedOperation { .. } => StatusCode::BAD_REQUEST,
            // The model can't answer so, and would not at another attempt.
            InferenceError::Constraint(_) => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { param, ..Self::new(status, error.to_string()) }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = error.to_string();
        let unavailable = Self::new(StatusCode::SERVICE_UNAVAILABLE, message.clone());
        match error {
            EngineError::QueueFull { retry_after, .. } => Self {
                retry_after: Some(retry_after.as_secs().max(1)),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, message)
            },
            EngineError::ContextLength { .. } => Self {
                code: Some("context_length_exceeded"),
                param: Some("messages".into()),
                ..Self::new(StatusCode::BAD_REQUEST, message)
            },
            EngineError::Late { .. } | EngineError::OutOfMemory { .. } => {
                Self { retry_after: Some(5), ..unavailable }
            }
            EngineError::ShuttingDown => unavailable,
            EngineError::Inference(error) => error.into(),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message),
        }
    }
}

//! Errors in the shape that OpenAI's clients read.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bitnet_inference::InferenceError;
use bitnet_inference::engine::EngineError;
use serde_json::{Value, json};

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

    /// The type of the error, as OpenAI calls it.
    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body: `{"error": {...}}`.
    pub(crate) fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind(),
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
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

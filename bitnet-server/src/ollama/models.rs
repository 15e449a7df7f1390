//! What there is: the version, and the model that is served.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use bitnet_inference::chat::CallSyntax;
use serde_json::{Map, Value, json};

use super::answer::time;
use crate::conversation::answer_format;
use crate::embeddings::is_for_embeddings;
use crate::error::ApiError;
use crate::request::object;
use crate::state::AppState;

/// `GET /api/version`.
pub(crate) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// `GET /api/tags`.
pub(crate) async fn tags(State(state): State<AppState>) -> Json<Value> {
    Json(json!({"models": [entry(&state)]}))
}

/// `GET /api/ps`.
pub(crate) async fn ps(State(state): State<AppState>) -> Json<Value> {
    let mut entry = entry(&state);
    entry["size_vram"] = 0.into();
    entry["context_length"] = state.engine.context().into();
    Json(json!({"models": [entry]}))
}

/// Returns the model as lists have it; its size is what it takes in memory.
fn entry(state: &AppState) -> Value {
    json!({
        "name": state.model_name,
        "model": state.model_name,
        "modified_at": time(state.created),
        "size": state.model().memory_stats().live,
        "details": details(state),
    })
}

fn details(state: &AppState) -> Value {
    let facts = state.model().facts();
    let format = facts.container.split(' ').next().unwrap_or_default().to_lowercase();
    json!({"format": format, "family": facts.architecture, "families": [facts.architecture]})
}

/// `POST /api/show`.
pub(crate) async fn show(
    State(state): State<AppState>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body = object(&body)?;
    let name = body.get("model").or_else(|| body.get("name")).and_then(Value::as_str);
    let name = name.ok_or_else(|| ApiError::field("model", "must be a text"))?;
    if name.strip_suffix(":latest").unwrap_or(name) != state.model_name {
        let message = format!("model {name:?} not found; {:?} is served", state.model_name);
        return Err(ApiError::new(StatusCode::NOT_FOUND, message));
    }
    let model = state.model();
    let (config, facts, sampling) = (model.config(), model.facts(), model.default_sampling());
    let template = model.template().and_then(Result::ok).map_or("", |template| template.source());
    let format = answer_format(&state);
    let mut capabilities = Vec::new();
    capabilities.extend(config.has_head.then_some("completion"));
    capabilities.extend(is_for_embeddings(&state).then_some("embedding"));
    capabilities.extend((format.calls != CallSyntax::None).then_some("tools"));
    capabilities.extend(format.reasoning.map(|_| "thinking"));
    let mut info = Map::new();
    info.insert("general.architecture".into(), facts.architecture.clone().into());
    for (key, value) in [
        ("context_length", state.engine.context()),
        ("embedding_length", config.hidden),
        ("block_count", config.layers),
        ("feed_forward_length", config.intermediate),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
        ("vocab_size", config.vocab_size),
    ] {
        info.insert(format!("{}.{key}", facts.architecture), value.into());
    }
    Ok(Json(json!({
        "template": template,
        "parameters": format!(
            "temperature {}\ntop_k {}\ntop_p {}",
            sampling.temperature, sampling.top_k, sampling.top_p
        ),
        "details": details(&state),
        "model_info": info,
        "capabilities": capabilities,
        "modified_at": time(state.created),
    })))
}

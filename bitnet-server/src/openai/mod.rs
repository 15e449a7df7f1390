//! OpenAI's routes: a request in, texts of the engine out, whole or as a stream of events.

mod answer;
mod parameters;
mod stream;

use std::sync::Arc;

use axum::Extension;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bitnet_inference::InferenceError;
use bitnet_inference::chat::{ChatOptions, Message, Tools};
use bitnet_inference::engine::Request;
use bitnet_inference::tokenizer::EncodeOptions;
use serde_json::{Map, Value};

use self::answer::{Context, Shape};
use self::parameters::{Parameters, Prompt};
use crate::access::Client;
use crate::error::ApiError;
use crate::state::AppState;

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

/// Returns the messages of a request, with the texts of their parts joined.
pub(crate) fn messages(body: &Map<String, Value>) -> Result<Vec<Message>, ApiError> {
    let list = body.get("messages").and_then(Value::as_array);
    let list = list.ok_or_else(|| ApiError::field("messages", "must be a list of messages"))?;
    if list.is_empty() {
        return Err(ApiError::field("messages", "must have at least one message"));
    }
    let read = |(index, message): (usize, &Value)| {
        let place = format!("messages[{index}]");
        let mut message = message.clone();
        if let Some(parts) = message.get("content").and_then(Value::as_array) {
            let text = text_of_parts(parts, &place)?;
            message["content"] = Value::String(text);
        }
        let mut message: Message =
            serde_json::from_value(message).map_err(|error| ApiError::field(&place, error))?;
        if message.role == "developer" {
            message.role = "system".into();
        }
        Ok(message)
    };
    list.iter().enumerate().map(read).collect()
}

fn text_of_parts(parts: &[Value], place: &str) -> Result<String, ApiError> {
    let mut text = String::new();
    for part in parts {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
        match (kind, part.get("text").and_then(Value::as_str)) {
            ("text" | "input_text" | "output_text", Some(part)) => text.push_str(part),
            ("text" | "input_text" | "output_text", None) => {
                return Err(ApiError::field(place, "a text part has no text"));
            }
            _ => {
                let problem = format!("parts of type {kind:?} are not supported; texts are");
                return Err(ApiError::field(place, problem));
            }
        }
    }
    Ok(text)
}

/// `POST /v1/chat/completions`.
pub(crate) async fn chat(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let body = object(&body)?;
    let parameters = Parameters::of_chat(&body, &state)?;
    let messages = messages(&body)?;
    let options = chat_options(&body)?;
    let prepared = state.clone();
    let (tokens, parser) = blocking(move || {
        let model = prepared.model();
        let prompt = model.render_chat(&messages, &options)?;
        let tokens = model.encode_rendered(&prompt)?;
        Ok((tokens, model.answer_parser(&prompt, &options)))
    })
    .await?;
    run(state, client, parameters, vec![tokens], Shape::Chat(Box::new(parser))).await
}

/// `POST /v1/completions`.
pub(crate) async fn completions(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let body = object(&body)?;
    let parameters = Parameters::of_completion(&body, &state)?;
    let prompts = parameters::prompts(&body)?;
    let prepared = state.clone();
    let prompts = blocking(move || {
        let tokenizer = prepared.tokenizer()?;
        let options = EncodeOptions { add_special: true, parse_special: true };
        let encode = |prompt: Prompt| match prompt {
            Prompt::Tokens(tokens) => Ok(tokens),
            Prompt::Text(text) => {
                Ok(tokenizer.encode(&text, options).map_err(InferenceError::from)?)
            }
        };
        prompts.into_iter().map(encode).collect::<Result<Vec<_>, ApiError>>()
    })
    .await?;
    run(state, client, parameters, prompts, Shape::Completion).await
}

/// Gives the prompts to the engine, and answers with what it writes.
async fn run(
    state: AppState,
    client: Client,
    parameters: Parameters,
    prompts: Vec<Vec<u32>>,
    shape: Shape,
) -> Result<Response, ApiError> {
    let mut responses = Vec::with_capacity(prompts.len());
    for prompt in &prompts {
        let request = Request {
            choices: parameters.choices,
            logprobs: parameters.logprobs,
            prompt_logprobs: parameters.logprobs.filter(|_| parameters.echo),
            client: client.0,
            group: client.0,
            ..Request::new(prompt.clone(), parameters.options.clone())
        };
        responses.push(state.engine.submit(request)?);
    }
    let context = Context::new(state, parameters, shape, prompts);
    if context.parameters.stream {
        return Ok(stream::respond(context, responses).into_response());
    }
    Ok(Json(answer::whole(context, responses).await?).into_response())
}

fn chat_options(body: &Map<String, Value>) -> Result<ChatOptions, ApiError> {
    let tools = match (body.get("tools"), body.get("tool_choice").and_then(Value::as_str)) {
        (None | Some(Value::Null), _) | (_, Some("none")) => Arc::default(),
        (Some(tools), _) => Arc::new(
            Tools::from_value(tools.clone(), "tools")
                .map_err(|error| ApiError::field("tools", error))?,
        ),
    };
    match body.get("tool_choice") {
        None | Some(Value::Null) => {}
        Some(Value::String(choice)) if choice == "auto" || choice == "none" => {}
        Some(_) => {
            let problem = "only \"auto\" and \"none\" are supported: no call is forced";
            return Err(ApiError::field("tool_choice", problem));
        }
    }
    let kwargs = body.get("chat_template_kwargs").and_then(Value::as_object);
    if let Some(name) =
        kwargs.into_iter().flatten().map(|(name, _)| name).find(|n| *n != "enable_thinking")
    {
        let problem = format!("{name} is not supported; enable_thinking is");
        return Err(ApiError::field("chat_template_kwargs", problem));
    }
    let enable_thinking = kwargs.and_then(|kwargs| kwargs.get("enable_thinking")).map(|value| {
        let problem = "enable_thinking must be true or false";
        value.as_bool().ok_or_else(|| ApiError::field("chat_template_kwargs", problem))
    });
    Ok(ChatOptions {
        tools,
        enable_thinking: enable_thinking.transpose()?,
        ..ChatOptions::default()
    })
}

//! OpenAI's routes for texts: a request in, texts of the engine out, whole or as a stream of events.

mod answer;
mod stream;

use axum::Extension;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bitnet_inference::InferenceError;
use bitnet_inference::tokenizer::EncodeOptions;

use self::answer::{Context, Shape};
use crate::access::Client;
use crate::constraint;
use crate::conversation::Conversation;
use crate::error::ApiError;
use crate::parameters::Parameters;
use crate::request::{Input, blocking, inputs, object, submit};
use crate::state::AppState;

/// Prompts of one request, at most.
const MAX_PROMPTS: usize = 64;

/// `POST /v1/chat/completions`.
pub(crate) async fn chat(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let body = object(&body)?;
    let parameters = Parameters::of_chat(&body, &state)?;
    let prompt = Conversation::of_openai(&body)?.prompt(&state).await?;
    run(state, client, parameters, vec![prompt.tokens], Shape::Chat(Box::new(prompt.parser))).await
}

/// `POST /v1/completions`.
pub(crate) async fn completions(
    State(state): State<AppState>,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let body = object(&body)?;
    let parameters = Parameters::of_completion(&body, &state)?;
    let prompts = inputs(&body, "prompt", MAX_PROMPTS)?;
    let prepared = state.clone();
    let prompts = blocking(move || {
        let tokenizer = prepared.tokenizer()?;
        let options = EncodeOptions { add_special: true, parse_special: true };
        let encode = |prompt: Input| match prompt {
            Input::Tokens(tokens) => Ok(tokens),
            Input::Text(text) => {
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
    let parser = match &shape {
        Shape::Chat(parser) => Some(&**parser),
        Shape::Completion => None,
    };
    let parameters = constraint::compiled(&state, &parameters, parser).await?;
    let responses = prompts
        .iter()
        .map(|prompt| submit(&state, client, &parameters, prompt.clone()))
        .collect::<Result<Vec<_>, ApiError>>()?;
    let context = Context::new(state, parameters, shape, prompts);
    if context.parameters.stream {
        return Ok(stream::respond(context, responses));
    }
    Ok(Json(answer::whole(context, responses).await?).into_response())
}

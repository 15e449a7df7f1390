//! Log probabilities of tokens, for answers.

use bitnet_inference::engine::{Logprobs, TokenLogprob};
use serde_json::{Value, json};

use crate::state::AppState;

/// JSON has no infinities; llama.cpp and OpenAI write a large negative number.
pub(crate) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}

/// Returns the bytes of a token's text.
pub(crate) fn token_bytes(state: &AppState, token: u32) -> Vec<u8> {
    let tokenizer = state.model().tokenizer();
    let bytes = tokenizer.and_then(|tokenizer| tokenizer.token_bytes(token).ok());
    bytes.unwrap_or_default()
}

/// Returns the log probability of a token in the form of a conversation, with those of the most probable ones.
pub(crate) fn of_token(state: &AppState, scores: &Logprobs) -> Value {
    let item = |token: &TokenLogprob| {
        let bytes = token_bytes(state, token.token);
        json!({
            "token": String::from_utf8_lossy(&bytes),
            "logprob": finite(token.logprob),
            "bytes": bytes,
        })
    };
    let mut value = item(&scores.chosen);
    value["top_logprobs"] = scores.top.iter().map(item).collect();
    value
}

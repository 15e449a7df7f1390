//! Answers in OpenAI's shape.

use std::collections::BTreeMap;

use bitnet_inference::FinishReason;
use bitnet_inference::chat::{AnswerParser, Message};
use bitnet_inference::engine::{Answer, AnswerText, Logprobs, Response, TokenLogprob, Usage};
use futures_util::future::try_join_all;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::logprobs::{finite, of_token, token_bytes};
use crate::parameters::Parameters;
use crate::state::{AppState, since_1970};
use crate::writing::add;

/// Whether a conversation or a text goes on.
#[derive(Debug)]
pub(super) enum Shape {
    /// With a parser for the model's answer.
    Chat(Box<AnswerParser>),
    Completion,
}

/// What the parts of one answer have in common.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) state: AppState,
    pub(super) parameters: Parameters,
    pub(super) shape: Shape,
    /// The prompts' tokens.
    pub(super) prompts: Vec<Vec<u32>>,
    id: String,
}

impl Context {
    pub(super) fn new(
        state: AppState,
        parameters: Parameters,
        shape: Shape,
        prompts: Vec<Vec<u32>>,
    ) -> Self {
        let id = state.answer_id(match shape {
            Shape::Chat(_) => "chatcmpl-",
            Shape::Completion => "cmpl-",
        });
        Self { state, parameters, shape, prompts, id }
    }

    /// Returns a parser for one text; that of a completion stays as it is.
    pub(super) fn parser(&self) -> Option<AnswerParser> {
        match &self.shape {
            Shape::Chat(parser) => Some((**parser).clone()),
            Shape::Completion => None,
        }
    }

    pub(super) fn is_chat(&self) -> bool {
        matches!(self.shape, Shape::Chat(_))
    }

    /// Returns an answer, or a chunk of one, with these choices.
    pub(super) fn object(&self, is_chunk: bool, choices: Vec<Value>) -> Map<String, Value> {
        let kind = match (self.is_chat(), is_chunk) {
            (true, true) => "chat.completion.chunk",
            (true, false) => "chat.completion",
            (false, _) => "text_completion",
        };
        let object = json!({
            "id": self.id,
            "object": kind,
            "created": since_1970().as_secs(),
            "model": self.state.model_name,
            "choices": choices,
        });
        match object {
            Value::Object(object) => object,
            _ => Map::new(),
        }
    }

    /// Returns a token's text: its bytes, where they are not whole characters with U+FFFD.
    fn token_text(&self, token: u32) -> String {
        String::from_utf8_lossy(&token_bytes(&self.state, token)).into_owned()
    }

    /// Returns an item of `logprobs.content` of a chat.
    pub(super) fn chat_logprobs(&self, scores: &Logprobs) -> Value {
        of_token(&self.state, scores)
    }

    /// Returns the `logprobs` of a completion; `offset` is where the first token begins, in characters.
    pub(super) fn completion_logprobs<'a>(
        &self,
        scores: impl Iterator<Item = (u32, Option<&'a Logprobs>)>,
        mut offset: usize,
    ) -> (Value, usize) {
        let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
        let (mut top, mut offsets) = (Vec::new(), Vec::new());
        for (token, scores) in scores {
            let text = self.token_text(token);
            offsets.push(offset);
            offset += text.chars().count();
            tokens.push(text);
            logprobs.push(scores.map(|scores| finite(scores.chosen.logprob)));
            top.push(scores.map(|scores| {
                let of = |t: &TokenLogprob| (self.token_text(t.token), finite(t.logprob));
                scores.top.iter().map(of).collect::<BTreeMap<String, f32>>()
            }));
        }
        let value = json!({
            "tokens": tokens,
            "token_logprobs": logprobs,
            "top_logprobs": top,
            "text_offset": offsets,
        });
        (value, offset)
    }
}

/// Returns the name of a reason, as OpenAI's clients know it.
pub(super) fn finish_name(finish: Option<FinishReason>, message: Option<&Message>) -> &'static str {
    let has_calls = message.is_some_and(|message| !message.tool_calls.is_empty());
    match finish {
        Some(FinishReason::Length | FinishReason::ContextFull) => "length",
        _ if has_calls => "tool_calls",
        _ => "stop",
    }
}

/// Returns the `usage` of an answer.
pub(super) fn usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.written_tokens,
        "total_tokens": usage.prompt_tokens + usage.written_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    })
}

/// Returns llama-server's `timings` of an answer.
pub(super) fn timings(usage: &Usage) -> Value {
    let read = usage.prompt_tokens - usage.cached_tokens.min(usage.prompt_tokens);
    let (prompt, write) = (usage.prompt_time.as_secs_f64(), usage.write_time.as_secs_f64());
    // The first token comes with the prompt's last step.
    let written = usage.written_tokens.saturating_sub(1);
    let rate = |tokens: usize, seconds: f64| (seconds > 0.0).then(|| tokens as f64 / seconds);
    json!({
        "cache_n": usage.cached_tokens,
        "prompt_n": read,
        "prompt_ms": prompt * 1e3,
        "prompt_per_second": rate(read, prompt),
        "predicted_n": usage.written_tokens,
        "predicted_ms": write * 1e3,
        "predicted_per_second": rate(written, write),
        "queue_ms": usage.queue_time.as_secs_f64() * 1e3,
    })
}

/// Waits for all texts and returns the answer.
pub(super) async fn whole(context: Context, responses: Vec<Response>) -> Result<Value, ApiError> {
    let answers = try_join_all(responses.into_iter().map(Response::answer)).await?;
    let mut choices = Vec::new();
    for (prompt, answer) in context.prompts.iter().zip(&answers) {
        for text in &answer.texts {
            let index = choices.len();
            choices.push(match context.parser() {
                Some(parser) => chat_choice(&context, parser, index, text),
                None => completion_choice(&context, index, prompt, answer, text),
            });
        }
    }
    let mut total = Usage::default();
    answers.iter().for_each(|answer| add(&mut total, &answer.usage));
    let mut object = context.object(false, choices);
    object.insert("usage".into(), usage(&total));
    object.insert("timings".into(), timings(&total));
    Ok(Value::Object(object))
}

fn chat_choice(
    context: &Context,
    mut parser: AnswerParser,
    index: usize,
    text: &AnswerText,
) -> Value {
    parser.push(&text.text);
    let message = parser.finish().message;
    let finish = finish_name(text.finish, Some(&message));
    let logprobs = context.parameters.logprobs.map(|_| {
        let items = text.logprobs.iter().map(|scores| context.chat_logprobs(scores));
        json!({"content": items.collect::<Vec<_>>()})
    });
    let mut value = json!({
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": finish,
    });
    value["message"]["refusal"] = Value::Null;
    if !message.tool_calls.is_empty() && message.content.is_empty() {
        value["message"]["content"] = Value::Null;
    }
    value
}

fn completion_choice(
    context: &Context,
    index: usize,
    prompt: &[u32],
    answer: &Answer,
    text: &AnswerText,
) -> Value {
    let echo = context.parameters.echo;
    let mut whole = String::new();
    if echo {
        let tokenizer = context.state.model().tokenizer();
        whole.extend(tokenizer.and_then(|tokenizer| tokenizer.decode(prompt, true).ok()));
    }
    whole.push_str(&text.text);
    let logprobs = context.parameters.logprobs.map(|_| {
        let of_prompt =
            prompt.iter().copied().zip(answer.prompt_logprobs.iter().map(Option::as_ref));
        let of_prompt = of_prompt.take(if echo { prompt.len() } else { 0 });
        let written = text.tokens.iter().copied().zip(text.logprobs.iter().map(Some));
        context.completion_logprobs(of_prompt.chain(written), 0).0
    });
    json!({
        "index": index,
        "text": whole,
        "logprobs": logprobs,
        "finish_reason": finish_name(text.finish, None),
    })
}

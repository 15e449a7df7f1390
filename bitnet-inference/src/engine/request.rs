//! What is asked of an engine, and what it answers.

use std::time::Duration;

use super::scheduler::Priority;
use crate::InferenceError;
use crate::generate::{FinishReason, GenerateOptions};

/// A text to be written after a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The prompt's tokens; at least one.
    pub prompt: Vec<u32>,
    /// What to write and when to stop. Tokens are drafted while no other text is in the same step, and only from the text
    /// itself ([`DraftMode::NGram`](crate::DraftMode::NGram)).
    pub options: GenerateOptions,
    /// Texts to be written after the prompt, which is read once. The seed of each is one more than that of the one before.
    pub choices: usize,
    /// Log probabilities of written tokens, with those of so many others; `None` for none.
    pub logprobs: Option<usize>,
    /// Log probabilities of the prompt's tokens, with those of so many others. The whole prompt is read for it.
    pub prompt_logprobs: Option<usize>,
    /// Who asks: steps are shared fairly between clients.
    pub client: u64,
    /// Requests of one group share the keys and values of common beginnings.
    pub group: u64,
    /// How urgent it is.
    pub priority: Priority,
    /// The longest time that it may wait before it is read.
    pub patience: Option<Duration>,
}

impl Request {
    /// Returns a request for one text with the usual priority.
    pub fn new(prompt: Vec<u32>, options: GenerateOptions) -> Self {
        Self {
            prompt,
            options,
            choices: 1,
            logprobs: None,
            prompt_logprobs: None,
            client: 0,
            group: 0,
            priority: Priority::Normal,
            patience: None,
        }
    }

    /// Returns the bytes that it takes while it waits.
    pub(super) fn bytes(&self) -> usize {
        let GenerateOptions { sampler, stop, stop_tokens, .. } = &self.options;
        let texts: usize = stop.iter().map(|text| size_of::<String>() + text.len()).sum();
        size_of::<Self>()
            + size_of_val(&self.prompt[..])
            + size_of_val(&stop_tokens[..])
            + size_of_val(&sampler.logit_bias[..])
            + texts
    }
}

/// A token with its log probability: natural logarithm, before bias, penalties, temperature and filters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// Its log probability.
    pub logprob: f32,
}

/// The log probability of a token that was written or read, and those of the most probable ones in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// The token.
    pub chosen: TokenLogprob,
    /// The most probable ones, largest first.
    pub top: Vec<TokenLogprob>,
}

/// Something that happened to a request.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// More of the prompt was read.
    Prompt {
        /// Tokens read or found, of all.
        done: usize,
        /// Those of them that were found in memory.
        cached: usize,
        /// Tokens of the prompt.
        total: usize,
        /// Log probabilities of the tokens that were read, if they were asked for; `None` for the first of all.
        logprobs: Vec<Option<Logprobs>>,
    },
    /// A token was written.
    Token {
        /// The text that it belongs to.
        choice: usize,
        /// The token; `None` for text that was held back until the end.
        id: Option<u32>,
        /// Whole characters; empty while a character or a stop string may still be completed.
        text: String,
        /// Its log probability, if that was asked for.
        logprobs: Option<Logprobs>,
    },
    /// A text ended.
    End {
        /// The text.
        choice: usize,
        /// Why.
        finish: FinishReason,
        /// The stop string that came, if one did.
        stop: Option<String>,
    },
    /// All texts ended.
    Done(Usage),
}

/// The tokens and times of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them whose keys and values were found in memory.
    pub cached_tokens: usize,
    /// Tokens written, in all texts.
    pub written_tokens: usize,
    /// From the request to its first step.
    pub queue_time: Duration,
    /// From the first step to the first token.
    pub prompt_time: Duration,
    /// From the first token to the last.
    pub write_time: Duration,
}

/// Why a request was refused, or ended before its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Too many requests wait.
    #[error("{waiting} requests with {tokens} tokens wait already; try again in about {} s", retry_after.as_secs())]
    QueueFull {
        /// Requests that wait.
        waiting: usize,
        /// Their tokens.
        tokens: usize,
        /// When there will probably be room.
        retry_after: Duration,
    },
    /// It waited longer than it wanted to.
    #[error("the request waited {waited:?}, longer than its limit; try again later")]
    Late {
        /// How long it waited.
        waited: Duration,
    },
    /// The prompt is longer than the context.
    #[error(
        "the prompt has {tokens} tokens, but the context holds {limit}, one of them for the answer; shorten it"
    )]
    ContextLength {
        /// Tokens of the prompt.
        tokens: usize,
        /// The context.
        limit: usize,
    },
    /// No memory was left for it.
    #[error(
        "the memory for keys and values is full ({limit} bytes); ask for a shorter text, or give the engine more"
    )]
    OutOfMemory {
        /// The bytes of keys and values that the engine may have.
        limit: usize,
    },
    /// Its reader took nothing for too long.
    #[error("nothing was read of the answer for {0:?}, so it was ended")]
    SlowReader(Duration),
    /// The engine ends.
    #[error("the engine is shutting down; ask another one")]
    ShuttingDown,
    /// The model or the sampler refused it.
    #[error(transparent)]
    Inference(#[from] InferenceError),
    /// The program has a fault that this request met.
    #[error("internal error: {0}")]
    Panicked(String),
}

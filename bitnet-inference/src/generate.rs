//! Writing text: the loop from logits to streamed text, with every way of stopping.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::model::Model;
use crate::sampler::{Sampler, SamplerConfig};
use crate::session::Session;
use crate::stop::StopFilter;
use crate::tokenizer::TextStream;
use crate::{InferenceError, Result};

/// What to write and when to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// How tokens are chosen.
    pub sampler: SamplerConfig,
    /// At most this many tokens are written.
    pub max_tokens: usize,
    /// Text that ends the writing; it is not part of the result.
    pub stop: Vec<String>,
    /// Tokens that end the writing beside the model's own end tokens.
    pub stop_tokens: Vec<u32>,
    /// Go on after the model's end tokens.
    pub ignore_end: bool,
}

impl Default for GenerateOptions {
    /// Greedy, at most 256 tokens, ending where the model ends.
    fn default() -> Self {
        Self {
            sampler: SamplerConfig::default(),
            max_tokens: 256,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            ignore_end: false,
        }
    }
}

/// Why the writing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model wrote an end token.
    EndOfText,
    /// A stop string or stop token came.
    Stop,
    /// `max_tokens` were written.
    Length,
    /// The context is full.
    ContextFull,
    /// The caller stopped it.
    Cancelled,
}

impl FinishReason {
    /// The name that programs read.
    pub fn name(self) -> &'static str {
        match self {
            Self::EndOfText => "end",
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ContextFull => "context",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What was written, with its measurements.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// The text.
    pub text: String,
    /// The tokens, without the end token.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were not in the cache already.
    pub prompt_tokens_read: usize,
    /// Time for reading the prompt.
    pub prompt_time: Duration,
    /// Time for writing.
    pub write_time: Duration,
}

/// Writes after `prompt` in `session`, giving each piece of text to `on_text` as soon as it is whole; `on_text`
/// answers whether to go on.
///
/// # Errors
/// [`InferenceError::UnsupportedOperation`] if the model has no tokenizer, [`InferenceError::Parameter`] for a
/// sampler value out of range or an empty prompt, [`InferenceError::Resource`] if the prompt does not fit.
pub fn generate(
    model: &Model,
    session: &mut Session<'_>,
    prompt: &[u32],
    options: &GenerateOptions,
    on_text: &mut dyn FnMut(&str) -> bool,
) -> Result<Generated> {
    let tokenizer = model.tokenizer().ok_or_else(|| InferenceError::UnsupportedOperation {
        what: "writing text with a model that has no tokenizer".into(),
        instead: "put tokenizer.json beside the model (programs can give token ids to `Session`)"
            .into(),
    })?;
    let mut sampler = Sampler::new(options.sampler.clone(), model.config().vocab_size)?;
    let ends = if options.ignore_end { BTreeSet::new() } else { model.end_tokens().clone() };

    let start = Instant::now();
    let mut out = Generated {
        text: String::new(),
        tokens: Vec::new(),
        finish: FinishReason::Cancelled,
        prompt_tokens: prompt.len(),
        prompt_tokens_read: prompt.len(),
        prompt_time: Duration::ZERO,
        write_time: Duration::ZERO,
    };
    let common = session.tokens().iter().zip(prompt).take_while(|(a, b)| a == b).count();
    let read = session.prime_only(prompt, &mut |_, _| on_text(""))?;
    out.prompt_tokens_read = prompt.len() - common.min(prompt.len().saturating_sub(1));
    out.prompt_time = start.elapsed();
    if !read {
        return Ok(out);
    }

    let start = Instant::now();
    let mut stream = TextStream::continuing(tokenizer);
    let mut filter = StopFilter::new(&options.stop);
    out.finish = loop {
        if out.tokens.len() == options.max_tokens {
            break FinishReason::Length;
        }
        let token = session.choose(&mut sampler)?;
        if ends.contains(&token) {
            break FinishReason::EndOfText;
        }
        if options.stop_tokens.contains(&token) {
            break FinishReason::Stop;
        }
        out.tokens.push(token);
        let (text, stopped) = filter.push(&stream.push(token)?);
        out.text.push_str(&text);
        if stopped {
            on_text(&text);
            out.write_time = start.elapsed();
            out.finish = FinishReason::Stop;
            return Ok(out);
        }
        if !on_text(&text) {
            break FinishReason::Cancelled;
        }
        if session.tokens().len() == session.capacity() {
            break FinishReason::ContextFull;
        }
        model.keep_prepared();
        session.read(&[token], &mut |_, _| true)?;
    };
    let (mut rest, _) = filter.push(&stream.finish());
    rest.push_str(&filter.finish());
    if !rest.is_empty() {
        on_text(&rest);
        out.text.push_str(&rest);
    }
    out.write_time = start.elapsed();
    Ok(out)
}

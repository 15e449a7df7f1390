//! Writing text: an iterator from logits to tokens with their text, with every way of stopping.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Result;
use crate::constraint::Grammar;
use crate::draft::{DraftMode, DraftStats, Drafter};
use crate::sampler::{Sampler, SamplerConfig};
use crate::session::Session;

mod stop;
mod text_writer;

pub use stop::StopFilter;
pub(crate) use stop::longest_suffix_prefix;
pub(crate) use text_writer::{TextWriter, Written};

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
    /// Where tokens come from that are read ahead. They change how fast the text is written, not the text.
    pub draft: DraftMode,
    /// What the text must follow; drafts are not used then. Stop strings, stop tokens and `max_tokens` may still cut it
    /// short.
    pub constraint: Option<Arc<Grammar>>,
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
            draft: DraftMode::Off,
            constraint: None,
        }
    }
}

impl GenerateOptions {
    /// Where drafts come from: from nowhere under a constraint, which they would have to follow too.
    pub(crate) fn draft_mode(&self) -> DraftMode {
        if self.constraint.is_some() { DraftMode::Off } else { self.draft }
    }
}

/// Why the writing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model wrote an end token, or the constraint lets nothing follow.
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
    /// Tokens that were read ahead, and those of them that were chosen.
    pub drafts: DraftStats,
}

impl Session {
    /// Makes the sequence `prompt` and writes after it: an iterator of tokens with their text. Nothing is read before
    /// the first item; dropped early, it leaves the session with the prompt and what was read of the text.
    ///
    /// ```
    /// use bitnet_inference::{GenerateOptions, Model};
    ///
    /// let model = Model::embedded()?;
    /// let prompt = model.encode_prompt("Once upon a time")?;
    /// let mut session = model.session(None)?;
    /// let options = GenerateOptions { max_tokens: 8, ..GenerateOptions::default() };
    /// for token in session.generate(&prompt, &options)? {
    ///     print!("{}", token?.text);
    /// }
    /// # Ok::<(), bitnet_inference::InferenceError>(())
    /// ```
    ///
    /// # Errors
    /// [`UnsupportedOperation`](crate::InferenceError::UnsupportedOperation) without a tokenizer,
    /// [`Parameter`](crate::InferenceError::Parameter) for a sampler value out of range or a constraint compiled for another model. Items are errors for an empty prompt, one that does not fit, and those of [`Session::choose`].
    pub fn generate<'s>(
        &'s mut self,
        prompt: &'s [u32],
        options: &'s GenerateOptions,
    ) -> Result<Generation<'s>> {
        Generation::new(self, prompt, options)
    }
}

/// A token that was written, with the text that it completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The token; `None` for text that was held back until the end: the beginning of a stop string, or of a character.
    pub id: Option<u32>,
    /// Whole characters; often a word, and empty while a character or a stop string may still be completed.
    pub text: String,
}

/// Writes after a prompt, one token for each item. Made by [`Session::generate`].
pub struct Generation<'s> {
    session: &'s mut Session,
    prompt: &'s [u32],
    options: &'s GenerateOptions,
    sampler: Sampler,
    drafter: Drafter,
    writer: TextWriter,
    is_cancelled: Box<dyn FnMut() -> bool + 's>,
    state: State,
    written: Generated,
}

/// What the next item takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Reading the prompt.
    Prompt,
    /// Reading the token that was written last, if there is one.
    Writing { since: Instant, last: Option<u32> },
    /// Nothing: it has ended.
    Done,
}

impl fmt::Debug for Generation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("written", &self.written).finish_non_exhaustive()
    }
}

impl<'s> Generation<'s> {
    pub(crate) fn new(
        session: &'s mut Session,
        prompt: &'s [u32],
        options: &'s GenerateOptions,
    ) -> Result<Self> {
        let writer = TextWriter::new(session, options)?;
        if let Some(grammar) = &options.constraint {
            grammar.check_model(session.tokenizer.as_ref())?;
        }
        let draft = options.draft_mode();
        if draft == DraftMode::Mtp {
            session.follow_with_draft_layer()?;
        }
        Ok(Self {
            writer,
            sampler: Sampler::for_text(options, session.decoder.config.vocab_size)?,
            drafter: Drafter::new(draft),
            is_cancelled: Box::new(|| false),
            state: State::Prompt,
            written: Generated {
                text: String::new(),
                tokens: Vec::new(),
                finish: FinishReason::Cancelled,
                prompt_tokens: prompt.len(),
                prompt_tokens_read: prompt.len(),
                prompt_time: Duration::ZERO,
                write_time: Duration::ZERO,
                drafts: DraftStats::default(),
            },
            session,
            prompt,
            options,
        })
    }

    /// Ends the writing once `is_cancelled` returns true, checked after each chunk of the prompt and each token.
    #[must_use]
    pub fn cancel_when(self, is_cancelled: impl FnMut() -> bool + 's) -> Self {
        Self { is_cancelled: Box::new(is_cancelled), ..self }
    }

    /// Ends the writing, and returns all that was written with its measurements.
    pub fn finish(mut self) -> Generated {
        if self.state != State::Done {
            self.end(FinishReason::Cancelled);
        }
        self.written.drafts = self.drafter.stats();
        self.written
    }

    /// Reads the prompt. Returns whether it was read to its end.
    fn read_prompt(&mut self) -> Result<bool> {
        let start = Instant::now();
        let reused = self.session.truncate_to_prefix(self.prompt)?;
        self.written.prompt_tokens_read = self.prompt.len() - reused;
        for progress in self.session.prefill(&self.prompt[reused..])? {
            let progress = progress?;
            if progress.done < progress.total && (self.is_cancelled)() {
                self.written.prompt_time = start.elapsed();
                return Ok(false);
            }
        }
        self.written.prompt_time = start.elapsed();
        Ok(true)
    }

    /// Reads the token that was written last. Returns why writing ends instead, if it does.
    fn read_last(&mut self, token: u32) -> Result<Option<FinishReason>> {
        if (self.is_cancelled)() {
            return Ok(Some(FinishReason::Cancelled));
        }
        if self.session.tokens().len() == self.session.capacity() {
            return Ok(Some(FinishReason::ContextFull));
        }
        self.session.decoder.write_cache();
        // After the tokens of a draft one more is written, and the last one is not read.
        let to_write = self.options.max_tokens - self.written.tokens.len();
        let room = self.session.capacity() - self.session.tokens().len() - 1;
        let limit = room.min(to_write.saturating_sub(1));
        self.drafter.read(self.session, token, limit, &self.sampler)?;
        Ok(None)
    }

    fn step(&mut self) -> Result<Option<Token>> {
        let (since, last) = match self.state {
            State::Done => return Ok(None),
            State::Writing { since, last } => (since, last),
            State::Prompt => {
                if !self.read_prompt()? {
                    self.state = State::Done;
                    return Ok(None);
                }
                (Instant::now(), None)
            }
        };
        self.state = State::Writing { since, last: None };
        let token = self.write(last);
        self.written.write_time = since.elapsed();
        token
    }

    /// Writes the token after `last`, or what was held back if writing ends before it.
    fn write(&mut self, last: Option<u32>) -> Result<Option<Token>> {
        if let Some(last) = last
            && let Some(reason) = self.read_last(last)?
        {
            return Ok(self.end(reason));
        }
        if self.written.tokens.len() == self.options.max_tokens {
            return Ok(self.end(FinishReason::Length));
        }
        let token = self.session.choose(&mut self.sampler)?;
        let (mut text, is_last) = match self.writer.take(token)? {
            Written::Text(text) => (text, false),
            Written::Last(text) => (text, true),
            Written::End(reason) => return Ok(self.end(reason)),
        };
        self.written.tokens.push(token);
        self.written.text.push_str(&text);
        if !is_last && self.sampler.accept(token)? {
            text.extend(self.end(FinishReason::EndOfText).map(|held| held.text));
        } else if is_last {
            self.written.finish = FinishReason::Stop;
            self.session.drop_ahead();
            self.state = State::Done;
        } else if let State::Writing { last, .. } = &mut self.state {
            *last = Some(token);
        }
        Ok(Some(Token { id: Some(token), text }))
    }

    /// Ends the writing. Returns the text that was held back, if there is any.
    fn end(&mut self, reason: FinishReason) -> Option<Token> {
        self.state = State::Done;
        self.written.finish = reason;
        self.session.drop_ahead();
        let text = self.writer.finish();
        self.written.text.push_str(&text);
        (!text.is_empty()).then_some(Token { id: None, text })
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Self::Item> {
        let token = self.step();
        if token.is_err() {
            self.state = State::Done;
        }
        token.transpose()
    }
}

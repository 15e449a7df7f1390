//! A request that is in progress, and what its reader is told.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::request::{EngineError, Event, Logprobs, Request, Usage};
use super::scheduler::Active;
use super::sequence::Sequence;
use super::step;
use crate::draft::Drafter;
use crate::generate::{FinishReason, TextWriter, Written};
use crate::sampler::Sampler;

/// A request that was taken.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) id: u64,
    pub(super) request: Request,
    pub(super) sampler: Sampler,
    pub(super) events: Sender<Result<Event, EngineError>>,
    pub(super) arrived: Duration,
}

impl Pending {
    pub(super) fn new(
        id: u64,
        request: Request,
        sampler: Sampler,
        events: Sender<Result<Event, EngineError>>,
        arrived: Duration,
    ) -> Self {
        Self { id, request, sampler, events, arrived }
    }
}

/// A request that was admitted.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) pending: Pending,
    pub(super) sequences: Vec<Sequence>,
    /// Events that the reader has not had room for.
    pub(super) held: VecDeque<Event>,
    pub(super) held_since: Option<Instant>,
    pub(super) usage: Usage,
    pub(super) first_step: Instant,
    pub(super) first_token: Option<Instant>,
    /// Whether the reader was told that all texts ended.
    pub(super) is_told: bool,
}

impl Live {
    /// Whether its prompt is being read.
    pub(super) fn is_reading(&self) -> bool {
        self.first_token.is_none()
    }

    pub(super) fn is_done(&self) -> bool {
        self.sequences.iter().all(|sequence| sequence.is_done)
    }

    /// Sends an event, or holds it if the reader has no room.
    fn tell(&mut self, event: Event) {
        self.held.push_back(event);
        self.deliver();
    }

    pub(super) fn deliver(&mut self) {
        while let Some(event) = self.held.pop_front() {
            match self.pending.events.try_send(Ok(event)) {
                Ok(()) => {}
                Err(TrySendError::Full(Ok(event))) => {
                    self.held.push_front(event);
                    self.held_since.get_or_insert_with(Instant::now);
                    return;
                }
                // Nobody reads any more; the next step finds that out.
                Err(_) => self.held.clear(),
            }
        }
        self.held_since = None;
    }

    pub(super) fn tell_prompt(&mut self, logprobs: Vec<Option<Logprobs>>) {
        let done = self.sequences.first().map_or(0, |first| first.session.tokens().len());
        let (cached, total) = (self.usage.cached_tokens, self.usage.prompt_tokens);
        self.tell(Event::Prompt { done: done.min(total), cached, total, logprobs });
    }

    /// Returns how the scheduler sees its texts.
    pub(super) fn active(&self) -> impl Iterator<Item = Active> {
        let forks = if self.is_reading() { self.pending.request.choices - 1 } else { 0 };
        let is_blocked = !self.held.is_empty();
        let going = self.sequences.iter().filter(|sequence| !sequence.is_done);
        going.map(move |sequence| sequence.active(&self.pending, forks, is_blocked))
    }

    /// Begins the other texts of a request whose prompt was read.
    pub(super) fn fork_prompt(&mut self) -> crate::Result<()> {
        self.first_token = Some(Instant::now());
        self.usage.prompt_time = self.first_step.elapsed();
        let request = &self.pending.request;
        for choice in 1..request.choices {
            let Some(first) = self.sequences.first() else { return Ok(()) };
            let mut options = request.options.clone();
            options.sampler.seed = options.sampler.seed.wrapping_add(choice as u64);
            let session = first.session.fork();
            self.sequences.push(Sequence {
                choice,
                sampler: Sampler::for_text(&options, session.decoder.config.vocab_size)?,
                drafter: Drafter::new(request.options.draft_mode()),
                writer: TextWriter::new(&session, &request.options)?,
                session,
                tokens: first.tokens.clone(),
                max_len: first.max_len,
                expected_pages: first.expected_pages,
                is_done: false,
            });
        }
        Ok(())
    }

    /// Chooses the first token of a text that was forked after the prompt; none if none may be written.
    pub(super) fn choose_first(
        &mut self,
        index: usize,
    ) -> crate::Result<(Option<u32>, Option<Logprobs>)> {
        let count = self.pending.request.logprobs;
        let sequence = &mut self.sequences[index];
        if sequence.is_full() {
            return Ok((None, None));
        }
        step::choose_alone(&sequence.session, &mut sequence.sampler, count)
            .map(|(token, logprobs)| (Some(token), logprobs))
    }

    /// Writes the token that was chosen for a text; `None` if none may be written. Returns how many tokens were written.
    pub(super) fn write(
        &mut self,
        index: usize,
        token: Option<u32>,
        logprobs: Option<Logprobs>,
    ) -> crate::Result<u64> {
        let sequence = &mut self.sequences[index];
        let choice = sequence.choice;
        let written = match token {
            None => Written::End(FinishReason::Length),
            Some(token) => sequence.writer.take(token)?,
        };
        let (text, mut finish) = match written {
            Written::Text(text) => {
                let is_complete =
                    token.map_or(Ok(false), |token| sequence.sampler.accept(token))?;
                (Some(text), is_complete.then_some(FinishReason::EndOfText))
            }
            Written::Last(text) => (Some(text), Some(FinishReason::Stop)),
            Written::End(reason) => (None, Some(reason)),
        };
        let stop = sequence.writer.stop().map(str::to_owned);
        let id = token.filter(|_| text.is_some());
        let mut text = text.unwrap_or_default();
        sequence.tokens.extend(id);
        self.usage.written_tokens += usize::from(id.is_some());
        finish = finish.or_else(|| sequence.limit());
        if finish.is_some() {
            text.push_str(&sequence.writer.finish());
        }
        sequence.is_done = finish.is_some();
        if id.is_some() || !text.is_empty() {
            let logprobs = logprobs.filter(|_| id.is_some());
            self.tell(Event::Token { choice, id, text, logprobs });
        }
        if let Some(finish) = finish {
            let stop = stop.filter(|_| finish == FinishReason::Stop);
            self.tell(Event::End { choice, finish, stop });
        }
        Ok(u64::from(id.is_some()))
    }

    /// Tells the reader that all texts have ended, once.
    pub(super) fn finish(&mut self) {
        if let Some(first_token) = self.first_token {
            self.usage.write_time = first_token.elapsed();
        }
        let usage = self.usage;
        if !self.is_told {
            self.is_told = true;
            self.tell(Event::Done(usage));
        }
    }
}

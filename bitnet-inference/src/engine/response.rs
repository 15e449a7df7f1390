//! The answer to a request, as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::mpsc::Receiver;

use super::request::{EngineError, Event, Logprobs, Usage};
use crate::generate::FinishReason;

/// The events of a request: an async [`Stream`] for any executor, and an iterator for threads. Dropped early, the request
/// ends within one step.
///
/// The engine holds a few events for a reader that is behind, and then writes no more until they are taken.
#[derive(Debug)]
pub struct Response {
    pub(super) id: u64,
    pub(super) events: Receiver<Result<Event, EngineError>>,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// The texts.
    pub texts: Vec<AnswerText>,
    /// Log probabilities of the prompt's tokens, if they were asked for.
    pub prompt_logprobs: Vec<Option<Logprobs>>,
    /// Tokens and times.
    pub usage: Usage,
}

/// A text of an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AnswerText {
    /// The text.
    pub text: String,
    /// The tokens, without the end token.
    pub tokens: Vec<u32>,
    /// Their log probabilities, if they were asked for.
    pub logprobs: Vec<Logprobs>,
    /// Why it ended.
    pub finish: Option<FinishReason>,
    /// The stop string that came, if one did.
    pub stop: Option<String>,
}

impl Response {
    /// The number of the request.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Waits for the next event; `None` after the last one.
    pub async fn next_event(&mut self) -> Option<Result<Event, EngineError>> {
        self.events.recv().await
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// The error with which the request ended.
    pub async fn answer(mut self) -> Result<Answer, EngineError> {
        let mut answer = Answer::default();
        while let Some(event) = self.next_event().await {
            answer.take(event?);
        }
        Ok(answer)
    }

    /// Waits for the whole answer on this thread.
    ///
    /// # Errors
    /// The error with which the request ended.
    ///
    /// # Panics
    /// In an async task, which must not wait; use [`Response::answer`] there.
    pub fn wait(mut self) -> Result<Answer, EngineError> {
        let mut answer = Answer::default();
        for event in &mut self {
            answer.take(event?);
        }
        Ok(answer)
    }
}

impl Answer {
    /// Takes the next event of a request.
    pub fn take(&mut self, event: Event) {
        match event {
            Event::Prompt { logprobs, .. } => self.prompt_logprobs.extend(logprobs),
            Event::Token { choice, id, text, logprobs } => {
                let answer = self.text(choice);
                answer.text.push_str(&text);
                answer.tokens.extend(id);
                answer.logprobs.extend(logprobs);
            }
            Event::End { choice, finish, stop } => {
                let text = self.text(choice);
                (text.finish, text.stop) = (Some(finish), stop);
            }
            Event::Done(usage) => self.usage = usage,
        }
    }

    fn text(&mut self, choice: usize) -> &mut AnswerText {
        if self.texts.len() <= choice {
            self.texts.resize_with(choice + 1, AnswerText::default);
        }
        &mut self.texts[choice]
    }
}

impl Stream for Response {
    type Item = Result<Event, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(context)
    }
}

impl Iterator for Response {
    type Item = Result<Event, EngineError>;

    /// # Panics
    /// In an async task, which must not wait.
    fn next(&mut self) -> Option<Self::Item> {
        self.events.blocking_recv()
    }
}

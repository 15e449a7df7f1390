//! Texts of the engine as they are written: taken apart into reasoning, text and calls, for every API alike.

use std::collections::VecDeque;

use bitnet_inference::FinishReason;
use bitnet_inference::chat::{AnswerEvent, AnswerParser, Message};
use bitnet_inference::engine::{EngineError, Event, Logprobs, Response, Usage};
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, SelectAll, select_all};

use crate::error::ApiError;

/// A part of the answers to a request. `index` is the number of a text among all of the request.
#[derive(Debug)]
pub(crate) enum Part {
    /// More of a prompt was read.
    Prompt { done: usize, cached: usize, total: usize },
    /// More of a text. The log probabilities are those of the last token in it.
    Text { index: usize, event: AnswerEvent, token: Option<u32>, logprobs: Option<Logprobs> },
    /// A text ended.
    End { index: usize, end: Ending },
    /// All texts ended.
    Done(Usage),
}

/// How a text ended.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub(crate) finish: FinishReason,
    /// The stop text that came.
    pub(crate) stop: Option<String>,
    /// The whole answer of a conversation.
    pub(crate) message: Option<Message>,
    /// Tokens of its reasoning.
    pub(crate) reasoning_tokens: usize,
}

impl Ending {
    /// Whether the answer was cut off.
    pub(crate) fn is_cut_off(&self) -> bool {
        matches!(self.finish, FinishReason::Length | FinishReason::ContextFull)
    }

    /// Whether it asks for calls.
    pub(crate) fn has_calls(&self) -> bool {
        self.message.as_ref().is_some_and(|message| !message.tool_calls.is_empty())
    }
}

/// One answer, whole.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) message: Message,
    pub(crate) end: Ending,
    pub(crate) usage: Usage,
    pub(crate) logprobs: Vec<Logprobs>,
}

/// The texts of a request while they are written.
pub(crate) struct Writing {
    events: SelectAll<BoxStream<'static, (usize, Result<Event, EngineError>)>>,
    /// What takes the texts apart, until they end; those of completions stay as they are.
    parsers: Vec<Option<AnswerParser>>,
    reasoning_tokens: Vec<usize>,
    choices: usize,
    usage: Usage,
    unfinished: usize,
    pending: VecDeque<Part>,
    is_over: bool,
}

impl Writing {
    /// `choices` texts of each response.
    pub(crate) fn new(
        responses: Vec<Response>,
        choices: usize,
        parser: Option<&AnswerParser>,
    ) -> Self {
        Self {
            parsers: vec![parser.cloned(); responses.len() * choices],
            reasoning_tokens: vec![0; responses.len() * choices],
            choices,
            usage: Usage::default(),
            unfinished: responses.len(),
            pending: VecDeque::new(),
            is_over: false,
            events: select_all(responses.into_iter().enumerate().map(|(index, response)| {
                StreamExt::map(response, move |event| (index, event)).boxed()
            })),
        }
    }

    /// Waits for the next part; `None` after the last one, and after an error.
    pub(crate) async fn next(&mut self) -> Option<Result<Part, ApiError>> {
        loop {
            if let Some(part) = self.pending.pop_front() {
                return Some(Ok(part));
            }
            if self.is_over {
                return None;
            }
            match self.events.next().await {
                Some((index, Ok(event))) => self.take(index, event),
                Some((_, Err(error))) => return Some(Err(self.fail(error))),
                None => return Some(Err(self.fail(EngineError::ShuttingDown))),
            }
        }
    }

    fn fail(&mut self, error: EngineError) -> ApiError {
        self.is_over = true;
        error.into()
    }

    fn take(&mut self, request: usize, event: Event) {
        let index = |choice: usize| request * self.choices + choice;
        match event {
            Event::Prompt { done, cached, total, .. } => {
                self.pending.push_back(Part::Prompt { done, cached, total });
            }
            Event::Token { choice, text, logprobs, id } => {
                self.text(index(choice), text, id, logprobs);
            }
            Event::End { choice, finish, stop } => self.end(index(choice), finish, stop),
            Event::Done(usage) => {
                add(&mut self.usage, &usage);
                self.unfinished -= 1;
                if self.unfinished == 0 {
                    self.pending.push_back(Part::Done(self.usage));
                    self.is_over = true;
                }
            }
            _ => {}
        }
    }

    fn text(&mut self, index: usize, text: String, token: Option<u32>, logprobs: Option<Logprobs>) {
        let mut events = match &mut self.parsers[index] {
            Some(parser) => {
                let was_reasoning = parser.is_reasoning();
                let events = parser.push(&text);
                let is_reasoning = was_reasoning || parser.is_reasoning();
                self.reasoning_tokens[index] += usize::from(is_reasoning && token.is_some());
                events
            }
            None if text.is_empty() => Vec::new(),
            None => vec![AnswerEvent::Content(text)],
        };
        if events.is_empty() && logprobs.is_some() {
            events.push(AnswerEvent::Content(String::new()));
        }
        let mut scores = logprobs;
        for event in events {
            let logprobs = scores.take();
            self.pending.push_back(Part::Text { index, event, token, logprobs });
        }
    }

    fn end(&mut self, index: usize, finish: FinishReason, stop: Option<String>) {
        let answer = self.parsers[index].take().map(AnswerParser::finish);
        let mut message = None;
        if let Some(answer) = answer {
            for event in answer.events {
                let text = Part::Text { index, event, token: None, logprobs: None };
                self.pending.push_back(text);
            }
            message = Some(answer.message);
        }
        let reasoning_tokens = self.reasoning_tokens[index];
        let end = Ending { finish, stop, message, reasoning_tokens };
        self.pending.push_back(Part::End { index, end });
    }

    /// Waits for the whole of a request with one text.
    pub(crate) async fn whole(mut self) -> Result<Written, ApiError> {
        let mut text = Message::new("assistant", "");
        let mut all = Vec::new();
        let mut ending = None;
        while let Some(part) = self.next().await {
            match part? {
                Part::Text { event, logprobs, .. } => {
                    all.extend(logprobs);
                    if let AnswerEvent::Content(piece) = event {
                        text.content.push_str(&piece);
                    }
                }
                Part::End { end, .. } => ending = Some(end),
                Part::Done(_) | Part::Prompt { .. } => {}
            }
        }
        let end = ending.ok_or(EngineError::ShuttingDown)?;
        let message = end.message.clone().unwrap_or(text);
        Ok(Written { message, end, usage: self.usage, logprobs: all })
    }
}

/// Adds the tokens of another request in one; its times count as far as they are longer.
pub(crate) fn add(sum: &mut Usage, usage: &Usage) {
    sum.prompt_tokens += usage.prompt_tokens;
    sum.cached_tokens += usage.cached_tokens;
    sum.written_tokens += usage.written_tokens;
    sum.queue_time = sum.queue_time.max(usage.queue_time);
    sum.prompt_time = sum.prompt_time.max(usage.prompt_time);
    sum.write_time = sum.write_time.max(usage.write_time);
}

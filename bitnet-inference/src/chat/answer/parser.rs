//! The state machine that tells reasoning, text and calls apart.

use std::sync::Arc;

use super::call_text::{CallText, Kind, Progress};
use super::calls::FUNCTION;
use super::{Answer, AnswerEvent, AnswerFormat, AnswerNote, CallSyntax};
use crate::chat::{FunctionCall, Message, ToolCall, Tools};
use crate::generate::longest_suffix_prefix;

const CALL: &str = "<tool_call>";
const CALL_END: &str = "</tool_call>";
const PYTHON: &str = "<|tool_call_start|>";
const PYTHON_END: &str = "<|tool_call_end|>";
const PYTHON_TAG: &str = "<|python_tag|>";

/// Tells reasoning, text and calls of an answer apart while its text comes: see [`AnswerFormat`] and [`AnswerEvent`].
///
/// White space is dropped around the reasoning, and where only calls are beside it. An answer without reasoning and
/// calls leaves as it came.
#[derive(Debug, Clone)]
pub struct AnswerParser {
    format: AnswerFormat,
    tools: Arc<Tools>,
    state: State,
    /// Text that is not decided yet.
    held: String,
    /// White space after the content: it goes before more content, or is dropped.
    gap: String,
    /// White space before the content is dropped.
    trims: bool,
    /// No more text will come.
    finishing: bool,
    /// Calls end at the first tag that closes one, even in a string.
    strict: bool,
    /// What the ids of calls begin with, before their number.
    id_prefix: String,
    next_id: usize,
    message: Message,
    notes: Vec<AnswerNote>,
    events: Vec<AnswerEvent>,
}

#[derive(Debug, Clone)]
enum State {
    /// Before anything but white space: reasoning may begin.
    Start,
    /// Within the reasoning.
    Reasoning,
    /// Before the content: an answer that is a call as a whole may begin.
    Answer,
    /// After such a call: another one may follow.
    NextObject,
    /// Within the content.
    Content,
    /// Within a call, of which the text before the held one is here.
    Call(CallText),
    /// After a function without a tag before it: the tag after it may come all the same.
    AfterFunction,
}

impl AnswerParser {
    /// A parser for an answer in this format. Calls are looked for if there are `tools`.
    pub fn new(format: AnswerFormat, tools: Arc<Tools>) -> Self {
        Self {
            format,
            tools,
            state: State::Start,
            held: String::new(),
            gap: String::new(),
            trims: false,
            finishing: false,
            strict: false,
            id_prefix: "call_".into(),
            next_id: 0,
            message: Message::new("assistant", ""),
            notes: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Takes into account that the answer goes on after this prompt, which may have begun the reasoning.
    #[must_use]
    pub fn after_prompt(mut self, prompt: &str) -> Self {
        let opens = |tags: &super::Delimiters| prompt.trim_end().ends_with(tags.open);
        if self.format.reasoning.as_ref().is_some_and(opens) {
            self.state = State::Reasoning;
            self.trims = true;
        }
        self
    }

    /// Numbers the calls from `first` on: their ids are `call_0`, `call_1`, ...
    #[must_use]
    pub fn first_call(self, first: usize) -> Self {
        Self { next_id: first, ..self }
    }

    /// Begins the ids of calls with `prefix` instead of `call_`.
    #[must_use]
    pub fn call_prefix(self, prefix: impl Into<String>) -> Self {
        Self { id_prefix: prefix.into(), ..self }
    }

    /// Whether the text that comes next belongs to the reasoning, as far as is known.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.state, State::Reasoning)
    }

    /// Takes more text and returns what is complete now.
    pub fn push(&mut self, text: &str) -> Vec<AnswerEvent> {
        self.held.push_str(text);
        while self.step() {}
        std::mem::take(&mut self.events)
    }

    /// Ends the answer.
    pub fn finish(mut self) -> Answer {
        self.finishing = true;
        while self.step() {}
        if self.message.tool_calls.is_empty() && !self.gap.is_empty() {
            let gap = std::mem::take(&mut self.gap);
            self.message.content.push_str(&gap);
            self.events.push(AnswerEvent::Content(gap));
        }
        Answer { message: self.message, notes: self.notes, events: self.events }
    }

    /// Decides on some of the held text. Returns whether more of it may be decided.
    fn step(&mut self) -> bool {
        match &self.state {
            State::Start => self.start(),
            State::Reasoning => self.reason(),
            State::Answer => self.begin_object(false),
            State::NextObject => self.begin_object(true),
            State::Content => self.read_content(),
            State::Call(_) => self.read_call(),
            State::AfterFunction => self.drop_closing_tag(),
        }
    }

    fn start(&mut self) -> bool {
        if let Some(tags) = self.format.reasoning {
            let text = self.held.trim_start();
            if let Some(after) = text.strip_prefix(tags.open) {
                self.held = after.to_owned();
                self.trims = true;
                self.state = State::Reasoning;
                return true;
            }
            if tags.open.starts_with(text) && !self.finishing {
                return false;
            }
        }
        self.state = State::Answer;
        true
    }

    fn reason(&mut self) -> bool {
        let close = self.format.reasoning.map_or("", |tags| tags.close);
        let found = self.held.find(close);
        let end = match found {
            Some(at) => at,
            None if self.finishing => self.held.len(),
            None => self.held.len() - longest_suffix_prefix(&self.held, close),
        };
        let used = self.held.get(..end).unwrap_or_default().trim_end().len();
        let text = self.take(used);
        self.add_reasoning(&text);
        if found.is_some() {
            self.take(end - used + close.len());
            self.state = State::Answer;
            return true;
        }
        if self.finishing {
            self.held.clear();
            self.notes.push(AnswerNote::UnfinishedReasoning);
            self.state = State::Content;
        }
        false
    }

    /// Looks for a call that is a JSON object by itself, `after` another one or before the content.
    fn begin_object(&mut self, after: bool) -> bool {
        if self.format.calls != CallSyntax::Llama || self.tools.is_empty() {
            self.state = State::Content;
            return true;
        }
        let is_between = |c: char| c.is_whitespace() || (after && matches!(c, ';' | ','));
        let text = self.held.trim_start_matches(is_between);
        let tagged = text.strip_prefix(PYTHON_TAG).map(str::trim_start);
        let body = tagged.unwrap_or(text);
        if body.starts_with('{') {
            let opening = self.take(self.held.len() - body.len());
            self.state = State::Call(CallText::new(Kind::Object, opening));
            return true;
        }
        let may_come = body.is_empty() || (tagged.is_none() && PYTHON_TAG.starts_with(text));
        if may_come && !self.finishing {
            return false;
        }
        self.state = State::Content;
        true
    }

    fn read_content(&mut self) -> bool {
        let opens: &[(&str, Kind)] = match self.format.calls {
            _ if self.tools.is_empty() => &[],
            CallSyntax::None | CallSyntax::Llama => &[],
            CallSyntax::Hermes => &[(CALL, Kind::Tagged(CALL_END))],
            CallSyntax::Python => &[(PYTHON, Kind::Python(PYTHON_END))],
            CallSyntax::Xml => &[(CALL, Kind::Tagged(CALL_END)), (FUNCTION, Kind::Function)],
        };
        let found = opens.iter().filter_map(|&(tag, kind)| Some((self.held.find(tag)?, tag, kind)));
        if let Some((at, tag, kind)) = found.min_by_key(|(at, ..)| *at) {
            let content = self.take(at);
            self.add_content(&content);
            // A function's own tag is a part of it.
            let opening = if kind == Kind::Function { String::new() } else { self.take(tag.len()) };
            self.state = State::Call(CallText::new(kind, opening));
            return true;
        }
        let undecided = opens.iter().map(|(tag, _)| longest_suffix_prefix(&self.held, tag)).max();
        let undecided = undecided.filter(|_| !self.finishing).unwrap_or(0);
        let content = self.take(self.held.len() - undecided);
        self.add_content(&content);
        false
    }

    fn read_call(&mut self) -> bool {
        let State::Call(call) = &mut self.state else { return false };
        let progress = call.advance(&self.held, self.finishing, self.strict, &self.tools);
        let (kind, opening) = (call.kind, call.opening.clone());
        let length = match progress {
            Progress::Wait => return false,
            Progress::Restart => {
                self.strict = true;
                *call = CallText::new(kind, opening);
                return true;
            }
            Progress::Ends { length, .. } | Progress::Unfinished { length } => length,
        };
        let text = opening + &self.take(length);
        self.state = State::Content;
        // A JSON object that is no call is an answer, unless a tag says otherwise.
        let is_announced = kind != Kind::Object || text.contains(PYTHON_TAG);
        match progress {
            Progress::Ends { calls: Ok(functions), .. } => {
                functions.into_iter().for_each(|function| self.add_call(function));
                match kind {
                    Kind::Object => self.state = State::NextObject,
                    Kind::Function => self.state = State::AfterFunction,
                    Kind::Tagged(_) | Kind::Python(_) => {}
                }
            }
            Progress::Ends { calls: Err(problem), .. } => {
                self.add_content(&text);
                if is_announced {
                    self.notes.push(AnswerNote::MalformedCall { text, problem });
                }
            }
            _ => {
                self.add_content(&text);
                if is_announced {
                    self.notes.push(AnswerNote::UnfinishedCall { text });
                }
            }
        }
        true
    }

    fn drop_closing_tag(&mut self) -> bool {
        let text = self.held.trim_start();
        if text.starts_with(CALL_END) {
            self.take(self.held.len() - text.len() + CALL_END.len());
        } else if CALL_END.starts_with(text) && !self.finishing {
            return false;
        }
        self.state = State::Content;
        true
    }

    /// The first `length` bytes of the held text, which end at a character.
    fn take(&mut self, length: usize) -> String {
        let rest = self.held.split_off(length);
        std::mem::replace(&mut self.held, rest)
    }

    fn add_reasoning(&mut self, text: &str) {
        let is_first = self.message.reasoning_content.is_none();
        let text = if is_first { text.trim_start() } else { text };
        if !text.is_empty() {
            self.message.reasoning_content.get_or_insert_default().push_str(text);
            self.events.push(AnswerEvent::Reasoning(text.to_owned()));
        }
    }

    fn add_content(&mut self, text: &str) {
        let is_first = self.trims && self.message.content.is_empty();
        let text = if is_first { text.trim_start() } else { text };
        let body = text.trim_end();
        if !body.is_empty() {
            let shown = std::mem::take(&mut self.gap) + body;
            self.message.content.push_str(&shown);
            self.events.push(AnswerEvent::Content(shown));
        }
        self.gap.push_str(text.get(body.len()..).unwrap_or_default());
    }

    fn add_call(&mut self, function: FunctionCall) {
        if self.message.content.is_empty() {
            self.gap.clear();
            self.trims = true;
        }
        if self.tools.function(&function.name).is_none() {
            self.notes.push(AnswerNote::UnknownTool { name: function.name.clone() });
        }
        let id = format!("{}{}", self.id_prefix, self.next_id);
        self.next_id += 1;
        let call = ToolCall { id, function, ..ToolCall::default() };
        self.message.tool_calls.push(call.clone());
        self.events.push(AnswerEvent::ToolCall(call));
    }
}

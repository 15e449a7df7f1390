//! An answer while it is written: text, calls, and what is shown of the reasoning.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use bitnet_inference::chat::{
    Answer, AnswerEvent, AnswerParser, ChatOptions, Message, ToolCall, Tools,
};
use serde_json::{Value, json};

use crate::args::{AnswerArgs, ReasoningView};
use crate::input_text::{self, LONGEST_SETTINGS};
use crate::output::{Output, count, without_controls};

/// Returns the tools and the switch for reasoning.
///
/// # Errors
/// If the file of tools can't be read or is no list of tools.
pub(crate) fn chat_options(args: &AnswerArgs) -> Result<ChatOptions> {
    let tools = args.tools.as_deref().map(read_tools).transpose()?.unwrap_or_default();
    Ok(ChatOptions { tools, enable_thinking: args.enable_thinking(), ..ChatOptions::default() })
}

/// Reads a file of tools.
///
/// # Errors
/// If it can't be read or is no list of tools.
pub(crate) fn read_tools(path: &Path) -> Result<Arc<Tools>> {
    let text = input_text::read(path, LONGEST_SETTINGS)?;
    Ok(Arc::new(Tools::from_json(&text, &path.display().to_string())?))
}

/// Shows an answer while it is written.
#[derive(Debug)]
pub(crate) struct AnswerWriter {
    parser: AnswerParser,
    view: ReasoningView,
    /// Tokens of the reasoning so far.
    reasoning_tokens: usize,
    /// Whether the line of a folded reasoning is on the screen.
    folded: bool,
    /// What was printed last.
    last: Last,
    /// Nothing is printed.
    quiet: bool,
    /// Where the folded reasoning can be read, for the line in its place.
    hint: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    Reasoning,
    /// Content, and whether it ends in a line break.
    Content(bool),
}

impl AnswerWriter {
    pub(crate) fn new(parser: AnswerParser, view: Option<ReasoningView>, output: &Output) -> Self {
        let by_default =
            if output.stdout_is_terminal { ReasoningView::Fold } else { ReasoningView::Hide };
        Self {
            parser,
            view: view.unwrap_or(by_default),
            reasoning_tokens: 0,
            folded: false,
            last: Last::Nothing,
            quiet: output.json,
            hint: "",
        }
    }

    /// Adds to the line of a folded reasoning where it can be read.
    pub(crate) fn with_hint(self, hint: &'static str) -> Self {
        Self { hint, ..self }
    }

    /// Prints text that the answer goes on after.
    pub(crate) fn echo(&mut self, text: &str, output: &mut Output) -> Result<()> {
        if self.quiet || text.is_empty() {
            return Ok(());
        }
        self.last = Last::Content(text.ends_with('\n'));
        output.stream(text)
    }

    /// Takes the text of a token.
    pub(crate) fn push(&mut self, text: &str, output: &mut Output) -> Result<()> {
        let events = self.parser.push(text);
        let reasons = self.parser.is_reasoning();
        self.reasoning_tokens += usize::from(reasons);
        self.print(events, output)?;
        if reasons && self.view == ReasoningView::Fold && !self.quiet && output.stderr_is_terminal {
            output.fold_line(&format!("thinking… {}", count(self.reasoning_tokens, "token")));
            self.folded = true;
        }
        Ok(())
    }

    /// Ends the answer: prints what was held back, and notes.
    pub(crate) fn finish(mut self, output: &mut Output) -> Result<Answer> {
        let mut answer = self.parser.clone().finish();
        let events = std::mem::take(&mut answer.events);
        self.print(events, output)?;
        self.unfold(output);
        self.end_line(output)?;
        if !self.quiet {
            for note in &answer.notes {
                output.warning(&without_controls(&note.to_string()));
            }
        }
        Ok(answer)
    }

    fn print(&mut self, events: Vec<AnswerEvent>, output: &mut Output) -> Result<()> {
        if self.quiet {
            return Ok(());
        }
        for event in events {
            match event {
                AnswerEvent::Reasoning(text) if self.view == ReasoningView::Show => {
                    output.stream_dim(&text)?;
                    self.last = Last::Reasoning;
                }
                AnswerEvent::Reasoning(_) => {}
                AnswerEvent::Content(text) => {
                    self.unfold(output);
                    if self.last == Last::Reasoning {
                        output.end_stream_dim()?;
                        output.stream("\n\n")?;
                    }
                    output.stream(&text)?;
                    self.last = Last::Content(text.ends_with('\n'));
                }
                AnswerEvent::ToolCall(call) => {
                    self.unfold(output);
                    self.end_line(output)?;
                    output.verbatim(&shown_call(&call, output))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Replaces the line of a folded reasoning by one that stays.
    fn unfold(&mut self, output: &mut Output) {
        if self.folded {
            output.fold_line("");
        }
        if self.view == ReasoningView::Fold && self.reasoning_tokens > 0 && !self.quiet {
            let length = count(self.reasoning_tokens, "token");
            output.note(&format!("[thought for {length}{}]", self.hint));
            self.reasoning_tokens = 0;
        }
        self.folded = false;
    }

    fn end_line(&mut self, output: &mut Output) -> Result<()> {
        match self.last {
            Last::Reasoning => {
                output.end_stream_dim()?;
                output.stream("\n")?;
            }
            Last::Content(false) => output.stream("\n")?,
            Last::Content(true) | Last::Nothing => {}
        }
        self.last = Last::Nothing;
        Ok(())
    }
}

/// Returns a call as one line: `call NAME({"key": value})`.
fn shown_call(call: &ToolCall, output: &Output) -> String {
    // Line breaks between the values of a JSON object mean nothing; in its strings they are escaped.
    let in_line = |text: &str| without_controls(text).replace(['\n', '\t'], " ");
    let name = in_line(&call.function.name);
    let arguments = in_line(&call.function.arguments);
    format!("{} {}({arguments})", output.style.dim("call"), output.style.bold(&name))
}

/// Adds the parts of an answer to a document, with the field names of OpenAI's chat API.
pub(crate) fn add_to_json(value: &mut Value, answer: &Answer) {
    let Message { content, reasoning_content, tool_calls, .. } = &answer.message;
    value["content"] = json!(content);
    value["reasoning_content"] = json!(reasoning_content);
    value["tool_calls"] = json!(tool_calls);
    if !answer.notes.is_empty() {
        value["notes"] = answer.notes.iter().map(ToString::to_string).collect();
    }
}

//! Answers of a model: reasoning, text and calls told apart while the text comes.
//!
//! An [`AnswerParser`] takes the text in pieces and returns events. Where the pieces are cut has no bearing on what it
//! returns in all, and text that is no valid call stays text.
//!
//! ```
//! use std::sync::Arc;
//! use bitnet_inference::chat::{AnswerFormat, AnswerParser, Tools};
//!
//! let tools = Arc::new(Tools::from_json(br#"[{"name": "now"}]"#, "tools.json")?);
//! let format = AnswerFormat::of_template("<think> <tool_call>");
//! let mut parser = AnswerParser::new(format, tools);
//! for piece in ["<think>Which ti", "me?</think>\n\nA mom", "ent.<tool_c", "all>{\"name\": \"now\"}</tool_call>"] {
//!     let events = parser.push(piece); // to be shown
//! }
//! let message = parser.finish().message;
//! assert_eq!(message.reasoning_content.as_deref(), Some("Which time?"));
//! assert_eq!(message.content, "A moment.");
//! assert_eq!(message.tool_calls[0].function.name, "now");
//! # Ok::<(), bitnet_inference::chat::ToolsError>(())
//! ```

mod call_text;
mod calls;
mod format;
mod json_text;
mod parser;
mod python_calls;
#[cfg(test)]
mod tests;

use std::fmt;

use super::{Message, ToolCall};

pub use format::{AnswerFormat, CallSyntax, Delimiters};
pub use parser::AnswerParser;

/// A part of an answer that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerEvent {
    /// More of the reasoning.
    Reasoning(String),
    /// More of the text.
    Content(String),
    /// A call.
    ToolCall(ToolCall),
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The message, with the role `assistant`.
    pub message: Message,
    /// What is notable about it.
    pub notes: Vec<AnswerNote>,
    /// The last events, after those that [`AnswerParser::push`] returned.
    pub events: Vec<AnswerEvent>,
}

/// Something notable about an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerNote {
    /// A call can't be read; its text is part of the content.
    MalformedCall {
        /// The text.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The answer ends within a call; its text is part of the content.
    UnfinishedCall {
        /// The text.
        text: String,
    },
    /// The answer ends within the reasoning.
    UnfinishedReasoning,
    /// A call of a function that is not among the tools; it is one of the calls all the same.
    UnknownTool {
        /// The function.
        name: String,
    },
}

impl fmt::Display for AnswerNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MalformedCall { problem, .. } => {
                write!(f, "a call in the answer can't be read and stays text: {problem}")
            }
            Self::UnfinishedCall { .. } => {
                f.write_str("the answer ends within a call, which stays text")
            }
            Self::UnfinishedReasoning => f.write_str("the answer ends within the reasoning"),
            Self::UnknownTool { name } => {
                write!(f, "the model calls {name}, which is not among the tools")
            }
        }
    }
}

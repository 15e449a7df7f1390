//! What can go wrong between messages and the prompt that a model reads.

use super::Builtin;

/// What can go wrong between messages and the prompt that a model reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template can't be read.
    #[error(
        "{name}: {problem}; correct it, or choose another with --chat-template ({})",
        Builtin::names()
    )]
    Unreadable {
        /// What the template is called.
        name: String,
        /// The system's message.
        problem: String,
    },
    /// The model has no template of that name.
    #[error(
        "the model has no chat template named {name:?}{}; choose one with --chat-template: a file, or {}",
        listed(names),
        Builtin::names()
    )]
    UnknownName {
        /// The name.
        name: String,
        /// The names that the model's templates have.
        names: Vec<String>,
    },
    /// The template is no valid Jinja.
    #[error(
        "{name}: {problem}; correct the template, or choose another with --chat-template ({})",
        Builtin::names()
    )]
    Syntax {
        /// What the template is called.
        name: String,
        /// The parser's message.
        problem: String,
    },
    /// The template is longer than a template can sensibly be.
    #[error(
        "{name}: {size} bytes, but at most {limit} are taken; choose another with --chat-template ({})",
        Builtin::names()
    )]
    TooLong {
        /// What the template is called.
        name: String,
        /// Its length in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The template needs more steps, memory or output than a conversation of this size can need.
    #[error(
        "{name}: stopped, {problem}; the template is faulty or hostile: choose another with --chat-template ({})",
        Builtin::names()
    )]
    Limit {
        /// What the template is called.
        name: String,
        /// Which limit was reached.
        problem: String,
    },
    /// The template itself refuses these messages.
    #[error("{name}: the template refuses the conversation: {message}")]
    Raised {
        /// What the template is called.
        name: String,
        /// The template's own words.
        message: String,
    },
    /// The template leaves the tools out of the prompt.
    #[error(
        "{name}: the template does not tell the model about tools; leave --tools out, or choose a template that does with --chat-template"
    )]
    NoTools {
        /// What the template is called.
        name: String,
    },
    /// The template has no switch for reasoning.
    #[error(
        "{name}: the template has no switch for reasoning (enable_thinking); leave --think and --no-think out"
    )]
    NoThinkingSwitch {
        /// What the template is called.
        name: String,
    },
    /// The answer can't go on within the last message.
    #[error("{name}: the last message can't be continued: {problem}")]
    NotContinued {
        /// What the template is called.
        name: String,
        /// What stands against it.
        problem: &'static str,
    },
    /// Rendering failed.
    #[error(
        "{name}: {problem}; the template does not fit these messages, or uses what is not supported"
    )]
    Render {
        /// What the template is called.
        name: String,
        /// The engine's message.
        problem: String,
    },
}

/// The names of a model's templates, for a message.
fn listed(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(", but {}", names.join(", ")) }
}

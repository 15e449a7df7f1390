//! What can go wrong between messages and the prompt that a model reads.

/// What can go wrong between messages and the prompt that a model reads.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template is no valid Jinja.
    #[error("{name}: {problem}; correct the template or choose a built-in one")]
    Syntax {
        /// What the template is called.
        name: String,
        /// What the parser said.
        problem: String,
    },
    /// The template is longer than a template can sensibly be.
    #[error("{name}: {size} bytes, but at most {limit} are taken; choose a built-in template")]
    TooLong {
        /// What the template is called.
        name: String,
        /// Its length in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The template needs more steps, memory or output than a conversation of this size can need.
    #[error("{name}: stopped, {problem}; the template is faulty or hostile: choose a built-in one")]
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
    /// Rendering failed.
    #[error(
        "{name}: {problem}; the template does not fit these messages, or uses what is not supported"
    )]
    Render {
        /// What the template is called.
        name: String,
        /// What the engine said.
        problem: String,
    },
}

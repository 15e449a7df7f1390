//! Why a constraint is refused, or ends a text.

/// What can go wrong with a constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// A keyword of a JSON Schema can't be enforced, or has a value of the wrong kind.
    #[error("JSON Schema: {path}: {keyword}: {problem}")]
    Keyword {
        /// Where the keyword stands, as a JSON pointer: `#/properties/age`.
        path: String,
        /// The keyword.
        keyword: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// A constraint that is not valid, or that no text satisfies.
    #[error("{kind}: {problem}")]
    Invalid {
        /// `JSON Schema`, `regex` or `grammar`.
        kind: &'static str,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// A constraint that is too large to be compiled safely.
    #[error("{kind}: {what} {used}, at most {limit}; make it smaller")]
    TooLarge {
        /// `JSON Schema`, `regex` or `grammar`.
        kind: &'static str,
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        used: usize,
        /// How much there may be.
        limit: usize,
    },
    /// The text can't go on under its constraint: a limit was reached, or no token of the vocabulary fits.
    #[error("the text can't go on under its constraint: {0}")]
    Stopped(String),
}

//! What can go wrong between text and token ids.

/// What can go wrong between text and token ids.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The system refused the file.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not JSON, or not the JSON of a tokenizer.
    #[error("{file}: {problem}; fetch tokenizer.json again from where the model came from")]
    Syntax {
        /// The file.
        file: String,
        /// What the parser said.
        problem: String,
    },
    /// A field of the tokenizer is missing, impossible or contradicts another one.
    #[error("{file}: {field}: {problem}")]
    Invalid {
        /// The file.
        file: String,
        /// The field or metadata key.
        field: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// A part that this version does not know.
    #[error("{file}: {field} is {found:?}, which is not supported; supported: {supported}")]
    Unsupported {
        /// The file.
        file: String,
        /// The field or metadata key.
        field: String,
        /// What the file says.
        found: String,
        /// What would be accepted, or how to go round it.
        supported: String,
    },
    /// A field whose value is not obeyed and would change token ids.
    #[error(transparent)]
    Field(#[from] crate::known_fields::Refusal),
    /// A regular expression of the file needs too many steps on this text.
    #[error(
        "the split pattern {pattern:?} takes more than {limit} steps on this text; the tokenizer file is damaged or hostile, or the text must be given in smaller pieces"
    )]
    PatternTooSlow {
        /// The pattern, shortened.
        pattern: String,
        /// The limit in steps.
        limit: usize,
    },
    /// A part of a text that has to be encoded at once is too long: encoding takes about 100 bytes of memory for each.
    #[error(
        "the text that begins at byte {at}, {text:?}, has no place where it can be cut without a change of its tokens within {limit} bytes; give it in smaller pieces"
    )]
    NoPlaceToCut {
        /// Where the part begins, in bytes.
        at: usize,
        /// The longest part in bytes that is encoded at once.
        limit: usize,
        /// The part, shortened.
        text: String,
    },
    /// A token id that the vocabulary does not have.
    #[error(
        "token id {id} is not in the vocabulary of {size} tokens; the model and the tokenizer do not belong together"
    )]
    UnknownId {
        /// The id.
        id: u32,
        /// One past the highest id.
        size: usize,
    },
    /// The vocabulary cannot write this text.
    #[error(
        "the vocabulary has no token for {text:?} and no unknown token; the tokenizer file is incomplete"
    )]
    Unencodable {
        /// The piece of text, shortened.
        text: String,
    },
    /// The tokenizer library failed in a way that its own checks do not foresee.
    #[error(
        "{file}: the tokenizer failed while {action}: {problem}; check the file with the program that made it"
    )]
    Library {
        /// The file.
        file: String,
        /// What was being done.
        action: &'static str,
        /// What the library said.
        problem: String,
    },
}

/// The result of everything in this module that can fail.
pub(crate) type Result<T, E = TokenizerError> = std::result::Result<T, E>;

/// At most the first 80 characters of a text, for a message.
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

//! What can go wrong between a model on disk and text on the screen.

use std::path::PathBuf;

/// The result of everything in this crate that can fail.
pub type Result<T, E = InferenceError> = std::result::Result<T, E>;

/// What can go wrong between a model on disk and text on the screen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferenceError {
    /// The container could not be read.
    #[error(transparent)]
    Format(#[from] bitnet_formats::Error),
    /// The weights could not be decoded or quantised.
    #[error("{file}: tensor {tensor}: {source}")]
    Weights {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// What was wrong.
        source: Box<bitnet_quant::Error>,
    },
    /// An operation refused its operands.
    #[error(transparent)]
    Core(#[from] bitnet_core::Error),
    /// A setting of the model is missing, of the wrong kind, or impossible.
    #[error("{file}: {field}: {problem}")]
    Config {
        /// The file.
        file: String,
        /// The key or field.
        field: String,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// A tensor that the architecture needs is not in the file.
    #[error(
        "{file}: tensor {tensor} is missing; the file is incomplete or of another architecture than it declares"
    )]
    MissingTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// The file holds a tensor that its architecture does not have.
    #[error(
        "{file}: tensor {tensor} is not part of a {architecture} model, and ignoring it may give wrong results; the \
         file is of another architecture than it declares, or of a variant that is not supported"
    )]
    UnknownTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The architecture that the file names.
        architecture: String,
    },
    /// A tensor does not have the shape that the settings ask for.
    #[error(
        "{file}: tensor {tensor} has shape {got:?}, but the model's settings ask for {expected:?}"
    )]
    TensorShape {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// Its shape, rows first.
        got: Vec<usize>,
        /// The shape needed, rows first.
        expected: Vec<usize>,
    },
    /// Ranges of activations that are not those of the model.
    #[error(
        "calibration: {input} {problem}; it was made with another model, so make one with this model (`bitnet calibrate`)"
    )]
    Calibration {
        /// The input of linear layers.
        input: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A field whose value is not obeyed and would change what the model computes, reads or writes.
    #[error(transparent)]
    Field(#[from] crate::known_fields::Refusal),
    /// Something that this version does not do.
    #[error("{what} is not supported; {instead}")]
    UnsupportedOperation {
        /// The requested resource.
        what: String,
        /// What to do instead.
        instead: String,
    },
    /// A limit was reached: context length, memory.
    #[error("{what}: {used} requested, {limit} available; {advice}")]
    Resource {
        /// What ran out.
        what: &'static str,
        /// The requested amount.
        used: usize,
        /// How much there is.
        limit: usize,
        /// What to do.
        advice: &'static str,
    },
    /// Something is in use by another thread, or a thread has failed.
    #[error("{what}; {advice}")]
    Concurrency {
        /// What happened.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// The model computed a logit that is NaN or infinite, from which no token can be chosen.
    #[error(
        "{file}: after {position} tokens the model's logit of token {token} is {value}; `bitnet verify` names weights that are not finite"
    )]
    NonFiniteLogit {
        /// The model.
        file: String,
        /// Tokens that had been read.
        position: usize,
        /// The first token with such a logit.
        token: u32,
        /// The logit.
        value: f32,
    },
    /// The model computed an embedding with a number that is NaN or infinite.
    #[error(
        "{file}: the embedding of text {text} is not finite; `bitnet verify` names weights that are not finite"
    )]
    NonFiniteEmbedding {
        /// The model.
        file: String,
        /// The text, from 0.
        text: usize,
    },
    /// A request's own parameter is out of range.
    #[error("{parameter} = {value} is not valid: {problem}")]
    Parameter {
        /// The parameter.
        parameter: &'static str,
        /// Its value.
        value: String,
        /// What is valid.
        problem: &'static str,
    },
    /// A constraint on written text is refused, or ended a text.
    #[error(transparent)]
    Constraint(#[from] crate::constraint::ConstraintError),
    /// The tokenizer could not be read or refused a text.
    #[error(transparent)]
    Tokenizer(#[from] crate::tokenizer::TokenizerError),
    /// The chat template could not be read or rendered.
    #[error(transparent)]
    Template(#[from] crate::chat::TemplateError),
    /// A list of tools could not be read.
    #[error(transparent)]
    Tools(#[from] crate::chat::ToolsError),
    /// The system refused a file.
    #[error("{}: {source}; {}", path.display(), bitnet_core::file_advice(source.kind()))]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's message.
        source: std::io::Error,
    },
}

impl InferenceError {
    pub(crate) fn config(file: &str, field: &str, problem: impl Into<String>) -> Self {
        Self::Config { file: file.into(), field: field.into(), problem: problem.into() }
    }

    pub(crate) fn weights(
        file: &str,
        tensor: &str,
        source: impl Into<bitnet_quant::Error>,
    ) -> Self {
        let source = Box::new(source.into());
        Self::Weights { file: file.into(), tensor: tensor.into(), source }
    }

    pub(crate) fn shape(file: &str, tensor: &str, got: &[usize], expected: &[usize]) -> Self {
        let (got, expected) = (got.to_vec(), expected.to_vec());
        Self::TensorShape { file: file.into(), tensor: tensor.into(), got, expected }
    }

    pub(crate) fn unsupported(what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self::UnsupportedOperation { what: what.into(), instead: instead.into() }
    }
    /// The error for work with text that a model without tokenizer can't do.
    pub(crate) fn no_tokenizer(work: &str) -> Self {
        Self::unsupported(
            format!("{work} with a model that has no tokenizer"),
            "put tokenizer.json beside the model (programs can give token ids to `Session`)",
        )
    }
}

//! Constraints on written text: JSON, a JSON Schema, a regex or a grammar that it must follow.
//!
//! A [`Constraint`] is compiled once for a model ([`Model::compile_constraint`]); a [`Matcher`] then follows each text
//! and says which tokens may come next. Texts never go on without their constraint: what can't be enforced is refused
//! when it is compiled, and a text that can't be completed ends with an error.
//!
//! ```
//! use bitnet_inference::constraint::Constraint;
//! use bitnet_inference::{GenerateOptions, Model};
//!
//! let model = Model::embedded()?;
//! let constraint = Some(model.compile_constraint(&Constraint::Regex("(yes|no), [a-z]{3,8}\\.".into()))?);
//! let prompt = model.encode_prompt("Is the dog happy?")?;
//! let mut session = model.session(None)?;
//! let options = GenerateOptions { constraint, ..GenerateOptions::default() };
//! let mut generation = session.generate(&prompt, &options)?;
//! generation.by_ref().try_for_each(|token| token.map(drop))?;
//! let text = generation.finish().text;
//! assert!((text.starts_with("yes, ") || text.starts_with("no, ")) && text.ends_with('.'));
//! # Ok::<(), bitnet_inference::InferenceError>(())
//! ```

mod compile;
mod error;
mod lark;
mod matcher;
mod schema;
mod vocabulary;

use std::sync::{Arc, PoisonError};

use serde_json::Value;

pub(crate) use self::compile::Compiler;
pub use self::compile::Grammar;
pub use self::error::ConstraintError;
pub use self::matcher::{Matcher, TokenMask};
use crate::{InferenceError, Model, Result};

/// What a text must follow.
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// A JSON object.
    JsonObject,
    /// JSON that is valid under a JSON Schema (2020-12 and earlier ones). Members come in the order of `properties`, then
    /// those that are not named there. `format` is enforced; every keyword must be one that can be.
    JsonSchema(Value),
    /// A regex in the syntax of the `regex` crate, without look-around, that the whole text matches.
    Regex(String),
    /// A grammar in Lark's syntax, with llguidance's additions.
    Lark(String),
}

impl Constraint {
    /// One of several texts.
    pub fn choice<S: AsRef<str>>(choices: &[S]) -> Self {
        let choices: Vec<_> = choices.iter().map(|c| fancy_regex::escape(c.as_ref())).collect();
        Self::Regex(choices.join("|"))
    }

    /// What messages call it.
    fn kind(&self) -> &'static str {
        match self {
            Self::JsonObject | Self::JsonSchema(_) => "JSON Schema",
            Self::Regex(_) => "regex",
            Self::Lark(_) => "grammar",
        }
    }

    fn invalid(&self, problem: &str) -> ConstraintError {
        ConstraintError::Invalid { kind: self.kind(), problem: problem.to_owned() }
    }

    /// Turns the message of the library that compiles into an error that says where, if that can be told.
    fn refused(&self, message: &str) -> ConstraintError {
        /// Words of the messages, and the keywords that they are about.
        const KEYWORDS: [(&str, &str, &str); 3] = [
            (
                "oneOf",
                "oneOf",
                "can't be enforced unless its options exclude each other by a `const` of a required property, or by type; use `anyOf`",
            ),
            ("patternProperty", "patternProperties", ""),
            ("circular references", "$ref", ""),
        ];
        if let Self::JsonSchema(schema) = self {
            for (word, keyword, problem) in KEYWORDS {
                if let Some(path) =
                    message.contains(word).then(|| schema::place_of(schema, keyword)).flatten()
                {
                    let problem = if problem.is_empty() { message } else { problem };
                    let (keyword, problem) = (keyword.to_owned(), problem.to_owned());
                    return ConstraintError::Keyword { path, keyword, problem };
                }
            }
        }
        self.invalid(message)
    }
}

impl Model {
    /// Compiles a constraint for texts of this model. The first call reads the vocabulary for it.
    ///
    /// It takes milliseconds, seconds for the largest constraints: keep it off a thread that must not wait.
    ///
    /// # Errors
    /// [`InferenceError::Constraint`] for a constraint that is not valid, too large, or can't be enforced;
    /// [`InferenceError::UnsupportedOperation`] without a tokenizer.
    pub fn compile_constraint(&self, constraint: &Constraint) -> Result<Arc<Grammar>> {
        let tokenizer = self
            .tokenizer
            .as_ref()
            .ok_or_else(|| InferenceError::no_tokenizer("writing under a constraint"))?;
        let mut compiler = self.constraints.lock().unwrap_or_else(PoisonError::into_inner);
        let compiler = match &*compiler {
            Some(compiler) => Arc::clone(compiler),
            None => {
                let vocab_size = self.config().vocab_size;
                let made = Arc::new(Compiler::new(tokenizer, vocab_size, &self.end_tokens)?);
                Arc::clone(compiler.insert(made))
            }
        };
        Ok(Arc::new(compiler.compile(constraint)?))
    }
}

//! From a constraint to a grammar that texts can follow.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use llguidance::api::TopLevelGrammar;
use llguidance::derivre::RegexBuilder;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::InferenceCapabilities;
use llguidance::{JsonCompileOptions, Matcher as TokenMatcher, ParserFactory};
use serde_json::{Value, json};

use super::vocabulary::token_env;
use super::{Constraint, ConstraintError, Matcher, lark, schema};
use crate::tokenizer::Tokenizer;
use crate::{InferenceError, Result};

/// Bytes of a constraint's text, at most.
const MAX_TEXT: usize = 64 << 10;

/// Stack of the thread that compiles, for parsers that call themselves.
const STACK: usize = 64 << 20;

/// Symbols of a grammar, at most.
const MAX_SYMBOLS: usize = 100_000;

/// Rules that a text may be in at once: what each property of an object takes a few of.
const MAX_ITEMS_IN_ROW: usize = 20_000;

/// States that a text may make the lexer remember, of one or two KiB each.
const MAX_LEXER_STATES: usize = 50_000;

/// White space between the parts of a JSON text: none, one space, or a line with its indentation.
const WHITE_SPACE: &str = r" |\r?\n[ \t]{0,32}";

/// Compiles constraints for the vocabulary of one model.
pub(crate) struct Compiler {
    factory: ParserFactory,
    tokenizer: Arc<Tokenizer>,
    end_tokens: Arc<BTreeSet<u32>>,
}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiler").finish_non_exhaustive()
    }
}

impl Compiler {
    /// Reads the vocabulary.
    pub(super) fn new(
        tokenizer: &Arc<Tokenizer>,
        vocab_size: usize,
        end_tokens: &Arc<BTreeSet<u32>>,
    ) -> Result<Self> {
        let (tokenizer, end_tokens) = (Arc::clone(tokenizer), Arc::clone(end_tokens));
        let made = catch_unwind(AssertUnwindSafe(|| {
            let size = u32::try_from(vocab_size)?;
            let env = token_env(&tokenizer, size);
            let slices = SlicedBiasComputer::general_slices();
            ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
        }));
        let mut factory = match made {
            Ok(Ok(factory)) => factory,
            Ok(Err(error)) => return Err(unfit(&short(&error))),
            Err(_) => return Err(unfit("it has too many tokens, or too long ones")),
        };
        let limits = factory.limits_mut();
        limits.max_grammar_size = MAX_SYMBOLS;
        limits.max_items_in_row = MAX_ITEMS_IN_ROW;
        limits.max_lexer_states = MAX_LEXER_STATES;
        limits.verbose_errors = false;
        factory.quiet();
        Ok(Self { factory, tokenizer, end_tokens })
    }

    /// Compiles a constraint on a thread of its own.
    pub(super) fn compile(&self, constraint: &Constraint) -> Result<Grammar> {
        let compiled = thread::scope(|scope| {
            let thread = thread::Builder::new().name("bitnet-grammar".into()).stack_size(STACK);
            let thread = thread.spawn_scoped(scope, || self.compile_here(constraint));
            let thread = thread.map_err(|error| InferenceError::Concurrency {
                what: format!("the thread that compiles constraints can't be started: {error}"),
                advice: "end other programs, or raise the limit of threads",
            })?;
            thread.join().unwrap_or_else(|_| Err(constraint.invalid("it can't be compiled").into()))
        });
        Ok(Grammar {
            start: compiled?,
            constraint: constraint.clone(),
            tokenizer: Arc::clone(&self.tokenizer),
        })
    }

    fn compile_here(&self, constraint: &Constraint) -> Result<Matcher> {
        let kind = constraint.kind();
        let grammar = match constraint {
            Constraint::JsonObject => json_grammar(&json!({"type": "object"})),
            Constraint::JsonSchema(schema) => {
                schema::check(schema)?;
                check_size(kind, schema.to_string().len())?;
                json_grammar(schema)
            }
            Constraint::Regex(pattern) => {
                check_size(kind, pattern.len())?;
                check_regex(pattern)?;
                TopLevelGrammar::from_regex(pattern)
            }
            Constraint::Lark(text) => {
                check_size(kind, text.len())?;
                lark::check(text)?;
                TopLevelGrammar::from_lark(text.clone())
            }
        };
        let parser = self.factory.create_parser(grammar);
        let parser = parser.map_err(|error| constraint.refused(&short(&error)))?;
        let matcher = TokenMatcher::new(Ok(parser));
        let start = Matcher::new(matcher, Arc::clone(&self.end_tokens));
        let start = start.map_err(|error| constraint.invalid(&error.to_string()))?;
        if start.is_ended() {
            return Err(constraint.invalid("it allows no text but the empty one").into());
        }
        Ok(start)
    }
}

/// A compiled constraint, for texts of one model. It can be shared by any number of them.
pub struct Grammar {
    start: Matcher,
    constraint: Constraint,
    tokenizer: Arc<Tokenizer>,
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").field("constraint", &self.constraint).finish_non_exhaustive()
    }
}

/// Grammars are equal if they were compiled from the same constraint for the same model.
impl PartialEq for Grammar {
    fn eq(&self, other: &Self) -> bool {
        self.constraint == other.constraint && Arc::ptr_eq(&self.tokenizer, &other.tokenizer)
    }
}

impl Grammar {
    /// The constraint that it was compiled from.
    pub fn constraint(&self) -> &Constraint {
        &self.constraint
    }

    /// A matcher for one text.
    pub fn matcher(&self) -> Matcher {
        self.start.separate()
    }

    /// Returns an error if the grammar was compiled for another model than the one with this tokenizer.
    pub(crate) fn check_model(&self, tokenizer: Option<&Arc<Tokenizer>>) -> Result<()> {
        if tokenizer.is_some_and(|tokenizer| Arc::ptr_eq(tokenizer, &self.tokenizer)) {
            return Ok(());
        }
        Err(InferenceError::Parameter {
            parameter: "constraint",
            value: self.constraint.kind().to_owned(),
            problem: "compiled for another model; compile it for this one",
        })
    }
}

/// Returns the line of a message of the library that says what is wrong.
pub(super) fn short(error: &impl fmt::Display) -> String {
    let text = format!("{error:#}");
    let lines = || text.lines().filter(|line| !line.starts_with("<non-verbose"));
    let line = lines().find_map(|line| line.strip_prefix("error: ")).or_else(|| lines().next());
    line.unwrap_or_default().chars().take(300).collect()
}

fn unfit(problem: &str) -> InferenceError {
    InferenceError::unsupported(
        format!("writing under a constraint with this vocabulary ({problem})"),
        "write without one",
    )
}

fn check_size(kind: &'static str, used: usize) -> Result<(), ConstraintError> {
    if used <= MAX_TEXT {
        return Ok(());
    }
    Err(ConstraintError::TooLarge { kind, what: "bytes", used, limit: MAX_TEXT })
}

/// Checks what the grammar's parser would read otherwise than a regex is meant.
fn check_regex(pattern: &str) -> Result<(), ConstraintError> {
    let invalid = |problem: String| Err(ConstraintError::Invalid { kind: "regex", problem });
    if pattern.is_empty() {
        return invalid("it is empty".into());
    }
    if pattern.contains("(?P<stop>") || pattern.contains("(?<stop>") {
        return invalid("a group can't be called \"stop\"".into());
    }
    match RegexBuilder::new().mk_regex(pattern) {
        Ok(_) => Ok(()),
        Err(error) => invalid(short(&error)),
    }
}

fn json_grammar(schema: &Value) -> TopLevelGrammar {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        Value::Bool(false) => json!({"enum": []}),
        schema => schema.clone(),
    };
    let options = JsonCompileOptions {
        whitespace_pattern: Some(WHITE_SPACE.into()),
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut schema);
    TopLevelGrammar::from_json_schema(schema)
}

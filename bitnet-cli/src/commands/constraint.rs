//! Compilation of what a generated text must follow.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bitnet_inference::Model;
use bitnet_inference::chat::AnswerParser;
use bitnet_inference::constraint::{Constraint, Grammar};
use serde_json::Value;

use crate::args::ConstraintArgs;
use crate::input_text;

/// Bytes of a schema or a grammar, at most.
const LONGEST: u64 = 1 << 20;

/// Returns the constraint that the user asks for, compiled.
///
/// # Errors
/// If a file can't be read, or the constraint is not valid or can't be enforced.
pub(crate) fn compile(args: &ConstraintArgs, model: &Model) -> Result<Option<Arc<Grammar>>> {
    let (option, constraint) = if let Some(schema) = &args.json_schema {
        ("--json-schema", Constraint::JsonSchema(read_schema(schema)?))
    } else if let Some(regex) = &args.regex {
        ("--regex", Constraint::Regex(regex.clone()))
    } else if let Some(file) = &args.grammar {
        let text = input_text::read_text(file, LONGEST)?;
        if text.contains("::=") {
            bail!("--grammar: GBNF is not read; write the grammar in Lark's syntax");
        }
        ("--grammar", Constraint::Lark(text))
    } else {
        return Ok(None);
    };
    let compiled = model.compile_constraint(&constraint);
    Ok(Some(compiled.with_context(|| format!("{option} can't be followed"))?))
}

/// Reads a schema from the text itself, or from the file that it names.
fn read_schema(given: &str) -> Result<Value> {
    if let Ok(schema @ (Value::Object(_) | Value::Bool(_))) = serde_json::from_str(given) {
        return Ok(schema);
    }
    let is_text = given.trim_start().starts_with('{');
    let text = match is_text {
        true => given.to_owned(),
        false => input_text::read_text(Path::new(given), LONGEST)?,
    };
    let name = if is_text { "the schema" } else { given };
    serde_json::from_str(&text).with_context(|| format!("--json-schema: {name} is not JSON"))
}

/// Returns an error if an answer would begin with reasoning, which can't follow a constraint.
pub(crate) fn check_answer(grammar: Option<&Arc<Grammar>>, parser: &AnswerParser) -> Result<()> {
    if grammar.is_some() && parser.is_reasoning() {
        bail!(
            "the model reasons before it answers, and the reasoning can't follow a constraint; add --no-think"
        );
    }
    Ok(())
}

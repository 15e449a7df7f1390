//! What an answer must follow: JSON, a JSON Schema, a regex, one of several texts, or a grammar, under the names by
//! which clients ask for it.

use std::time::Duration;

use bitnet_inference::InferenceError;
use bitnet_inference::chat::AnswerParser;
use bitnet_inference::constraint::Constraint;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::parameters::Parameters;
use crate::request::blocking;
use crate::state::AppState;

/// How long compiling may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Texts of a choice, at most.
const MAX_CHOICES: usize = 1024;

/// A constraint with the field that asks for it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    field: String,
    constraint: Constraint,
}

/// Returns the constraint that a request asks for.
///
/// OpenAI's `response_format`, llama.cpp's `json_schema` and `grammar`, SGLang's `regex`, and vLLM's `structured_outputs`
/// and earlier `guided_*` fields are read.
///
/// # Errors
/// For a field that is not understood, and for a second constraint.
pub(crate) fn asked(body: &Map<String, Value>) -> Result<Option<Asked>, ApiError> {
    let mut found = Vec::new();
    for (name, value) in body.iter().filter(|(_, value)| !value.is_null()) {
        let constraint = match name.as_str() {
            "response_format" => {
                found.extend(of_format(name, Some(value))?);
                None
            }
            "structured_outputs" => structured_outputs(value)?,
            "json_schema" | "guided_json" => Some((name.clone(), schema(name, value)?)),
            "regex" | "guided_regex" => Some((name.clone(), regex(name, value)?)),
            "grammar" | "guided_grammar" => Some((name.clone(), lark(name, value)?)),
            "guided_choice" => Some((name.clone(), choice(name, value)?)),
            "ebnf" | "structural_tag" | "guided_whitespace_pattern" => {
                return Err(ApiError::field(name, "is not supported"));
            }
            _ => None,
        };
        found.extend(constraint.map(|(field, constraint)| Asked { field, constraint }));
    }
    one(found.into_iter())
}

/// Returns the only one of several constraints.
///
/// # Errors
/// For a second one.
pub(crate) fn one(found: impl Iterator<Item = Asked>) -> Result<Option<Asked>, ApiError> {
    let mut one: Option<Asked> = None;
    for asked in found {
        if let Some(first) = &one {
            let problem = format!("an answer can't follow {} too; give one of them", first.field);
            return Err(ApiError::field(&asked.field, problem));
        }
        one = Some(asked);
    }
    Ok(one)
}

/// Returns what a field asks for that has the form of OpenAI's `response_format`; of Responses and Anthropic, whose schema
/// stands beside the type, too.
pub(crate) fn of_format(name: &str, value: Option<&Value>) -> Result<Option<Asked>, ApiError> {
    let Some(format) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let beside = format.get("schema").filter(|schema| !schema.is_null());
    let inside = format.get("json_schema").and_then(|format| format.get("schema"));
    let (field, given) = match inside {
        Some(given) => (format!("{name}.json_schema.schema"), Some(given)),
        None => (format!("{name}.schema"), beside),
    };
    let constraint = match (format.get("type").and_then(Value::as_str), given) {
        (Some("text"), _) => return Ok(None),
        (Some("json_schema" | "json_object"), Some(given)) => schema(&field, given)?,
        (Some("json_schema"), None) => return Err(ApiError::field(name, "has no schema")),
        (Some("json_object"), None) => Constraint::JsonObject,
        _ => {
            let problem = "its type must be \"text\", \"json_object\" or \"json_schema\"";
            return Err(ApiError::field(name, problem));
        }
    };
    Ok(Some(Asked { field, constraint }))
}

/// Returns what Ollama's `format` asks for: "json", or a schema.
pub(crate) fn of_ollama(value: Option<&Value>) -> Result<Option<Asked>, ApiError> {
    let constraint = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(name)) if name.is_empty() => return Ok(None),
        Some(Value::String(name)) if name == "json" => Constraint::JsonObject,
        Some(schema @ Value::Object(_)) => Constraint::JsonSchema(schema.clone()),
        Some(_) => return Err(ApiError::field("format", "must be \"json\" or a schema")),
    };
    Ok(Some(Asked { field: "format".into(), constraint }))
}

type Named = Option<(String, Constraint)>;

fn structured_outputs(value: &Value) -> Result<Named, ApiError> {
    let wrong = |problem| ApiError::field("structured_outputs", problem);
    let fields = value.as_object().ok_or_else(|| wrong("must be an object"))?;
    let mut found = None;
    for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let name = format!("structured_outputs.{key}");
        let constraint = match key.as_str() {
            "json" => schema(&name, value)?,
            "json_object" if value == &Value::Bool(true) => Constraint::JsonObject,
            "regex" => regex(&name, value)?,
            "choice" => choice(&name, value)?,
            "grammar" => lark(&name, value)?,
            _ if value == &Value::Bool(false) => continue,
            _ => return Err(ApiError::field(&name, "is not supported")),
        };
        if found.replace((name, constraint)).is_some() {
            return Err(wrong("must have one of json, json_object, regex, choice and grammar"));
        }
    }
    Ok(found)
}

/// A schema, or the text of one.
fn schema(name: &str, value: &Value) -> Result<Constraint, ApiError> {
    match value {
        Value::String(text) => match serde_json::from_str(text) {
            Ok(schema) => Ok(Constraint::JsonSchema(schema)),
            Err(error) => Err(ApiError::field(name, format!("is not JSON: {error}"))),
        },
        schema => Ok(Constraint::JsonSchema(schema.clone())),
    }
}

fn text<'a>(name: &str, value: &'a Value) -> Result<&'a str, ApiError> {
    value.as_str().ok_or_else(|| ApiError::field(name, "must be a text"))
}

fn regex(name: &str, value: &Value) -> Result<Constraint, ApiError> {
    Ok(Constraint::Regex(text(name, value)?.to_owned()))
}

fn lark(name: &str, value: &Value) -> Result<Constraint, ApiError> {
    let grammar = text(name, value)?;
    if grammar.contains("::=") {
        let problem =
            "GBNF is not read; write the grammar in Lark's syntax (`start: \"yes\" | \"no\"`)";
        return Err(ApiError::field(name, problem));
    }
    Ok(Constraint::Lark(grammar.to_owned()))
}

fn choice(name: &str, value: &Value) -> Result<Constraint, ApiError> {
    let choices = value.as_array().filter(|list| !list.is_empty() && list.len() <= MAX_CHOICES);
    let texts = choices.and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    match texts {
        Some(texts) => Ok(Constraint::choice(&texts)),
        None => Err(ApiError::field(name, format!("must be 1 to {MAX_CHOICES} texts"))),
    }
}

/// Returns parameters with what they ask for compiled, beside the connections. `parser` takes the answer apart.
///
/// # Errors
/// 400 with the field, and the keyword, for what can't be enforced, what takes too long to compile, and where an answer
/// begins with reasoning.
pub(crate) async fn compiled(
    state: &AppState,
    parameters: &Parameters,
    parser: Option<&AnswerParser>,
) -> Result<Parameters, ApiError> {
    let mut parameters = parameters.clone();
    let Some(Asked { field, constraint }) = parameters.constraint.take() else {
        return Ok(parameters);
    };
    if parser.is_some_and(AnswerParser::is_reasoning) {
        let problem = "the model reasons before it answers, and the reasoning can't follow it; \
                       switch reasoning off (chat_template_kwargs: {\"enable_thinking\": false})";
        return Err(ApiError::field(&field, problem));
    }
    let (state, name) = (state.clone(), field.clone());
    let compiling = blocking(move || {
        state.model().compile_constraint(&constraint).map_err(|error| match error {
            InferenceError::Constraint(error) => ApiError::field(&name, error),
            error => error.into(),
        })
    });
    let grammar = tokio::time::timeout(PATIENCE, compiling).await.unwrap_or_else(|_| {
        let problem = format!("took longer than {PATIENCE:?} to compile; make it smaller");
        Err(ApiError::field(&field, problem))
    });
    parameters.options.constraint = Some(grammar?);
    Ok(parameters)
}

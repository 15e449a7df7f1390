//! The text of one call, in the forms that templates ask for, to a function and its arguments.

use serde_json::Value;

use super::json_text::members;
use crate::chat::{FunctionCall, Tools};

/// Reads `{"name": …, "arguments": {…}}`, with `parameters` in place of `arguments` (Llama 3) as well.
///
/// # Errors
/// What is wrong with the text, for a message.
pub(super) fn from_json(text: &str) -> Result<FunctionCall, String> {
    let members = members(text)?;
    let find = |key: &str| members.iter().find(|(name, _)| name == key).map(|(_, value)| *value);
    let name = find("name").ok_or("the name of the function is missing")?;
    let name: String =
        serde_json::from_str(name).map_err(|_| "the name of the function is not a text")?;
    if name.is_empty() {
        return Err("the name of the function is empty".into());
    }
    let arguments = match find("arguments").or_else(|| find("parameters")) {
        None | Some("null") => "{}".to_owned(),
        Some(text) if text.starts_with('{') => text.to_owned(),
        // The object, written as a text.
        Some(text) => match serde_json::from_str::<String>(text) {
            Ok(inner) if members_of(&inner) => inner.trim().to_owned(),
            _ => return Err("the arguments are not an object".into()),
        },
    };
    Ok(FunctionCall { name, arguments })
}

fn members_of(text: &str) -> bool {
    members(text).is_ok()
}

/// Reads `<function=NAME><parameter=KEY>VALUE</parameter>…</function>` (Qwen3-Coder, Qwen3.5). A value is what the
/// parameter's JSON schema says, and a text where it says nothing else.
///
/// # Errors
/// What is wrong with the text, for a message.
pub(super) fn from_xml(text: &str, tools: &Tools) -> Result<FunctionCall, String> {
    let inner = text
        .trim()
        .strip_prefix(FUNCTION)
        .and_then(|text| text.strip_suffix(FUNCTION_END))
        .ok_or("not one <function=…> … </function>")?;
    let (name, mut rest) = inner.split_once('>').ok_or("the tag <function=…> does not end")?;
    let name = name.trim().trim_matches(['"', '\'']);
    if name.is_empty() || name.contains(['<', '\n']) {
        return Err("the name of the function is missing".into());
    }
    let mut arguments = String::new();
    let mut keys: Vec<&str> = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            break;
        }
        let parameter = rest.strip_prefix(PARAMETER).ok_or("text outside of parameters")?;
        let (key, after) = parameter.split_once('>').ok_or("the tag <parameter=…> does not end")?;
        let key = key.trim().trim_matches(['"', '\'']);
        let end = value_end(after).ok_or_else(|| format!("the parameter {key} does not end"))?;
        let (value, after) = after.split_at(end);
        rest = after.get(PARAMETER_END.len()..).unwrap_or_default();
        if key.is_empty() || keys.contains(&key) {
            return Err(format!("the parameter {key:?} has no name or is given twice"));
        }
        keys.push(key);
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        arguments.push_str(if arguments.is_empty() { "{" } else { ", " });
        arguments.push_str(&quoted(key));
        arguments.push_str(": ");
        arguments.push_str(&typed(value, tools.parameter(name, key)));
    }
    arguments.push_str(if arguments.is_empty() { "{}" } else { "}" });
    Ok(FunctionCall { name: name.to_owned(), arguments })
}

/// Begins a function.
pub(super) const FUNCTION: &str = "<function=";
/// Ends a function.
pub(super) const FUNCTION_END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
/// Ends a parameter.
pub(super) const PARAMETER_END: &str = "</parameter>";

/// Where a value ends: at the first closing tag that another parameter or the end follows, else at the first one.
fn value_end(text: &str) -> Option<usize> {
    let mut ends = text.match_indices(PARAMETER_END).map(|(at, _)| at);
    let first = ends.clone().next()?;
    let followed = ends.find(|at| {
        let after = text.get(at + PARAMETER_END.len()..).unwrap_or_default().trim_start();
        after.is_empty() || after.starts_with(PARAMETER)
    });
    Some(followed.unwrap_or(first))
}

/// The JSON text of a value by its schema.
fn typed(text: &str, schema: Option<&Value>) -> String {
    let mut types = Vec::new();
    collect_types(schema, &mut types, 0);
    let trimmed = text.trim();
    let spelled = match trimmed {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        other => other,
    };
    let fits = |kind: &str| types.contains(&kind);
    let is_json = match serde_json::from_str::<Value>(spelled) {
        Ok(Value::Null) => fits("null"),
        Ok(Value::Bool(_)) => fits("boolean"),
        Ok(Value::Number(number)) => {
            fits("number")
                || (fits("integer") && !number.is_f64())
                || (fits("integer") && spelled.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
        }
        Ok(Value::Array(_)) => fits("array"),
        Ok(Value::Object(_)) => fits("object"),
        Ok(Value::String(_)) | Err(_) => false,
    };
    if is_json { spelled.to_owned() } else { quoted(text) }
}

/// The types that a schema allows, in its alternatives too.
fn collect_types<'s>(schema: Option<&'s Value>, types: &mut Vec<&'s str>, depth: usize) {
    let Some(schema) = schema.filter(|_| depth < 8) else { return };
    match schema.get("type") {
        Some(Value::String(name)) => types.push(name),
        Some(Value::Array(names)) => types.extend(names.iter().filter_map(Value::as_str)),
        _ => {}
    }
    for key in ["anyOf", "oneOf"] {
        for part in schema.get(key).and_then(Value::as_array).into_iter().flatten() {
            collect_types(Some(part), types, depth + 1);
        }
    }
}

/// A text as JSON.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn call(name: &str, arguments: &str) -> Result<FunctionCall, String> {
        Ok(FunctionCall { name: name.into(), arguments: arguments.into() })
    }

    #[test]
    fn json_calls_keep_the_text_of_their_arguments() {
        let text = r#"{"name": "f", "arguments": {"id": 12345678901234567890123, "x": 1.0}}"#;
        assert_eq!(from_json(text), call("f", r#"{"id": 12345678901234567890123, "x": 1.0}"#));
        let text = "\n{\"parameters\": {\"a\": \"b\"}, \"name\": \"f\", \"type\": \"function\"}\n";
        assert_eq!(from_json(text), call("f", r#"{"a": "b"}"#));
        assert_eq!(from_json(r#"{"name": "f"}"#), call("f", "{}"));
        assert_eq!(
            from_json(r#"{"name": "f", "arguments": "{\"a\": 1}"}"#),
            call("f", r#"{"a": 1}"#)
        );
        for wrong in [
            "{}",
            r#"{"name": ""}"#,
            r#"{"name": 1}"#,
            r#"{"name": "f", "arguments": [1]}"#,
            r#"{"name": "f", "arguments": "no"}"#,
            r#"{"name": "f", "arguments": {"#,
            "f()",
        ] {
            assert!(from_json(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn xml_values_have_the_types_of_the_schema() {
        let properties = json!({
            "s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"}, "b": {"type": "boolean"},
            "l": {"type": "array"}, "o": {"anyOf": [{"type": "object"}, {"type": "null"}]}, "m": {"type": ["integer", "string"]},
        });
        let list = json!([{"name": "f", "parameters": {"properties": properties}}]);
        let tools = Tools::from_value(list, "t").unwrap();
        let read =
            |parameters: &str| from_xml(&format!("<function=f>{parameters}</function>"), &tools);
        let one =
            |key: &str, value: &str| read(&format!("\n<parameter={key}>\n{value}\n</parameter>\n"));
        for (key, value, expected) in [
            ("s", "5", "\"5\""),
            ("s", "a\nb ", "\"a\\nb \""),
            ("s", "x </parameter> y", "\"x </parameter> y\""),
            ("i", "5", "5"),
            ("i", "12345678901234567890123", "12345678901234567890123"),
            ("i", "5.5", "\"5.5\""),
            ("i", "five", "\"five\""),
            ("n", "-5e3", "-5e3"),
            ("b", "True", "true"),
            ("b", "false", "false"),
            ("l", "[1, \"a\"]", "[1, \"a\"]"),
            ("o", "{\"a\": 1}", "{\"a\": 1}"),
            ("o", "None", "null"),
            ("m", "7", "7"),
            ("m", "x", "\"x\""),
            ("unknown", "7", "\"7\""),
        ] {
            assert_eq!(
                one(key, value),
                call("f", &format!("{{\"{key}\": {expected}}}")),
                "{key} {value}"
            );
        }
        assert_eq!(read(""), call("f", "{}"));
        assert_eq!(
            read("<parameter=i>1</parameter><parameter=s></parameter>"),
            call("f", "{\"i\": 1, \"s\": \"\"}")
        );
        for wrong in [
            "<function=>\n</function>",
            "<function=f",
            "<function=f>x</function>",
            "<function=f><parameter=a>1</function>",
            "<function=f><parameter=a</function>",
            "<function=f><parameter=a>1</parameter><parameter=a>1</parameter></function>",
            "<function=f></function>x",
            "",
        ] {
            assert!(from_xml(wrong, &tools).is_err(), "{wrong}");
        }
    }
}

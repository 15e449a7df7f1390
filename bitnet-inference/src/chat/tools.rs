//! Functions that a model may call, as OpenAI's chat API describes them: checked, and passed to templates as they are.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::bounded_json::Bounded;

/// Most JSON values in a list of tools.
const MAX_VALUES: usize = 20_000;
/// Deepest nesting of a list of tools.
const MAX_DEPTH: usize = 64;
/// Longest name of a function, in bytes.
const MAX_NAME: usize = 64;

/// What is wrong with a list of tools.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ToolsError {
    /// The file is no JSON.
    #[error(
        "{file}: {problem}; expected is a list of tools as JSON, as in the `tools` of OpenAI's chat API"
    )]
    Json {
        /// The file.
        file: String,
        /// The parser's message.
        problem: String,
    },
    /// A value is missing or of the wrong kind.
    #[error("{file}: {key}: {problem}")]
    Key {
        /// The file.
        file: String,
        /// Where the value stands: `[0].function.name`.
        key: String,
        /// What is wrong, and what is expected.
        problem: String,
    },
}

/// Functions that a model may call.
///
/// ```
/// use bitnet_inference::chat::Tools;
///
/// let json = br#"[{"type": "function", "function": {"name": "now", "description": "Tells the time"}}]"#;
/// let tools = Tools::from_json(json, "tools.json")?;
/// assert_eq!(tools.names().collect::<Vec<_>>(), ["now"]);
/// # Ok::<(), bitnet_inference::chat::ToolsError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tools {
    list: Vec<Value>,
    /// Length of their JSON text in bytes.
    size: usize,
}

impl Tools {
    /// Reads a list of `{"type": "function", "function": {"name", "description", "parameters"}}`, the same list as the
    /// field `tools` of an object, or one of functions without the part around them. `file` is what messages call it.
    ///
    /// # Errors
    /// [`ToolsError`] naming the file and the key.
    pub fn from_json(text: &[u8], file: &str) -> Result<Self, ToolsError> {
        let Bounded::<MAX_VALUES>(value) = serde_json::from_slice(text)
            .map_err(|error| ToolsError::Json { file: file.into(), problem: error.to_string() })?;
        Self::from_value(value, file)
    }

    /// Reads what [`Self::from_json`] reads from a JSON value.
    ///
    /// # Errors
    /// [`ToolsError::Key`] naming the key.
    pub fn from_value(value: Value, file: &str) -> Result<Self, ToolsError> {
        let at = Place { file, key: String::new() };
        let (at, value) = match value {
            Value::Object(mut object) if object.contains_key("tools") => {
                (at.key("tools"), object.remove("tools").unwrap_or_default())
            }
            value => (at, value),
        };
        let Value::Array(list) = value else {
            return Err(at.wrong("not a list of tools"));
        };
        if depth(&list) > MAX_DEPTH {
            return Err(at.wrong(format!("nested more than {MAX_DEPTH} deep")));
        }
        let mut names = HashSet::new();
        let mut checked = Vec::with_capacity(list.len());
        for (index, tool) in list.into_iter().enumerate() {
            let at = at.item(index);
            let tool = as_tool(tool, &at)?;
            let name = check_function(&tool["function"], &at.key("function"))?;
            if !names.insert(name.clone()) {
                return Err(at
                    .key("function")
                    .key("name")
                    .wrong(format!("{name:?} is the name of another tool too")));
            }
            checked.push(tool);
        }
        let size = checked.iter().map(|tool| tool.to_string().len()).sum();
        Ok(Self { list: checked, size })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The names of the functions.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.functions().filter_map(|function| function.get("name")?.as_str())
    }

    /// The descriptions of the functions, with `name` and, where given, `description` and `parameters`.
    pub fn functions(&self) -> impl Iterator<Item = &Value> {
        self.list.iter().filter_map(|tool| tool.get("function"))
    }

    /// The description of a function.
    pub fn function(&self, name: &str) -> Option<&Value> {
        self.functions().find(|function| function.get("name").and_then(Value::as_str) == Some(name))
    }

    /// The JSON schema of a parameter.
    pub(crate) fn parameter(&self, function: &str, parameter: &str) -> Option<&Value> {
        self.function(function)?.get("parameters")?.get("properties")?.get(parameter)
    }

    /// The list as templates get it.
    pub fn as_list(&self) -> &[Value] {
        &self.list
    }

    /// Length of their JSON text in bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }
}

/// Where a value stands.
struct Place<'a> {
    file: &'a str,
    key: String,
}

impl Place<'_> {
    fn key(&self, name: &str) -> Self {
        let dot = if self.key.is_empty() { "" } else { "." };
        Self { file: self.file, key: format!("{}{dot}{name}", self.key) }
    }

    fn item(&self, index: usize) -> Self {
        Self { file: self.file, key: format!("{}[{index}]", self.key) }
    }

    fn wrong(&self, problem: impl Into<String>) -> ToolsError {
        let key = if self.key.is_empty() { "the whole file" } else { &self.key };
        ToolsError::Key { file: self.file.into(), key: key.into(), problem: problem.into() }
    }
}

/// A tool with its function, whether or not the file has the part around it.
fn as_tool(tool: Value, at: &Place<'_>) -> Result<Value, ToolsError> {
    let Value::Object(object) = &tool else {
        return Err(at.wrong("not an object with \"type\" and \"function\""));
    };
    match object.get("type").map(|kind| kind.as_str()) {
        None | Some(Some("function")) => {}
        Some(_) => {
            return Err(at.key("type").wrong("only tools of the type \"function\" are supported"));
        }
    }
    for (other, whose) in [("input_schema", "Anthropic's API"), ("inputSchema", "MCP")] {
        if object.contains_key(other) {
            let problem = format!(
                "a key of {whose}; write {{\"type\": \"function\", \"function\": {{\"name\", \"description\", \"parameters\"}}}}"
            );
            return Err(at.key(other).wrong(problem));
        }
    }
    if object.contains_key("function") {
        let mut tool = tool;
        if let Value::Object(object) = &mut tool
            && !object.contains_key("type")
        {
            object.shift_insert(0, "type".into(), "function".into());
        }
        return Ok(tool);
    }
    if object.contains_key("name") && !object.contains_key("type") {
        return Ok(json!({"type": "function", "function": tool}));
    }
    Err(at.key("function").wrong("missing"))
}

/// Checks a function and returns its name.
fn check_function(function: &Value, at: &Place<'_>) -> Result<String, ToolsError> {
    let Value::Object(function) = function else { return Err(at.wrong("not an object")) };
    let at_name = at.key("name");
    let name = match function.get("name") {
        None => return Err(at_name.wrong("missing")),
        Some(name) => name.as_str().ok_or_else(|| at_name.wrong("not a text"))?,
    };
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_part) {
        return Err(at_name.wrong(format!(
            "not a name of 1 to {MAX_NAME} letters, digits, underscores, dashes or dots"
        )));
    }
    if let Some(description) = function.get("description")
        && !description.is_string()
    {
        return Err(at.key("description").wrong("not a text"));
    }
    match function.get("parameters") {
        None | Some(Value::Null) => {}
        Some(Value::Object(parameters)) => check_parameters(parameters, &at.key("parameters"))?,
        Some(_) => return Err(at.key("parameters").wrong("not an object (a JSON schema)")),
    }
    Ok(name.to_owned())
}

fn check_parameters(schema: &Map<String, Value>, at: &Place<'_>) -> Result<(), ToolsError> {
    if schema.get("type").is_some_and(|kind| kind != "object") {
        return Err(at.key("type").wrong("not \"object\", the type of a function's parameters"));
    }
    let at_properties = at.key("properties");
    let properties = match schema.get("properties") {
        None => None,
        Some(Value::Object(properties)) => Some(properties),
        Some(_) => return Err(at_properties.wrong("not an object")),
    };
    for (name, property) in properties.into_iter().flatten() {
        if !property.is_object() && !property.is_boolean() {
            return Err(at_properties.key(name).wrong("not a JSON schema"));
        }
    }
    let required = match schema.get("required") {
        None => return Ok(()),
        Some(Value::Array(required)) => required,
        Some(_) => return Err(at.key("required").wrong("not a list of names")),
    };
    for (index, name) in required.iter().enumerate() {
        let at = at.key("required").item(index);
        let name = name.as_str().ok_or_else(|| at.wrong("not a text"))?;
        if !properties.is_some_and(|properties| properties.contains_key(name)) {
            return Err(at.wrong(format!("{name:?} is not one of the properties")));
        }
    }
    Ok(())
}

/// Nesting of a list, itself counted; the parser of JSON has bounded it.
fn depth(list: &[Value]) -> usize {
    let inner = |value: &Value| match value {
        Value::Array(list) => depth(list),
        Value::Object(object) => {
            1 + object.values().map(|v| depth(std::slice::from_ref(v))).max().unwrap_or(0)
        }
        _ => 0,
    };
    1 + list.iter().map(inner).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &Value) -> Result<Tools, ToolsError> {
        Tools::from_json(value.to_string().as_bytes(), "t.json")
    }

    #[test]
    fn lists_objects_with_tools_and_bare_functions_are_read_alike() {
        let function = json!({"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, "strict": true});
        let tool = json!({"type": "function", "function": function});
        let expected = [tool.clone()];
        for value in [
            json!([tool]),
            json!({"model": "m", "tools": [tool]}),
            json!([function]),
            json!([{"function": function}]),
        ] {
            let tools = read(&value).unwrap();
            assert_eq!(tools.as_list(), expected, "{value}");
            assert_eq!(tools.as_list()[0].to_string(), expected[0].to_string());
            assert_eq!(tools.parameter("f", "a"), Some(&json!({"type": "string"})));
        }
        assert!(read(&json!([])).unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_by_its_key() {
        let with = |function: Value| json!([{"type": "function", "function": function}]);
        for (value, key) in [
            (json!("x"), "the whole file"),
            (json!({"tools": 1}), "tools"),
            (json!([1]), "[0]"),
            (json!([{"type": "retrieval"}]), "[0].type"),
            (json!([{"type": "function"}]), "[0].function"),
            (json!([{"name": "f", "input_schema": {}}]), "[0].input_schema"),
            (json!([{"name": "f", "inputSchema": {}}]), "[0].inputSchema"),
            (with(json!([])), "[0].function"),
            (with(json!({})), "[0].function.name"),
            (with(json!({"name": 1})), "[0].function.name"),
            (with(json!({"name": "a b"})), "[0].function.name"),
            (with(json!({"name": "f".repeat(65)})), "[0].function.name"),
            (with(json!({"name": "f", "description": 1})), "[0].function.description"),
            (with(json!({"name": "f", "parameters": []})), "[0].function.parameters"),
            (
                with(json!({"name": "f", "parameters": {"type": "array"}})),
                "[0].function.parameters.type",
            ),
            (
                with(json!({"name": "f", "parameters": {"properties": 1}})),
                "[0].function.parameters.properties",
            ),
            (
                with(json!({"name": "f", "parameters": {"properties": {"a": 1}}})),
                "[0].function.parameters.properties.a",
            ),
            (
                with(json!({"name": "f", "parameters": {"required": 1}})),
                "[0].function.parameters.required",
            ),
            (
                with(json!({"name": "f", "parameters": {"required": ["a"]}})),
                "[0].function.parameters.required[0]",
            ),
            (json!({"tools": [{"name": "f"}, {"name": "f"}]}), "tools[1].function.name"),
        ] {
            match read(&value) {
                Err(ToolsError::Key { file, key: found, .. }) => {
                    assert_eq!((file.as_str(), found.as_str()), ("t.json", key), "{value}");
                }
                other => panic!("{value}: {other:?}"),
            }
        }
        assert!(matches!(Tools::from_json(b"[", "t.json"), Err(ToolsError::Json { .. })));
        let long = format!("[{{\"name\": \"f\", \"x\": [{}1]}}]", "1,".repeat(MAX_VALUES));
        assert!(matches!(Tools::from_json(long.as_bytes(), "t"), Err(ToolsError::Json { .. })));
        let deep = format!("[{{\"name\": \"f\", \"x\": {}{}}}]", "[".repeat(80), "]".repeat(80));
        assert!(matches!(Tools::from_json(deep.as_bytes(), "t"), Err(ToolsError::Key { .. })));
    }
}

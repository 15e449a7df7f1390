//! Messages of a conversation with the field names of OpenAI's chat API, and what a template sees of them.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// One message of a conversation.
///
/// As JSON it has OpenAI's fields: `role`, `content`, `tool_calls`, `tool_call_id`, `name`, and `reasoning_content` for
/// the model's reasoning. Fields without a value are left out, except `content`; `null` is read as none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or `tool` for the result of a call.
    pub role: String,
    /// The text; of an answer, without reasoning and calls.
    #[serde(default, deserialize_with = "or_default")]
    pub content: String,
    /// What the model wrote for itself before it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The calls that the model asks for.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Of a `tool` message: the id of the call that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Of a `tool` message: the function that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Message {
    /// A message of a role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }

    /// The result of a call.
    pub fn tool_result(call: &ToolCall, content: impl Into<String>) -> Self {
        Self {
            tool_call_id: (!call.id.is_empty()).then(|| call.id.clone()),
            name: Some(call.function.name.clone()),
            ..Self::new("tool", content)
        }
    }

    /// Length of all texts in bytes.
    pub(crate) fn size(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let call = |call: &ToolCall| {
            call.id.len() + call.function.name.len() + call.function.arguments.len()
        };
        self.role.len()
            + self.content.len()
            + text(&self.reasoning_content)
            + text(&self.tool_call_id)
            + text(&self.name)
            + self.tool_calls.iter().map(call).sum::<usize>()
    }

    /// The message as templates expect it: the arguments of a call are an object, not its text.
    pub(crate) fn for_template(&self) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        let calls = value.get_mut("tool_calls").and_then(Value::as_array_mut);
        for call in calls.into_iter().flatten() {
            let arguments = call.get_mut("function").and_then(|f| f.get_mut("arguments"));
            if let Some(arguments) = arguments
                && let Some(text) = arguments.as_str()
                && let Ok(object @ Value::Object(_)) = serde_json::from_str(text)
            {
                *arguments = object;
            }
        }
        value
    }
}

/// A call of a function that the model asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Tells the calls of a conversation apart; may be empty.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// What is called.
    #[serde(rename = "type", default)]
    pub kind: ToolKind,
    /// The function and its arguments.
    pub function: FunctionCall,
}

/// What is called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ToolKind {
    /// A function.
    #[default]
    Function,
}

/// A function and its arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// The arguments as JSON text, an object. An object itself is read too.
    #[serde(default, deserialize_with = "text_of_object")]
    pub arguments: String,
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn text_of_object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(text),
        Value::Null => Ok("{}".into()),
        object @ Value::Object(_) => Ok(object.to_string()),
        _ => Err(serde::de::Error::custom("arguments are neither an object nor its text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_have_the_fields_of_openai() {
        let json = json!({
            "role": "assistant", "content": "", "reasoning_content": "why",
            "tool_calls": [{"id": "call_0", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2.0}"}}],
        });
        let message: Message = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&message).unwrap(), json);
        let arguments = &message.for_template()["tool_calls"][0]["function"]["arguments"];
        assert_eq!(arguments.to_string(), "{\"b\":1,\"a\":2.0}");

        let result = Message::tool_result(&message.tool_calls[0], "3");
        let json = json!({"role": "tool", "content": "3", "tool_call_id": "call_0", "name": "f"});
        assert_eq!(serde_json::to_value(result).unwrap(), json);
    }

    #[test]
    fn null_is_none_and_objects_are_arguments() {
        let json = json!({"role": "assistant", "content": null, "reasoning_content": null, "tool_calls": null});
        let message: Message = serde_json::from_value(json).unwrap();
        assert_eq!(message, Message::new("assistant", ""));
        let json = json!({"function": {"name": "f", "arguments": {"x": [1]}}});
        let call: ToolCall = serde_json::from_value(json).unwrap();
        assert_eq!(
            (call.kind, call.function.arguments.as_str()),
            (ToolKind::Function, "{\"x\":[1]}")
        );
        for wrong in [
            json!({"function": {"name": "f", "arguments": [1]}}),
            json!({"type": "code", "function": {"name": "f"}}),
            json!({"function": {"arguments": {}}}),
        ] {
            assert!(serde_json::from_value::<ToolCall>(wrong.clone()).is_err(), "{wrong}");
        }
    }
}

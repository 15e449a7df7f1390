//! Conversations: messages and tools of a request, and the prompt that they become.

use std::sync::Arc;

use bitnet_inference::chat::{
    AnswerFormat, AnswerParser, ChatOptions, ChatTemplate, Message, PromptEnd, Tools,
};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::request::blocking;
use crate::state::AppState;

/// What an answer is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Message>,
    pub(crate) options: ChatOptions,
}

/// What the model reads, and what takes its answer apart.
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<u32>,
    pub(crate) parser: AnswerParser,
}

impl Conversation {
    /// Reads one with OpenAI's fields.
    pub(crate) fn of_openai(body: &Map<String, Value>) -> Result<Self, ApiError> {
        let (messages, tools) = (messages(body)?, tools(body)?);
        let end = prompt_end(body)?;
        let enable_thinking = enable_thinking(body)?;
        Ok(Self { messages, options: ChatOptions { tools, enable_thinking, end } })
    }

    /// Renders and tokenizes the prompt.
    pub(crate) async fn prompt(self, state: &AppState) -> Result<Prompt, ApiError> {
        let state = state.clone();
        blocking(move || {
            let model = state.model();
            let text = model.render_chat(&self.messages, &self.options)?;
            let tokens = model.encode_rendered(&text)?;
            // The calls of a conversation must be told apart by their ids.
            let ids = state.answer_id("call_") + "_";
            Ok(Prompt {
                tokens,
                parser: model.answer_parser(&text, &self.options).call_prefix(ids),
            })
        })
        .await
    }

    /// The last answer is continued, where a conversation ends with one.
    pub(crate) fn continue_last_answer(&mut self) {
        if self.messages.last().is_some_and(|last| last.role == "assistant") {
            self.options.end = PromptEnd::WithinLastMessage;
        }
    }

    /// Asks the model to reason or not to. Where its template has no switch, it reasons if it can.
    ///
    /// # Errors
    /// An error of `field` if the model should not reason and can't be told so.
    pub(crate) fn think(
        &mut self,
        wanted: Option<bool>,
        state: &AppState,
        field: &str,
    ) -> Result<(), ApiError> {
        if template_source(state).contains("enable_thinking") {
            self.options.enable_thinking = wanted;
        } else if wanted == Some(false) && answer_format(state).reasoning.is_some() {
            let problem = format!("{:?} can't answer without thinking", state.model_name);
            return Err(ApiError::field(field, problem));
        }
        Ok(())
    }
}

fn template_source(state: &AppState) -> &str {
    state.model().template().and_then(Result::ok).map_or("", ChatTemplate::source)
}

/// How the model marks its reasoning and its calls.
pub(crate) fn answer_format(state: &AppState) -> AnswerFormat {
    AnswerFormat::of_template(template_source(state))
}

/// Returns the messages of a request, with the texts of their parts joined.
pub(crate) fn messages(body: &Map<String, Value>) -> Result<Vec<Message>, ApiError> {
    let read = |(index, message): (usize, &Value)| {
        let place = format!("messages[{index}]");
        let mut message = message.clone();
        if let Some(parts) = message.get("content").and_then(Value::as_array) {
            let text = text_of_parts(parts, &place)?;
            message["content"] = Value::String(text);
        }
        let mut message: Message =
            serde_json::from_value(message).map_err(|error| ApiError::field(&place, error))?;
        if message.role == "developer" {
            message.role = "system".into();
        }
        Ok(message)
    };
    message_list(body)?.iter().enumerate().map(read).collect()
}

/// Returns the `messages` of a request; there is at least one.
pub(crate) fn message_list(body: &Map<String, Value>) -> Result<&[Value], ApiError> {
    match body.get("messages").and_then(Value::as_array) {
        None => Err(ApiError::field("messages", "must be a list of messages")),
        Some(list) if list.is_empty() => {
            Err(ApiError::field("messages", "must have at least one message"))
        }
        Some(list) => Ok(list),
    }
}

/// Returns the text of a value that is a text, a list of text parts, or nothing.
pub(crate) fn text_of(value: Option<&Value>, place: &str) -> Result<String, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => text_of_parts(parts, place),
        Some(_) => Err(ApiError::field(place, "must be a text or a list of parts")),
    }
}

fn text_of_parts(parts: &[Value], place: &str) -> Result<String, ApiError> {
    parts.iter().map(|part| text_of_part(part, place)).collect()
}

/// Returns the text of a part.
pub(crate) fn text_of_part<'a>(part: &'a Value, place: &str) -> Result<&'a str, ApiError> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
    match (kind, part.get("text").and_then(Value::as_str)) {
        ("text" | "input_text" | "output_text", Some(part)) => Ok(part),
        ("text" | "input_text" | "output_text", None) => {
            Err(ApiError::field(place, "a text part has no text"))
        }
        _ => {
            let problem = format!("parts of type {kind:?} are not supported; texts are");
            Err(ApiError::field(place, problem))
        }
    }
}

/// Returns the functions that the model may call, of a list in OpenAI's form.
pub(crate) fn tools_of(list: Value) -> Result<Arc<Tools>, ApiError> {
    let tools =
        Tools::from_value(list, "tools").map_err(|error| ApiError::field("tools", error))?;
    Ok(Arc::new(tools))
}

fn tools(body: &Map<String, Value>) -> Result<Arc<Tools>, ApiError> {
    let choice = body.get("tool_choice");
    check_tool_choice(choice)?;
    match (body.get("tools"), choice.and_then(Value::as_str)) {
        (None | Some(Value::Null), _) | (_, Some("none")) => Ok(Arc::default()),
        (Some(tools), _) => tools_of(tools.clone()),
    }
}

/// Refuses a choice that forces a call.
pub(crate) fn check_tool_choice(choice: Option<&Value>) -> Result<(), ApiError> {
    let name = match choice {
        Some(Value::Object(choice)) => choice.get("type").and_then(Value::as_str),
        Some(choice) => choice.as_str(),
        None => return Ok(()),
    };
    match (name, choice) {
        (Some("auto" | "none"), _) | (_, Some(Value::Null)) => Ok(()),
        _ => {
            let problem = "only \"auto\" and \"none\" are supported: no call is forced";
            Err(ApiError::field("tool_choice", problem))
        }
    }
}

/// Where the prompt ends, by the names of vLLM.
fn prompt_end(body: &Map<String, Value>) -> Result<PromptEnd, ApiError> {
    let flag = |name: &'static str| match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(ApiError::field(name, "must be true or false")),
    };
    match (flag("continue_final_message")?, flag("add_generation_prompt")?) {
        (Some(true), Some(true)) => {
            let problem = "true needs add_generation_prompt: false";
            Err(ApiError::field("continue_final_message", problem))
        }
        (Some(true), _) => Ok(PromptEnd::WithinLastMessage),
        (_, Some(false)) => Ok(PromptEnd::AfterMessages),
        _ => Ok(PromptEnd::NewAnswer),
    }
}

fn enable_thinking(body: &Map<String, Value>) -> Result<Option<bool>, ApiError> {
    let kwargs = body.get("chat_template_kwargs").and_then(Value::as_object);
    let mut names = kwargs.into_iter().flatten().map(|(name, _)| name);
    if let Some(name) = names.find(|name| *name != "enable_thinking") {
        let problem = format!("{name} is not supported; enable_thinking is");
        return Err(ApiError::field("chat_template_kwargs", problem));
    }
    let problem = "enable_thinking must be true or false";
    let flag = kwargs.and_then(|kwargs| kwargs.get("enable_thinking")).map(Value::as_bool);
    flag.map(|flag| flag.ok_or_else(|| ApiError::field("chat_template_kwargs", problem)))
        .transpose()
}

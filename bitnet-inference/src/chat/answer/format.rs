//! How a model marks its reasoning and its calls, by the text of its chat template.

/// How a model marks its reasoning and its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnswerFormat {
    /// What is around the reasoning, at the beginning of an answer.
    pub reasoning: Option<Delimiters>,
    /// How calls are written.
    pub calls: CallSyntax,
}

/// Two tags with text between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delimiters {
    /// The tag before the text.
    pub open: &'static str,
    /// The tag after the text.
    pub close: &'static str,
}

/// How calls are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CallSyntax {
    /// The template has no calls, or in a form that is not known.
    #[default]
    None,
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>` (Hermes, Qwen2.5, Qwen3, Falcon3).
    Hermes,
    /// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>` (Qwen3-Coder, Qwen3.5).
    Xml,
    /// `<|tool_call_start|>` and `<|tool_call_end|>` around calls as Python writes them (MiniCPM 3 and 4).
    Python,
    /// An answer that is `{"name": …, "parameters": {…}}` (Llama 3), with or without `<|python_tag|>` before it.
    Llama,
}

const THINK: Delimiters = Delimiters { open: "<think>", close: "</think>" };
const THOUGHT: Delimiters = Delimiters { open: "<|thought_start|>", close: "<|thought_end|>" };

impl AnswerFormat {
    /// The format that the source of a chat template describes.
    ///
    /// ```
    /// use bitnet_inference::chat::{AnswerFormat, CallSyntax};
    ///
    /// let format = AnswerFormat::of_template("{{ '<tool_call>' }}{{ content.split('</think>')[-1] }}");
    /// assert_eq!(format.calls, CallSyntax::Hermes);
    /// assert_eq!(format.reasoning.map(|tags| tags.open), Some("<think>"));
    /// ```
    pub fn of_template(source: &str) -> Self {
        let has = |text: &str| source.contains(text);
        let reasoning = [THINK, THOUGHT].into_iter().find(|tags| has(tags.close) || has(tags.open));
        let calls = if has("<function=") && has("<parameter=") {
            CallSyntax::Xml
        } else if has("<tool_call>") && !has("<arg_key>") {
            CallSyntax::Hermes
        } else if has("<|tool_call_start|>") && has("<|tool_call_end|>") {
            CallSyntax::Python
        } else if has("tool_calls") && has("\"name\": ") && has("\"parameters\": ") {
            CallSyntax::Llama
        } else {
            CallSyntax::None
        };
        Self { reasoning, calls }
    }
}

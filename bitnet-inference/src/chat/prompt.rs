//! The prompt of a conversation with a model, and the parser of its answer.

use std::sync::Arc;

use super::{
    AnswerFormat, AnswerParser, ChatTemplate, Message, RenderOptions, TemplateError, Tools,
};
use crate::tokenizer::EncodeOptions;
use crate::{InferenceError, Model, Result};

/// What a model is told beside the messages.
#[derive(Debug, Clone, Default)]
pub struct ChatOptions {
    /// Functions that the model may call; may be empty.
    pub tools: Arc<Tools>,
    /// Whether the model reasons before it answers, where its template has a switch (`enable_thinking`); `None` leaves
    /// it to the template.
    pub enable_thinking: Option<bool>,
    /// Where the prompt ends.
    pub end: PromptEnd,
}

/// Where the prompt of a conversation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PromptEnd {
    /// Where a new answer begins.
    #[default]
    NewAnswer,
    /// After the last message.
    AfterMessages,
    /// Within the last message, an answer that the model goes on with.
    WithinLastMessage,
}

/// Stands where the last message ends, to find that place in the rendered text.
const MARK: &str = "[the-last-message-ends-here]";

impl ChatTemplate {
    /// Checks that the template makes use of these options.
    ///
    /// # Errors
    /// [`TemplateError::NoTools`] if a prompt with the tools is the same as without, [`TemplateError::NoThinkingSwitch`]
    /// if the template does not read `enable_thinking`, [`TemplateError::Limit`] if the tools are too much for it.
    pub fn check(&self, options: &ChatOptions) -> Result<(), TemplateError> {
        let name = || self.name().to_owned();
        if options.enable_thinking.is_some() && !self.source().contains("enable_thinking") {
            return Err(TemplateError::NoThinkingSwitch { name: name() });
        }
        if options.tools.is_empty() {
            return Ok(());
        }
        let messages = [Message::new("user", "Hello")];
        let without = RenderOptions { now: Some(0), ..RenderOptions::default() };
        let with = RenderOptions { tools: Some(&options.tools), ..without.clone() };
        match (self.render(&messages, &without), self.render(&messages, &with)) {
            (Ok(without), Ok(with)) if without == with => {
                Err(TemplateError::NoTools { name: name() })
            }
            (_, Err(error @ TemplateError::Limit { .. })) => Err(error),
            // A template that wants other messages shows with them what it makes of the tools.
            _ => Ok(()),
        }
    }

    /// Returns the conversation up to the end of the last message's text, without what the template writes after it.
    ///
    /// # Errors
    /// [`TemplateError::NotContinued`] unless the last message is an answer without calls whose text is rendered as it
    /// is, but for white space before it; those of [`Self::render`].
    pub fn render_unfinished(
        &self,
        messages: &[Message],
        options: &RenderOptions<'_>,
    ) -> Result<String, TemplateError> {
        let refused =
            |problem| TemplateError::NotContinued { name: self.name().to_owned(), problem };
        let mut messages = messages.to_vec();
        let last = messages.last_mut().filter(|message| message.role == "assistant");
        let last = last.ok_or_else(|| refused("it is not the assistant's"))?;
        if !last.tool_calls.is_empty() {
            return Err(refused("it ends with calls"));
        }
        let text = last.content.clone();
        last.content.push_str(MARK);
        let mut prompt = self.render(&messages, options)?;
        let place = prompt.find(MARK).filter(|_| prompt.matches(MARK).count() == 1);
        prompt.truncate(place.ok_or_else(|| refused("its end is not found in the prompt"))?);
        if !prompt.ends_with(text.trim_start()) {
            return Err(refused("the template changes its text"));
        }
        Ok(prompt)
    }
}

impl Model {
    /// Returns the prompt of a conversation, ending where the assistant's answer begins, or as `options` say.
    ///
    /// # Errors
    /// [`InferenceError::UnsupportedOperation`] if the model has no chat template, [`InferenceError::Template`] if it
    /// can't be used, does not make use of the options, or refuses the conversation.
    pub fn render_chat(&self, messages: &[Message], options: &ChatOptions) -> Result<String> {
        let tokenizer = self.tokenizer().ok_or_else(|| InferenceError::no_tokenizer("text"))?;
        let template = self.template().ok_or_else(|| {
            InferenceError::unsupported(
                "chatting with a model that has no chat template",
                "give one with --chat-template, or use `bitnet run` to continue a text",
            )
        })?;
        let template = template.map_err(Clone::clone)?;
        template.check(options)?;
        let rendered = RenderOptions {
            add_generation_prompt: options.end == PromptEnd::NewAnswer,
            special_tokens: Some(tokenizer.special_tokens()),
            tools: (!options.tools.is_empty()).then_some(&*options.tools),
            enable_thinking: options.enable_thinking,
            ..RenderOptions::default()
        };
        match options.end {
            PromptEnd::WithinLastMessage => Ok(template.render_unfinished(messages, &rendered)?),
            PromptEnd::NewAnswer | PromptEnd::AfterMessages => {
                Ok(template.render(messages, &rendered)?)
            }
        }
    }

    /// Returns the tokens of a prompt that a chat template rendered, which has all special tokens in it.
    ///
    /// # Errors
    /// If the model has no tokenizer or the tokenizer refuses the text.
    pub fn encode_rendered(&self, prompt: &str) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer().ok_or_else(|| InferenceError::no_tokenizer("text"))?;
        Ok(tokenizer.encode(prompt, EncodeOptions { add_special: false, parse_special: true })?)
    }

    /// Returns the tokens of a conversation, ending where the assistant's answer begins.
    ///
    /// # Errors
    /// Those of [`Model::render_chat`] and [`Model::encode_rendered`].
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.encode_rendered(&self.render_chat(messages, &ChatOptions::default())?)
    }

    /// Returns a parser for the answer after `prompt`, by the format that the chat template describes.
    pub fn answer_parser(&self, prompt: &str, options: &ChatOptions) -> AnswerParser {
        let format = match self.template() {
            Some(Ok(template)) => AnswerFormat::of_template(template.source()),
            Some(Err(_)) | None => AnswerFormat::default(),
        };
        AnswerParser::new(format, Arc::clone(&options.tools)).after_prompt(prompt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Builtin;

    fn options() -> RenderOptions<'static> {
        RenderOptions { eos_token: "</s>", ..RenderOptions::default() }
    }

    fn unfinished(template: &str, answer: Message) -> Result<String, TemplateError> {
        let template = ChatTemplate::new(template, "test")?;
        template.render_unfinished(&[Message::new("user", "Hi"), answer], &options())
    }

    #[test]
    fn an_unfinished_answer_ends_the_prompt_without_its_end_mark() {
        for builtin in Builtin::ALL {
            let whole = ChatTemplate::builtin(builtin).unwrap();
            let messages = [Message::new("user", "Hi"), Message::new("assistant", "Once ")];
            let whole = whole.render(&messages, &options()).unwrap();
            let text = unfinished(builtin.source(), Message::new("assistant", "Once ")).unwrap();
            assert!(text.ends_with("Once "), "{text}");
            assert!(whole.starts_with(text.trim_end()) && whole.len() > text.len(), "{whole}");
        }
    }

    #[test]
    fn what_can_not_be_continued_is_refused() {
        let source = Builtin::ChatMl.source();
        let mut call = Message::new("assistant", "");
        call.tool_calls.push(crate::chat::ToolCall::default());
        let upper = "{% for m in messages %}{{ m.content | upper }}{% endfor %}";
        let cut = "{% for m in messages %}{{ m.content.split('.')[0] }}{% endfor %}";
        let twice = "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}";
        for (template, last) in [
            (source, Message::new("user", "Hi")),
            (source, call),
            (source, Message::new("assistant", MARK)),
            (upper, Message::new("assistant", "Once")),
            (cut, Message::new("assistant", "Once. Twice")),
            (twice, Message::new("assistant", "Once")),
            ("{{ messages[0].content }}", Message::new("assistant", "Once")),
        ] {
            let refused = unfinished(template, last);
            assert!(matches!(refused, Err(TemplateError::NotContinued { .. })), "{refused:?}");
        }
        let changed = "{% for m in messages %}{{ m.content | replace('a', 'b') }}{% endfor %}";
        let refused = unfinished(changed, Message::new("assistant", "a cat"));
        assert!(matches!(refused, Err(TemplateError::NotContinued { .. })), "{refused:?}");
    }
}

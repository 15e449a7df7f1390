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
}

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
}

impl Model {
    /// Returns the prompt of a conversation, ending where the assistant's answer begins.
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
        let options = RenderOptions {
            add_generation_prompt: true,
            special_tokens: Some(tokenizer.special_tokens()),
            tools: (!options.tools.is_empty()).then_some(&*options.tools),
            enable_thinking: options.enable_thinking,
            ..RenderOptions::default()
        };
        Ok(template.render(messages, &options)?)
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

//! A conversation, and the part of it that fits the context.

use anyhow::{Context, Result};
use bitnet_inference::chat::Message;
use serde_json::{Value, json};

/// Turns of user and assistant, after an optional system prompt.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Conversation {
    pub(crate) system: Option<String>,
    pub(crate) turns: Vec<Turn>,
}

/// Pairs of user message and answer; the last turn may have no answer yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Turn {
    user: String,
    answer: Option<String>,
}

impl Conversation {
    /// Creates an empty conversation.
    pub(crate) fn new(system: Option<String>) -> Self {
        Self { system: system.filter(|s| !s.is_empty()), turns: Vec::new() }
    }

    /// Replaces the system prompt; empty text removes it.
    pub(crate) fn set_system(&mut self, text: &str) {
        self.system = (!text.is_empty()).then(|| text.to_owned());
    }

    /// Adds a user message.
    pub(crate) fn ask(&mut self, text: &str) {
        self.turns.push(Turn { user: text.to_owned(), answer: None });
    }

    /// Sets the answer to the last message.
    pub(crate) fn answer(&mut self, text: &str) {
        if let Some(turn) = self.turns.last_mut() {
            turn.answer = Some(text.to_owned());
        }
    }

    /// Removes the last turn and returns its user message.
    pub(crate) fn undo(&mut self) -> Option<String> {
        self.turns.pop().map(|turn| turn.user)
    }

    /// Returns the system prompt and the messages from turn `first`.
    pub(crate) fn messages(&self, first: usize) -> Vec<Message> {
        let message =
            |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let mut out: Vec<Message> = self.system.iter().map(|s| message("system", s)).collect();
        for turn in self.turns.iter().skip(first) {
            out.push(message("user", &turn.user));
            out.extend(turn.answer.iter().map(|answer| message("assistant", answer)));
        }
        out
    }

    /// Returns the conversation as one text, for models without a chat template.
    pub(crate) fn text(&self, first: usize) -> String {
        let mut out = self.system.clone().unwrap_or_default();
        for turn in self.turns.iter().skip(first) {
            if !out.is_empty() && !out.ends_with('\n') {
                out.push('\n');
            }
            out.push_str(&turn.user);
            out.push_str(turn.answer.as_deref().unwrap_or_default());
        }
        out
    }

    /// Returns the first turn from which the conversation fits `limit` tokens, with the tokens. The last turn is always
    /// included, even if it does not fit.
    pub(crate) fn fitting(
        &self,
        limit: usize,
        tokens: impl Fn(usize) -> Result<Vec<u32>>,
    ) -> Result<(usize, Vec<u32>)> {
        let last = self.turns.len().saturating_sub(1);
        let mut first = 0;
        loop {
            let tokens = tokens(first)?;
            if tokens.len() <= limit || first == last {
                return Ok((first, tokens));
            }
            first += 1;
        }
    }

    /// Serialises the conversation.
    pub(crate) fn to_json(&self) -> Value {
        let messages: Vec<Value> = self
            .messages(0)
            .iter()
            .map(|m| json!({ "role": m.role, "content": m.content }))
            .collect();
        json!({ "messages": messages })
    }

    /// Parses the output of [`Conversation::to_json`].
    pub(crate) fn from_json(value: &Value) -> Result<Self> {
        let messages = value["messages"].as_array().context("no list called \"messages\"")?;
        let mut out = Self::default();
        for (index, message) in messages.iter().enumerate() {
            let content = message["content"]
                .as_str()
                .with_context(|| format!("message {index} has no content"))?;
            let unanswered = out.turns.last().is_some_and(|turn| turn.answer.is_none());
            match message["role"].as_str() {
                Some("system") if index == 0 => out.set_system(content),
                Some("user") if !unanswered => out.ask(content),
                Some("assistant") if unanswered => out.answer(content),
                role => anyhow::bail!(
                    "message {index} has role {role:?}; expected are an optional system message, then user and \
                     assistant in turn"
                ),
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Conversation {
        let mut c = Conversation::new(Some("Be kind.".into()));
        c.ask("Hi");
        c.answer("Hello!");
        c.ask("Bye");
        c
    }

    #[test]
    fn messages_alternate_after_the_system_prompt() {
        let roles = |c: &Conversation, first| {
            c.messages(first).iter().map(|m| m.role.clone()).collect::<Vec<_>>()
        };
        let mut c = example();
        assert_eq!(roles(&c, 0), ["system", "user", "assistant", "user"]);
        assert_eq!(roles(&c, 1), ["system", "user"]);
        assert_eq!(c.undo().as_deref(), Some("Bye"));
        assert_eq!(c.turns.len(), 1);
        c.set_system("");
        assert_eq!(roles(&c, 0), ["user", "assistant"]);
        assert_eq!(c.text(0), "HiHello!");
    }

    #[test]
    fn the_oldest_turns_are_left_out_first() {
        let c = example();
        let tokens = |first: usize| Ok(vec![0; c.messages(first).len()]);
        assert_eq!(c.fitting(4, tokens).unwrap(), (0, vec![0; 4]));
        assert_eq!(c.fitting(3, tokens).unwrap(), (1, vec![0; 2]));
        assert_eq!(c.fitting(0, tokens).unwrap().0, 1, "the last turn remains");
    }

    #[test]
    fn files_round_trip_and_invalid_ones_are_errors() {
        let mut c = example();
        c.answer("See you.");
        assert_eq!(Conversation::from_json(&c.to_json()).unwrap(), c);
        for wrong in [
            json!({}),
            json!({ "messages": [{ "role": "assistant", "content": "x" }] }),
            json!({ "messages": [{ "role": "user" }] }),
            json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "user", "content": "b" }] }),
        ] {
            assert!(Conversation::from_json(&wrong).is_err(), "{wrong}");
        }
    }
}

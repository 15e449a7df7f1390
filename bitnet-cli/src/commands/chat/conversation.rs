//! A conversation, and the part of it that fits the context.

use anyhow::{Context, Result, bail};
use bitnet_inference::chat::{Message, ToolCall};
use serde::Deserialize;
use serde_json::{Value, json};

/// Turns of user and assistant, after an optional system prompt.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Conversation {
    pub(crate) system: Option<String>,
    pub(crate) turns: Vec<Turn>,
}

/// A user message and what follows it: an answer, or calls with their results and the answer to these.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Turn {
    user: String,
    /// Messages of the roles `assistant` and `tool`.
    after: Vec<Message>,
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
        self.turns.push(Turn { user: text.to_owned(), after: Vec::new() });
    }

    /// Adds an answer to the last message, or the result of a call.
    pub(crate) fn add(&mut self, message: Message) {
        if let Some(turn) = self.turns.last_mut() {
            turn.after.push(message);
        }
    }

    /// Returns the first call of the last answer that has no result yet.
    pub(crate) fn pending_call(&self) -> Option<&ToolCall> {
        let after = &self.turns.last()?.after;
        let asked = after.iter().rposition(|message| message.role != "tool")?;
        let (calls, results) = (&after.get(asked)?.tool_calls, after.len() - asked - 1);
        calls.get(results)
    }

    /// Returns the number of calls so far.
    pub(crate) fn calls(&self) -> usize {
        self.turns.iter().flat_map(|turn| &turn.after).map(|m| m.tool_calls.len()).sum()
    }

    /// Returns the reasoning of the last answer.
    pub(crate) fn last_reasoning(&self) -> Option<&str> {
        let mut after = self.turns.last()?.after.iter().rev();
        after.find(|message| message.role == "assistant")?.reasoning_content.as_deref()
    }

    /// Removes the last turn and returns its user message.
    pub(crate) fn undo(&mut self) -> Option<String> {
        self.turns.pop().map(|turn| turn.user)
    }

    /// Returns the system prompt and the messages from turn `first`.
    pub(crate) fn messages(&self, first: usize) -> Vec<Message> {
        let mut out: Vec<Message> = self.system.iter().map(|s| Message::new("system", s)).collect();
        for turn in self.turns.iter().skip(first) {
            out.push(Message::new("user", &turn.user));
            out.extend(turn.after.iter().cloned());
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
            turn.after.iter().for_each(|message| out.push_str(&message.content));
        }
        out
    }

    /// Returns the first turn from which the conversation fits `limit` tokens, with the tokens. The last turn is always
    /// included, even if it does not fit.
    pub(crate) fn fitting(
        &self,
        limit: usize,
        mut tokens: impl FnMut(usize) -> Result<Vec<u32>>,
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

    /// Serialises the conversation: messages with the fields of OpenAI's chat API.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "messages": self.messages(0) })
    }

    /// Parses the output of [`Conversation::to_json`].
    pub(crate) fn from_json(value: &Value) -> Result<Self> {
        let messages = value["messages"].as_array().context("no list called \"messages\"")?;
        let mut out = Self::default();
        for (index, message) in messages.iter().enumerate() {
            let has_calls = message.get("tool_calls").is_some_and(|calls| !calls.is_null());
            if !message["content"].is_string() && !has_calls {
                bail!("message {index} has no content");
            }
            let message = Message::deserialize(message)
                .with_context(|| format!("message {index} is not a message"))?;
            let last = out.turns.last().map(|turn| turn.after.last());
            let (in_turn, is_answered) = match last {
                None => (false, true),
                Some(last) => (true, last.is_some_and(|last| last.role == "assistant")),
            };
            let is_pending = out.pending_call().is_some();
            match message.role.as_str() {
                "system" if index == 0 => out.set_system(&message.content),
                "user" if is_answered && !is_pending => out.ask(&message.content),
                "assistant" if in_turn && !is_answered && !is_pending => out.add(message),
                "tool" if is_pending => out.add(message),
                role => bail!(
                    "message {index} has role {role:?}; expected are an optional system message, then user and \
                     assistant in turn, and a tool message for each call of an assistant message"
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
        c.add(Message::new("assistant", "Hello!"));
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
        c.add(Message::new("assistant", "See you."));
        assert_eq!(Conversation::from_json(&c.to_json()).unwrap(), c);
        for wrong in [
            json!({}),
            json!({ "messages": [{ "role": "assistant", "content": "x" }] }),
            json!({ "messages": [{ "role": "user" }] }),
            json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "user", "content": "b" }] }),
            json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "tool", "content": "b" }] }),
            json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "assistant", "tool_calls": [{}] }] }),
        ] {
            assert!(Conversation::from_json(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_call_waits_for_its_result() {
        let call = |name: &str| json!({ "id": name, "type": "function", "function": { "name": name, "arguments": "{}" } });
        let value = json!({ "messages": [
            { "role": "user", "content": "a" },
            { "role": "assistant", "content": "", "reasoning_content": "r", "tool_calls": [call("f"), call("g")] },
        ] });
        let mut c = Conversation::from_json(&value).unwrap();
        assert_eq!((c.calls(), c.last_reasoning()), (2, Some("r")));
        for name in ["f", "g"] {
            let pending = c.pending_call().unwrap().clone();
            assert_eq!(pending.function.name, name);
            assert_eq!(Conversation::from_json(&c.to_json()).unwrap(), c);
            c.add(Message::tool_result(&pending, "1"));
        }
        assert_eq!(c.pending_call(), None);
        c.add(Message::new("assistant", "Done."));
        assert_eq!(Conversation::from_json(&c.to_json()).unwrap(), c);
        let roles: Vec<String> = c.messages(0).into_iter().map(|m| m.role).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "tool", "assistant"]);
        assert_eq!((c.undo().as_deref(), c.pending_call()), (Some("a"), None));
    }
}

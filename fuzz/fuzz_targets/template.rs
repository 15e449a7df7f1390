//! Any text as a chat template: an error or a prompt of bounded length, never a panic, never a long wait.
#![no_main]

use bitnet_inference::chat::{ChatTemplate, Message, RenderOptions};
use libfuzzer_sys::fuzz_target;

/// Far above the template's output budget for such a short conversation.
const LONGEST_PROMPT: usize = 64 << 20;

fuzz_target!(|source: &str| {
    let Ok(template) = ChatTemplate::new(source, "fuzz.jinja") else { return };
    let messages = [
        Message::new("system", "You tell stories."),
        Message::new("user", "Hello"),
        Message::new("assistant", "Once upon a time"),
        Message::new("user", "Go on."),
    ];
    let options = RenderOptions {
        add_generation_prompt: true,
        bos_token: "<s>",
        eos_token: "</s>",
        now: Some(0),
        ..RenderOptions::default()
    };
    if let Ok(prompt) = template.render(&messages, &options) {
        assert!(prompt.len() < LONGEST_PROMPT);
    }
});

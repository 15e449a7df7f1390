//! Templates with tools, calls and reasoning render to the text that transformers makes of them, and the answers in it
//! are read back.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod rendered;

use std::path::PathBuf;
use std::sync::Arc;

use bitnet_inference::chat::{
    AnswerFormat, AnswerParser, Builtin, CallSyntax, ChatOptions, ChatTemplate, Message,
    RenderOptions, TemplateError, ToolCall, Tools,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use rendered::{Rendered, assert_as_expected};

#[derive(Deserialize)]
struct Golden {
    now: u64,
    tools: Value,
    conversations: Vec<Vec<Message>>,
    templates: Map<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    conversation: usize,
    tools: bool,
    add_generation_prompt: bool,
    enable_thinking: Option<bool>,
    text: Option<String>,
    error: Option<String>,
}

impl Golden {
    fn read() -> Self {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/chat/tools.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn tools(&self) -> Arc<Tools> {
        Arc::new(Tools::from_value(self.tools.clone(), "golden").unwrap())
    }

    fn template(&self, name: &str) -> ChatTemplate {
        ChatTemplate::new(self.templates[name].as_str().unwrap(), name).unwrap()
    }
}

fn options<'a>(golden: &Golden, case: &Case, tools: &'a Tools) -> RenderOptions<'a> {
    RenderOptions {
        add_generation_prompt: case.add_generation_prompt,
        bos_token: "<s>",
        eos_token: "</s>",
        tools: case.tools.then_some(tools),
        enable_thinking: case.enable_thinking,
        now: Some(golden.now),
        ..RenderOptions::default()
    }
}

#[test]
fn tools_calls_and_reasoning_render_as_transformers_renders_them() {
    let golden = Golden::read();
    let tools = golden.tools();
    assert!(golden.cases.len() > 150);
    assert_as_expected(golden.cases.iter().map(|case| {
        let messages = &golden.conversations[case.conversation];
        let got = golden.template(&case.name).render(messages, &options(&golden, case, &tools));
        let (text, error) = (case.text.as_ref(), case.error.as_ref());
        Rendered { name: &case.name, got, text, error }
    }));
}

/// Calls without their ids, with arguments by value.
fn values(calls: &[ToolCall]) -> Vec<(String, Value)> {
    let value = |text: &str| serde_json::from_str(text).unwrap();
    calls.iter().map(|c| (c.function.name.clone(), value(&c.function.arguments))).collect()
}

/// Text of an answer, without what ends the turn.
fn without_end(text: &str) -> &str {
    ["<|im_end|>\n", "<|im_end|>", "<|eot_id|>"]
        .iter()
        .find_map(|end| text.strip_suffix(end))
        .unwrap_or(text)
}

#[test]
fn answers_that_templates_write_are_read_back() {
    let golden = Golden::read();
    let tools = golden.tools();
    let mut counts = (0, 0, 0);
    for case in golden.cases.iter().filter(|case| !case.add_generation_prompt && case.tools) {
        let (Some(text), Some((last, before))) =
            (&case.text, golden.conversations[case.conversation].split_last())
        else {
            continue;
        };
        let template = golden.template(&case.name);
        let render =
            RenderOptions { add_generation_prompt: true, ..options(&golden, case, &tools) };
        let Ok(prompt) = template.render(before, &render) else { continue };
        // A template may drop what begins the reasoning from answers without any.
        let Some(answer) = text.strip_prefix(&prompt).filter(|_| last.role == "assistant") else {
            continue;
        };
        let format = AnswerFormat::of_template(template.source());
        let mut parser = AnswerParser::new(format, Arc::clone(&tools)).after_prompt(&prompt);
        parser.push(without_end(answer));
        let read = parser.finish();
        assert_eq!(read.notes, [], "{} {answer:?}", case.name);
        let read = read.message;
        if last.content.contains("</think>") {
            continue;
        }
        assert_eq!(read.content.trim(), last.content.trim(), "{} {answer:?}", case.name);
        assert_eq!(values(&read.tool_calls), values(&last.tool_calls), "{} {answer:?}", case.name);
        if answer.contains("</think>") || answer.contains("<|thought_end|>") {
            let reasoning = last.reasoning_content.as_deref().unwrap_or_default();
            assert_eq!(read.reasoning_content.unwrap_or_default(), reasoning.trim());
            counts.1 += usize::from(!reasoning.is_empty());
        }
        counts.0 += 1;
        counts.2 += read.tool_calls.len();
    }
    assert!(counts.0 >= 20 && counts.1 >= 4 && counts.2 >= 9, "{counts:?}");
}

#[test]
fn the_form_of_calls_follows_from_the_text_of_the_template() {
    let golden = Golden::read();
    for (name, calls, reasons) in [
        ("hermes", CallSyntax::Hermes, false),
        ("hermes-think", CallSyntax::Hermes, true),
        ("xml", CallSyntax::Xml, true),
        ("llama", CallSyntax::Llama, false),
        ("python", CallSyntax::Python, true),
    ] {
        let format = AnswerFormat::of_template(golden.templates[name].as_str().unwrap());
        assert_eq!((format.calls, format.reasoning.is_some()), (calls, reasons), "{name}");
    }
    for builtin in Builtin::ALL {
        assert_eq!(AnswerFormat::of_template(builtin.source()), AnswerFormat::default());
    }
}

#[test]
fn options_that_a_template_does_not_use_are_refused() {
    let golden = Golden::read();
    let with_tools = ChatOptions { tools: golden.tools(), ..ChatOptions::default() };
    let without_thinking = ChatOptions { enable_thinking: Some(false), ..ChatOptions::default() };
    for name in ["hermes", "hermes-think", "xml", "llama", "python"] {
        golden.template(name).check(&with_tools).unwrap();
    }
    golden.template("xml").check(&without_thinking).unwrap();
    for builtin in Builtin::ALL {
        let template = ChatTemplate::builtin(builtin).unwrap();
        assert_eq!(
            template.check(&with_tools),
            Err(TemplateError::NoTools { name: builtin.name().into() })
        );
        assert_eq!(
            template.check(&without_thinking),
            Err(TemplateError::NoThinkingSwitch { name: builtin.name().into() })
        );
        template.check(&ChatOptions::default()).unwrap();
    }
}

#[test]
fn many_tools_are_rendered_within_the_budget() {
    let golden = Golden::read();
    let tool = |index: usize| json!({"name": format!("tool_{index}"), "description": "x".repeat(2000), "parameters": golden.tools[0]["function"]["parameters"]});
    let tools = Tools::from_value((0..128).map(tool).collect(), "many").unwrap();
    for name in ["hermes-think", "xml", "llama"] {
        let options =
            RenderOptions { tools: Some(&tools), now: Some(0), ..RenderOptions::default() };
        let text = golden.template(name).render(&[Message::new("user", "q")], &options).unwrap();
        assert!(text.len() > 128 * 2000, "{name}");
    }
}

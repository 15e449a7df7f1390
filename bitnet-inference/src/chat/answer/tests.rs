//! Answers in every format, cut at every place.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::chat::{FunctionCall, Tools};

const THINK: Option<Delimiters> = Some(Delimiters { open: "<think>", close: "</think>" });

fn tools() -> Arc<Tools> {
    let list = json!([
        {"name": "f", "parameters": {"properties": {"a": {"type": "string"}, "n": {"type": "integer"}}}},
        {"name": "g"},
    ]);
    Arc::new(Tools::from_value(list, "tools").unwrap())
}

fn parser(calls: CallSyntax) -> AnswerParser {
    AnswerParser::new(AnswerFormat { reasoning: THINK, calls }, tools())
}

/// What the pieces give in all, with the events joined.
fn read(mut parser: AnswerParser, pieces: &[&str]) -> (Answer, Vec<AnswerEvent>) {
    let mut events: Vec<AnswerEvent> = Vec::new();
    let mut add = |more: Vec<AnswerEvent>| {
        for event in more {
            match (events.last_mut(), event) {
                (Some(AnswerEvent::Content(text)), AnswerEvent::Content(more))
                | (Some(AnswerEvent::Reasoning(text)), AnswerEvent::Reasoning(more)) => {
                    text.push_str(&more)
                }
                (_, event) => events.push(event),
            }
        }
    };
    for piece in pieces {
        add(parser.push(piece));
    }
    let mut answer = parser.finish();
    add(std::mem::take(&mut answer.events));
    (answer, events)
}

fn answer(calls: CallSyntax, text: &str) -> Answer {
    read(parser(calls), &[text]).0
}

/// Content, reasoning, calls as text, and number of notes.
fn parts(answer: &Answer) -> (String, String, Vec<String>, usize) {
    let shown = |c: &ToolCall| format!("{}{}", c.function.name, c.function.arguments);
    let message = &answer.message;
    (
        message.content.clone(),
        message.reasoning_content.clone().unwrap_or_default(),
        message.tool_calls.iter().map(shown).collect(),
        answer.notes.len(),
    )
}

fn check(calls: CallSyntax, text: &str, content: &str, reasoning: &str, called: &[&str]) {
    let expected =
        (content.into(), reasoning.into(), called.iter().map(|c| (*c).into()).collect(), 0);
    assert_eq!(parts(&answer(calls, text)), expected, "{text:?}");
}

#[test]
fn reasoning_is_told_from_the_answer() {
    let check = |text: &str, content: &str, reasoning: &str| {
        check(CallSyntax::None, text, content, reasoning, &[])
    };
    check("<think>\nHm.\n\nSo.\n</think>\n\nYes.\n", "Yes.\n", "Hm.\n\nSo.");
    check(" \n<think></think>\n\nYes", "Yes", "");
    check("<think>\n\n</think>\n\n", "", "");
    check("Yes <think>no</think>", "Yes <think>no</think>", "");
    check(" Yes \n", " Yes \n", "");
    check("<thin", "<thin", "");
    check("", "", "");
}

#[test]
fn reasoning_may_begin_in_the_prompt() {
    let read = |prompt: &str, text: &str| {
        parts(&read(parser(CallSyntax::None).after_prompt(prompt), &[text]).0)
    };
    let open = "<|im_start|>assistant\n<think>\n";
    assert_eq!(read(open, "Hm.\n</think>\n\nYes"), ("Yes".into(), "Hm.".into(), vec![], 0));
    assert_eq!(read(open, "Hm.\n"), (String::new(), "Hm.".into(), vec![], 1));
    let closed = "<|im_start|>assistant\n<think>\n\n</think>\n\n";
    assert_eq!(read(closed, "Yes"), ("Yes".into(), String::new(), vec![], 0));
}

#[test]
fn hermes_calls_are_read() {
    let check = |text: &str, content: &str, called: &[&str]| {
        check(CallSyntax::Hermes, text, content, "", called)
    };
    let one = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"x\"}}\n</tool_call>";
    check(one, "", &["f{\"a\": \"x\"}"]);
    check(&format!("Let me look.\n{one}\n{one}\n"), "Let me look.", &["f{\"a\": \"x\"}"; 2]);
    check(&format!("{one}\nDone."), "Done.", &["f{\"a\": \"x\"}"]);
    check("<tool_call>{\"name\": \"g\"}", "", &["g{}"]);
    let tag = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"</tool_call>\"}}</tool_call>";
    check(tag, "", &["f{\"a\": \"</tool_call>\"}"]);
    check("a <tool_cal> b <tool_call", "a <tool_cal> b <tool_call", &[]);
}

#[test]
fn xml_calls_are_read_with_and_without_the_tag_around_them() {
    let check = |text: &str, content: &str, called: &[&str]| {
        check(CallSyntax::Xml, text, content, "", called)
    };
    let function = "<function=f>\n<parameter=a>\nx </tool_call> y\n</parameter>\n<parameter=n>\n5\n</parameter>\n</function>";
    let read = "f{\"a\": \"x </tool_call> y\", \"n\": 5}";
    check(&format!("Look.\n\n<tool_call>\n{function}\n</tool_call>"), "Look.", &[read]);
    check(&format!("{function}\n</tool_call>\n{function}"), "", &[read, read]);
    check("<tool_call>{\"name\": \"g\"}</tool_call>", "", &["g{}"]);
    check("<tool_call><function=g></function></tool_call>", "", &["g{}"]);
    check("<function=g></function>\nDone", "Done", &["g{}"]);
}

#[test]
fn python_calls_are_read() {
    let check = |text: &str, content: &str, called: &[&str]| {
        check(CallSyntax::Python, text, content, "", called)
    };
    let text =
        "Look.\n<|tool_call_start|>\n```python\nf(a='x', n=1)\ng()\n```\n<|tool_call_end|>\n";
    check(text, "Look.", &["f{\"a\": \"x\", \"n\": 1}", "g{}"]);
    check("<|tool_call_start|>[g()]<|tool_call_end|>", "", &["g{}"]);
    check("<|tool_call_start|>g()", "", &["g{}"]);
}

#[test]
fn llama_calls_are_whole_answers() {
    let check = |text: &str, content: &str, called: &[&str]| {
        check(CallSyntax::Llama, text, content, "", called)
    };
    check("{\"name\": \"f\", \"parameters\": {\"n\": 1}}", "", &["f{\"n\": 1}"]);
    check("\n<|python_tag|>{\"name\": \"g\", \"parameters\": {}}", "", &["g{}"]);
    check("{\"name\": \"g\"}; {\"name\": \"g\"}", "", &["g{}", "g{}"]);
    check("{\"answer\": 5}\n", "{\"answer\": 5}\n", &[]);
    check("{\"answer\": ", "{\"answer\": ", &[]);
    check("So: {\"name\": \"g\"}", "So: {\"name\": \"g\"}", &[]);
}

#[test]
fn what_is_no_call_stays_text_with_a_note() {
    for (calls, text) in [
        (CallSyntax::Hermes, "a <tool_call>f()</tool_call> b"),
        (CallSyntax::Hermes, "a <tool_call>{\"name\": 1}</tool_call>\n"),
        (CallSyntax::Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {</tool_call>"),
        (CallSyntax::Hermes, "<tool_call>{\"name\": \"f"),
        (CallSyntax::Xml, "<tool_call><function=f>x</function></tool_call>"),
        (CallSyntax::Xml, "write <function=f> first"),
        (CallSyntax::Python, "<|tool_call_start|>f(x)<|tool_call_end|> b"),
        (CallSyntax::Python, "<|tool_call_start|>f(a='"),
        (CallSyntax::Llama, "<|python_tag|>{\"x\": 1}"),
        (CallSyntax::Llama, "<|python_tag|>{\"name\": \"f\""),
    ] {
        let answer = answer(calls, text);
        assert_eq!((answer.message.content.as_str(), answer.notes.len()), (text, 1), "{text}");
        assert!(answer.message.tool_calls.is_empty(), "{text}");
    }
}

#[test]
fn a_call_after_an_unclosed_string_is_read_all_the_same() {
    let broken = "<tool_call>{\"name\": \"f}</tool_call>";
    let text = format!("{broken}\n<tool_call>{{\"name\": \"g\"}}</tool_call>");
    let answer = answer(CallSyntax::Hermes, &text);
    assert_eq!(parts(&answer), (broken.into(), String::new(), vec!["g{}".into()], 1));
}

#[test]
fn calls_are_numbered_and_unknown_functions_noted() {
    let text = "<tool_call>{\"name\": \"g\"}</tool_call><tool_call>{\"name\": \"h\"}</tool_call>";
    let answer = read(parser(CallSyntax::Hermes).first_call(3), &[text]).0;
    let ids: Vec<&str> = answer.message.tool_calls.iter().map(|call| call.id.as_str()).collect();
    assert_eq!(ids, ["call_3", "call_4"]);
    assert_eq!(answer.notes, [AnswerNote::UnknownTool { name: "h".into() }]);
}

#[test]
fn calls_are_text_where_there_are_no_tools() {
    let text = "<tool_call>{\"name\": \"g\"}</tool_call> ";
    let format = AnswerFormat { reasoning: THINK, calls: CallSyntax::Hermes };
    let answer = read(AnswerParser::new(format, Arc::default()), &[text]).0;
    assert_eq!(answer.message.content, text);
}

/// Pieces of answers, whole and broken.
const FRAGMENTS: [&str; 28] = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<function=f>",
    "<function=",
    "</function>",
    "<parameter=a>",
    "</parameter>",
    "{\"name\": \"f\", \"arguments\": {\"a\": \"é\"}}",
    "{\"name\": \"g\"}",
    "{\"name\": \"",
    "\"",
    "{",
    "}",
    "\n",
    " ",
    "<",
    "<tool",
    "text é",
    "<|python_tag|>",
    ";",
    "\\",
    "</",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
    "f(a='",
    "g()",
];

/// Everything that is no white space.
fn dense(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn cuts_do_not_matter_and_events_are_the_message(
        parts in prop::collection::vec(0usize..FRAGMENTS.len(), 0..14),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        syntax in 0usize..5,
        opened in any::<bool>(),
    ) {
        let text: String = parts.iter().map(|&i| FRAGMENTS[i]).collect();
        let syntax = [CallSyntax::None, CallSyntax::Hermes, CallSyntax::Xml, CallSyntax::Llama, CallSyntax::Python][syntax];
        let parser = parser(syntax).after_prompt(if opened { "<think>\n" } else { "" });
        let whole = read(parser.clone(), &[&text]);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        at.retain(|&i| text.is_char_boundary(i));
        at.push(text.len());
        at.sort_unstable();
        let mut from = 0;
        let pieces: Vec<&str> = at.iter().map(|&to| &text[std::mem::replace(&mut from, to)..to]).collect();
        prop_assert_eq!(&read(parser.clone(), &pieces), &whole);
        let letters: Vec<String> = text.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        prop_assert_eq!(&read(parser, &letters), &whole);

        let (answer, events) = whole;
        let (mut content, mut reasoning, mut calls) = (String::new(), String::new(), Vec::new());
        for event in events {
            match event {
                AnswerEvent::Content(text) => content.push_str(&text),
                AnswerEvent::Reasoning(text) => reasoning.push_str(&text),
                AnswerEvent::ToolCall(call) => calls.push(call),
            }
        }
        prop_assert_eq!(&content, &answer.message.content);
        prop_assert_eq!(&reasoning, &answer.message.reasoning_content.clone().unwrap_or_default());
        prop_assert_eq!(&calls, &answer.message.tool_calls);
        if calls.is_empty() && reasoning.is_empty() && !text.trim_start().starts_with("<think>") && !opened {
            prop_assert_eq!(content, text);
        } else if calls.is_empty() {
            // Nothing but the tags of the reasoning is lost.
            let got = dense(&(reasoning + &content));
            let lost = dense(&text).len() - got.len();
            prop_assert!([0, 7, 8, 15].contains(&lost), "{lost} {text:?}");
        }
    }

    #[test]
    fn calls_that_templates_write_come_back(name in "[a-z_]{1,8}", value in "\\PC{0,20}", number in any::<i64>(), before in "[a-z ]{0,10}") {
        let arguments = json!({"a": value, "n": number}).to_string();
        let expected = FunctionCall { name: name.clone(), arguments: arguments.clone() };
        for (syntax, text) in [
            (CallSyntax::Hermes, format!("{before}\n<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {arguments}}}\n</tool_call>")),
            (CallSyntax::Llama, format!("{{\"name\": \"{name}\", \"parameters\": {arguments}}}")),
        ] {
            let answer = answer(syntax, &text);
            prop_assert_eq!(&answer.message.tool_calls.iter().map(|c| c.function.clone()).collect::<Vec<_>>(), std::slice::from_ref(&expected));
        }
    }
}

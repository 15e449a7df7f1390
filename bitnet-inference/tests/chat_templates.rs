//! Chat templates render to the text that transformers makes of them.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

mod rendered;

use std::path::PathBuf;

use bitnet_inference::chat::{
    Builtin, ChatTemplate, Message, RenderOptions, is_broken_bitnet_template,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use rendered::{Rendered, assert_as_expected};

#[derive(Deserialize)]
struct Golden {
    builtin: Vec<String>,
    templates: Map<String, Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    #[serde(default)]
    extra: Map<String, Value>,
    text: Option<String>,
    error: Option<String>,
}

fn golden() -> Golden {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/chat/rendered.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn options(case: &Case) -> RenderOptions<'static> {
    RenderOptions {
        add_generation_prompt: case.add_generation_prompt,
        bos_token: "<s>",
        eos_token: "</s>",
        extra: case.extra.clone(),
        now: Some(0),
        ..RenderOptions::default()
    }
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let golden = golden();
    assert!(golden.cases.len() > 300);
    assert_as_expected(golden.cases.iter().map(|case| {
        let source = golden.templates[&case.name].as_str().unwrap();
        let template = ChatTemplate::new(source, &case.name).unwrap();
        Rendered {
            name: &case.name,
            got: template.render(&case.messages, &options(case)),
            text: case.text.as_ref(),
            error: case.error.as_ref(),
        }
    }));
}

#[test]
fn builtin_templates_render_the_same() {
    let golden = golden();
    assert_eq!(golden.builtin.len(), Builtin::ALL.len());
    for name in &golden.builtin {
        let template = ChatTemplate::builtin(Builtin::from_name(name).unwrap()).unwrap();
        for case in golden.cases.iter().filter(|case| case.name == *name) {
            assert_eq!(
                Some(template.render(&case.messages, &options(case)).unwrap()),
                case.text,
                "{name}"
            );
        }
    }
}

#[test]
fn the_2b_4t_prompt_is_the_checkpoints_and_not_the_gguf_files() {
    let template = ChatTemplate::builtin(Builtin::BitNet).unwrap();
    let messages = [Message::new("system", "Be brief. "), Message::new("user", " Hi")];
    let options = RenderOptions {
        add_generation_prompt: true,
        bos_token: "<|begin_of_text|>",
        ..RenderOptions::default()
    };
    assert_eq!(
        template.render(&messages, &options).unwrap(),
        "<|begin_of_text|>System: Be brief.<|eot_id|>User: Hi<|eot_id|>Assistant: "
    );
    assert!(is_broken_bitnet_template(
        "{{ 'Human: ' + m.content + '\\n\\nBITNETAssistant: ' + eos_token }}"
    ));
    assert!(!is_broken_bitnet_template(template.source()));
}

#[test]
fn dates_come_from_the_moment_given() {
    let template = ChatTemplate::new("{{ strftime_now('%d %b %Y') }}", "date").unwrap();
    let options = RenderOptions { now: Some(1_721_952_000), ..RenderOptions::default() };
    assert_eq!(template.render(&[], &options).unwrap(), "26 Jul 2024");
}

#[derive(Deserialize)]
struct Expressions {
    cases: Vec<(String, Option<String>)>,
}

/// Templates that Jinja2 renders and that are refused here.
const REFUSED: [&str; 12] = [
    "{{ +1 }}",
    "{{ dict([('a', 1)]) }}",
    "{{ joiner(',')() }}",
    "{{ cycler('a', 'b').next() }}",
    "{{ \"\\N{DEGREE SIGN}\" }}",
    "{{ 1, 2 }}",
    "{{ 'wordwrap me' | wordwrap(4) }}",
    "{{ '<b>x</b>' | striptags }}",
    "{{ 'x' | pprint }}",
    "{{ 'a b' | urlencode }}",
    "{{ 1234 | filesizeformat }}",
    "{% autoescape true %}{{ '<' }}{% endautoescape %}",
];
/// Templates that Jinja2 refuses and that are rendered here: constants
/// of two types compared, spellings of later versions.
const RENDERED: [&str; 8] = [
    "{{ 'aaa'.replace('a', 'b', count=2) }}",
    "{{ 'a' < 1 }}",
    "{{ none < 1 }}",
    "{{ 1 in 'abc' }}",
    "{{ 1. }}",
    "{{ 'a b' | split }}",
    "{{ 'a,b' | split(',') }}",
    "{{ 'a' -}}  b {{- 'c' }}  {{ 'd' +}} e",
];

#[test]
fn expressions_and_white_space_render_as_in_jinja2_or_are_refused() {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/chat/expressions.json");
    let golden: Expressions = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let messages = [Message::new("user", "hi")];
    let options = RenderOptions {
        bos_token: "<s>",
        eos_token: "</s>",
        now: Some(0),
        ..RenderOptions::default()
    };
    let mut wrong = Vec::new();
    for (source, text) in &golden.cases {
        let got = ChatTemplate::new(source, "case").and_then(|t| t.render(&messages, &options));
        let refused = REFUSED.contains(&source.as_str());
        let right = match (&got, text) {
            (Ok(got), Some(text)) => got == text && !refused,
            (Err(_), text) => text.is_none() || refused,
            (Ok(_), None) => RENDERED.contains(&source.as_str()),
        };
        if !right {
            wrong.push(format!("{source:?}: {got:?}\n   not {text:?}"));
        }
    }
    assert!(golden.cases.len() > 800);
    assert!(wrong.is_empty(), "{} of {}\n{}", wrong.len(), golden.cases.len(), wrong.join("\n"));
}

#[test]
fn line_ends_of_windows_give_the_same_prompt() {
    let source = "[A]\n{% for m in messages %}\n{{ m.content }}\n{% endfor %}\nB\n";
    for source in [source.to_owned(), source.replace('\n', "\r\n"), source.replace('\n', "\r")] {
        let template = ChatTemplate::new(&source, "case").unwrap();
        assert_eq!(template.source(), source);
        let messages = [Message::new("user", "hi")];
        assert_eq!(template.render(&messages, &RenderOptions::default()).unwrap(), "[A]\nhi\nB");
    }
}

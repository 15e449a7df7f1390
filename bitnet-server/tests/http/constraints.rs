//! Answers under a constraint: JSON Schemas, regexes, choices and grammars, by the field of each API.

use bitnet_inference::engine::EngineConfig;
use serde_json::{Value, json};

use crate::openai::greedy;
use crate::server::{post, start, start_chat};

/// Whether a text is what was asked for.
type Check<'a> = &'a dyn Fn(&str) -> bool;

#[test]
fn completions_follow_what_clients_ask_for() {
    let server = start(&[], EngineConfig::default());
    let schema = json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 9}, "big": {"type": "boolean"}},
        "required": ["name", "big"],
        "additionalProperties": false,
    });
    let format = |kind: &str, rest: Value| {
        let mut format = rest;
        format["type"] = kind.into();
        ("response_format", format)
    };
    let is_animal = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap();
        value["name"].is_string() && value["big"].is_boolean()
    };
    let is_word = |text: &str| ["yes", "no"].contains(&text);
    let named = json!({"json_schema": {"name": "animal", "strict": true, "schema": schema}});
    let cases: [((&str, Value), Check<'_>); 10] = [
        (format("json_schema", named), &is_animal),
        (format("json_object", json!({"schema": schema})), &is_animal),
        (("json_schema", schema.clone()), &is_animal),
        (("guided_json", schema.to_string().into()), &is_animal),
        (("structured_outputs", json!({"json": schema})), &is_animal),
        (("structured_outputs", json!({"choice": ["yes", "no"], "regex": null})), &is_word),
        (("guided_choice", json!(["yes", "no"])), &is_word),
        (("guided_regex", json!("yes|no")), &is_word),
        (("regex", json!("yes|no")), &is_word),
        (("grammar", json!("start: \"yes\" | \"no\"")), &is_word),
    ];
    for ((name, value), is_valid) in cases {
        for (stream, temperature) in [(false, 0.0), (true, 1.0)] {
            let mut body = greedy("A dog:", 300);
            (body["temperature"], body["stream"]) = (temperature.into(), stream.into());
            body[name] = value.clone();
            let answer = post(&server, "/v1/completions", &body);
            assert_eq!(answer.status, 200, "{}", answer.body);
            let events = if stream { answer.events() } else { vec![answer.json()] };
            let text: String =
                events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
            assert!(is_valid(&text), "{body} {text}");
            let finish = &events.last().unwrap()["choices"][0]["finish_reason"];
            assert_eq!(finish, "stop", "{body} {text}");
        }
    }
}

#[test]
fn constraints_that_cannot_be_enforced_name_field_and_keyword() {
    let server = start(&[], EngineConfig::default());
    let not = json!({"properties": {"a": {"not": {}}}});
    let deep = format!("{}1{}", "[".repeat(60_000), "]".repeat(60_000));
    for (name, value, param, words) in [
        ("response_format", json!("json"), "response_format", "json_schema"),
        ("response_format", json!({"type": "json_schema"}), "response_format", "no schema"),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"name": "x", "schema": not}}),
            "response_format.json_schema.schema",
            "#/properties/a: not",
        ),
        ("json_schema", not.clone(), "json_schema", "#/properties/a: not"),
        ("guided_json", json!(deep), "guided_json", "recursion"),
        ("guided_json", json!("{"), "guided_json", "JSON"),
        ("regex", json!("(?<=a)b"), "regex", "look-around"),
        ("regex", json!(7), "regex", "text"),
        ("grammar", json!("root ::= \"a\""), "grammar", "GBNF"),
        ("grammar", json!("(".repeat(60_000)), "grammar", "depth"),
        ("guided_choice", json!([]), "guided_choice", ""),
        ("ebnf", json!("root ::= \"a\""), "ebnf", "not supported"),
        (
            "structured_outputs",
            json!({"structural_tag": "x"}),
            "structured_outputs.structural_tag",
            "",
        ),
        ("structured_outputs", json!({"regex": "a", "json": {}}), "structured_outputs", "one of"),
    ] {
        let mut body = greedy("Hi", 4);
        body[name] = value;
        let answer = post(&server, "/v1/completions", &body);
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["param"]), (400, &json!(param)), "{}", answer.body);
        assert!(error["message"].as_str().unwrap().contains(words), "{}", answer.body);
    }
    let mut both = greedy("Hi", 4);
    (both["regex"], both["json_schema"]) = ("a".into(), json!({}));
    assert_eq!(post(&server, "/v1/completions", &both).status, 400);
    assert_eq!(server.engine.stats().requests, 0);
    // A text that can't go on ends alone, and the next one is written.
    let mut bad = greedy("Hi", 20);
    bad["grammar"] = "start: \"a\" b\nb: b".into();
    assert_eq!(post(&server, "/v1/completions", &bad).status, 422);
    bad["grammar"] = "start: \"yes\" | \"no\"".into();
    assert_eq!(post(&server, "/v1/completions", &bad).status, 200);
}

/// The answers of all APIs follow a schema, unless they begin with reasoning.
#[test]
fn every_api_has_a_field_for_a_schema() {
    let server = start_chat();
    let schema = json!({"type": "object", "properties": {"big": {"type": "boolean"}}, "required": ["big"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "schema": schema, "name": "x"});
    let inside = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    let messages = json!([{"role": "user", "content": "Is it big?"}]);
    let thinks = |on: bool| json!({"type": if on { "enabled" } else { "disabled" }});
    let effort = |on: bool| json!({"effort": if on { "high" } else { "none" }});
    for (path, field, value, thinking, text) in [
        (
            "/v1/chat/completions",
            "response_format",
            inside,
            json!({"chat_template_kwargs": [{"enable_thinking": false}, {"enable_thinking": true}]}),
            "/choices/0/message/content",
        ),
        (
            "/v1/responses",
            "text",
            json!({"format": format}),
            json!({"reasoning": [effort(false), effort(true)]}),
            "/output/0/content/0/text",
        ),
        (
            "/v1/messages",
            "output_format",
            format.clone(),
            json!({"thinking": [thinks(false), thinks(true)]}),
            "/content/0/text",
        ),
        (
            "/api/chat",
            "format",
            schema.clone(),
            json!({"think": [false, true]}),
            "/message/content",
        ),
        ("/api/generate", "format", schema.clone(), json!({"think": [false, true]}), "/response"),
    ] {
        let (switch, values) = thinking.as_object().unwrap().iter().next().unwrap();
        let mut body = json!({"model": "stories", "max_tokens": 2000, "stream": false});
        let asks = if path == "/api/generate" { "prompt" } else { "input" };
        (body[asks], body["messages"]) = ("Is it big?".into(), messages.clone());
        body[field] = value;
        body[switch] = values[0].clone();
        let answer = post(&server, path, &body);
        assert_eq!(answer.status, 200, "{path} {}", answer.body);
        let answer = answer.json();
        let found = answer.pointer(text).and_then(Value::as_str);
        let found = found.unwrap_or_else(|| panic!("{path} {answer}"));
        let value: Value = serde_json::from_str(found).unwrap();
        assert!(value["big"].is_boolean(), "{path} {found}");
        body[switch] = values[1].clone();
        let answer = post(&server, path, &body);
        assert_eq!(answer.status, 400, "{path} {}", answer.body);
        assert!(answer.body.contains(field) && answer.body.contains("reason"), "{}", answer.body);
    }
}

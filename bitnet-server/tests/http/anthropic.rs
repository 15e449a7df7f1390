//! Messages by Anthropic's routes.

use bitnet_inference::engine::EngineConfig;
use serde_json::{Value, json};

use crate::server::{Running, ask_as, post, start, start_chat};

fn body(content: &Value) -> Value {
    json!({
        "model": "stories", "max_tokens": 12, "temperature": 0,
        "messages": [{"role": "user", "content": content}],
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut body = body(&json!("Tell me a story"));
    body[name] = value;
    body
}

/// The events of a stream, checked against their names, and the whole texts of its blocks by type.
fn blocks(server: &Running, body: &Value) -> (Vec<Value>, Vec<(String, String)>) {
    let mut body = body.clone();
    body["stream"] = true.into();
    let answer = post(server, "/v1/messages", &body);
    let events = answer.lines("data: ");
    let names: Vec<&str> =
        answer.body.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    let types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(names, types);
    let mut blocks: Vec<(String, String)> = Vec::new();
    for event in &events {
        if event["type"] == "content_block_start" {
            assert_eq!(event["index"], blocks.len());
            blocks.push((event["content_block"]["type"].as_str().unwrap().into(), String::new()));
        }
        if event["type"] == "content_block_delta" {
            assert_eq!(event["index"], blocks.len() - 1);
            let delta = &event["delta"];
            let text = ["text", "thinking", "partial_json"].iter().find_map(|n| delta[*n].as_str());
            blocks.last_mut().unwrap().1.push_str(text.unwrap());
        }
    }
    (events, blocks)
}

#[test]
fn a_message_is_the_same_whole_and_as_a_stream() {
    let server = start_chat();
    let body = with("system", json!([{"type": "text", "text": "Be kind."}]));
    let answer = post(&server, "/v1/messages", &body);
    assert!(answer.head.to_ascii_lowercase().contains("request-id: req_"), "{}", answer.head);
    let whole = answer.json();
    assert_eq!((&whole["type"], &whole["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(whole["stop_reason"], "max_tokens");
    assert_eq!(whole["usage"]["output_tokens"], 12);
    let (events, blocks) = blocks(&server, &body);
    let text = whole["content"][0]["text"].as_str().unwrap();
    assert_eq!(blocks, [("text".to_owned(), text.to_owned())]);
    let types: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types[..3], ["message_start", "ping", "content_block_start"]);
    let end = ["content_block_stop", "message_delta", "message_stop"];
    assert_eq!(types[types.len() - 3..], end);
    let delta = &events[events.len() - 2];
    assert_eq!(delta["delta"]["stop_reason"], "max_tokens");
    let usage = &delta["usage"];
    let read = usage["input_tokens"].as_u64().unwrap()
        + usage["cache_read_input_tokens"].as_u64().unwrap();
    let counted = post(&server, "/v1/messages/count_tokens?beta=true", &body).json();
    assert_eq!(counted["input_tokens"], read);
    assert_eq!(events[0]["message"]["usage"]["input_tokens"], read);
}

#[test]
fn the_stop_sequence_that_came_is_named() {
    let server = start_chat();
    let whole = post(&server, "/v1/messages", &with("max_tokens", json!(30))).json();
    let text = whole["content"][0]["text"].as_str().unwrap();
    let word = text.split_whitespace().nth(3).unwrap();
    let mut body = with("stop_sequences", json!(["no such text", word]));
    body["max_tokens"] = 30.into();
    let stopped = post(&server, "/v1/messages", &body).json();
    assert_eq!(stopped["stop_reason"], "stop_sequence");
    assert_eq!(stopped["stop_sequence"], word);
    assert_eq!(stopped["content"][0]["text"].as_str().unwrap(), text.split(word).next().unwrap());
}

#[test]
fn thinking_is_a_block_of_its_own() {
    let server = start_chat();
    let body = with("thinking", json!({"type": "enabled", "budget_tokens": 1024}));
    let whole = post(&server, "/v1/messages", &body).json();
    assert_eq!(whole["content"][0]["type"], "thinking", "{whole}");
    let (_, blocks) = blocks(&server, &body);
    let thinking = whole["content"][0]["thinking"].as_str().unwrap();
    assert_eq!(blocks[0], ("thinking".to_owned(), thinking.to_owned()));
}

#[test]
fn blocks_of_tools_and_a_prefilled_answer_reach_the_prompt() {
    let server = start_chat();
    let mut body = body(&json!("Weather?"));
    let count = |body: &Value| {
        let answer = post(&server, "/v1/messages/count_tokens", body).json();
        answer["input_tokens"].as_u64().unwrap_or_else(|| panic!("{answer}"))
    };
    let tokens = |text: &str| {
        let tokens = post(&server, "/tokenize", &json!({"content": text})).json();
        tokens["tokens"].as_array().unwrap().len() as u64
    };
    body["messages"] = json!([
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"place": "Rome"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sun"}]},
            {"type": "text", "text": "And?"},
        ]},
        {"role": "assistant", "content": "It is"},
    ]);
    let prompt = "<|user|>Weather?<|end|><|assistant|>Let me see.<tool_call>{\"name\": \"weather\", \"arguments\": \
                  {\"place\": \"Rome\"}}</tool_call><|end|><|tool|>sun<|end|><|user|>And?<|end|><|assistant|>It is";
    assert_eq!(count(&body), tokens(prompt));
    let without = count(&body);
    body["tools"] = json!([{"name": "weather", "input_schema": {"type": "object"}}]);
    assert!(count(&body) > without);
    body["tool_choice"] = json!({"type": "none"});
    assert_eq!(count(&body), without);
}

#[test]
fn errors_have_the_shape_of_anthropic() {
    let server = start_chat();
    let image = json!([{"type": "image", "source": {"type": "base64", "data": ""}}]);
    let mut missing = with("model", json!("stories"));
    missing.as_object_mut().unwrap().remove("max_tokens");
    for (body, named) in [
        (missing, "max_tokens"),
        (with("model", json!(null)), "model"),
        (with("max_tokens", json!(0)), "max_tokens"),
        (with("messages", json!([])), "messages"),
        (with("messages", json!([{"role": "tool", "content": "x"}])), "messages[0]"),
        (body(&image), "messages[0]"),
        (body(&json!(7)), "messages[0]"),
        (with("stop_sequences", json!([1])), "stop_sequences"),
        (with("temperature", json!("hot")), "temperature"),
        (with("tools", json!([{"type": "web_search_20250305", "name": "w"}])), "tools[0]"),
        (with("tool_choice", json!({"type": "any"})), "tool_choice"),
        (with("thinking", json!({"type": "often"})), "thinking"),
        (with("output_format", json!({"type": "json_schema"})), "output_format"),
    ] {
        let answer = post(&server, "/v1/messages", &body);
        let error = answer.json();
        assert_eq!((answer.status, &error["type"]), (400, &json!("error")), "{error}");
        assert_eq!(error["error"]["type"], "invalid_request_error");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.starts_with(named), "{named}: {message}");
        assert!(error["request_id"].as_str().unwrap().starts_with("req_"));
    }
    let wrong = ask_as(server.address, "GET", "/v1/messages", "", "").json();
    assert_eq!(wrong["type"], "error");
    let guarded = start(&["secret"], EngineConfig::default());
    let refused = ask_as(guarded.address, "POST", "/v1/messages", "x-api-key: no\r\n", "{}");
    assert_eq!(refused.json()["error"]["type"], "authentication_error");
    let taken = ask_as(guarded.address, "POST", "/v1/messages", "x-api-key: secret\r\n", "{}");
    assert_eq!(taken.status, 400);
}

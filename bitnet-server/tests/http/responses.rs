//! Answers by OpenAI's route `/v1/responses`.

use serde_json::{Value, json};

use crate::server::{post, start_chat};

fn with(name: &str, value: Value) -> Value {
    let mut body = json!({
        "model": "stories", "input": "Tell me a story", "max_output_tokens": 12, "temperature": 0,
    });
    body[name] = value;
    body
}

#[test]
fn an_answer_is_the_same_whole_and_as_a_stream() {
    let server = start_chat();
    for effort in ["none", "high"] {
        let mut body = with("reasoning", json!({"effort": effort}));
        let whole = post(&server, "/v1/responses", &body).json();
        assert_eq!((&whole["object"], &whole["store"]), (&json!("response"), &json!(false)));
        assert_eq!(whole["status"], "incomplete", "{whole}");
        assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
        assert_eq!(whole["usage"]["output_tokens"], 12);
        let reasoning = whole["usage"]["output_tokens_details"]["reasoning_tokens"].as_u64();
        assert_eq!(reasoning, Some(if effort == "high" { 12 } else { 0 }));
        body["stream"] = true.into();
        let events = post(&server, "/v1/responses", &body).lines("data: ");
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], number);
        }
        let types: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
        assert_eq!(types[..2], ["response.created", "response.in_progress"]);
        assert_eq!(*types.last().unwrap(), "response.incomplete");
        let last = &events.last().unwrap()["response"];
        let (streamed, whole) = (last["output"].as_array().unwrap(), &whole["output"]);
        assert_eq!(streamed.len(), whole.as_array().unwrap().len());
        for (index, item) in streamed.iter().enumerate() {
            assert_eq!(item["content"], whole[index]["content"]);
            assert_eq!(item["type"], whole[index]["type"]);
            let of_item = |event: &&Value| event["output_index"] == index;
            let deltas: String =
                events.iter().filter(of_item).filter_map(|event| event["delta"].as_str()).collect();
            assert_eq!(item["content"][0]["text"], deltas);
        }
    }
}

#[test]
fn items_reach_the_prompt() {
    let server = start_chat();
    let input = json!([
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{\"place\":\"Rome\"}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
    ]);
    let mut body = with("input", input);
    body["instructions"] = "Be kind.".into();
    let prompt = "<|system|>Be kind.\n\nBe brief.<|end|><|user|>Weather?<|end|><|assistant|><tool_call>{\"name\": \
                  \"weather\", \"arguments\": {\"place\": \"Rome\"}}</tool_call><|end|><|tool|>sun<|end|><|assistant|>";
    let tokens = post(&server, "/tokenize", &json!({"content": prompt})).json();
    let tokens = tokens["tokens"].as_array().unwrap().len();
    let answer = post(&server, "/v1/responses", &body).json();
    assert_eq!(answer["usage"]["input_tokens"], tokens, "{answer}");
    // Tools that run at OpenAI are left out; functions reach the prompt.
    body["tools"] = json!([{"type": "web_search"}, {"type": "custom", "name": "shell"}]);
    let skipped = post(&server, "/v1/responses", &body).json();
    assert_eq!(skipped["usage"]["input_tokens"], tokens);
    body["tools"] =
        json!([{"type": "function", "name": "weather", "parameters": {"type": "object"}}]);
    let told = post(&server, "/v1/responses", &body).json();
    assert!(told["usage"]["input_tokens"].as_u64().unwrap() > tokens as u64);
}

#[test]
fn an_empty_input_is_a_try_and_a_memory_is_refused() {
    let server = start_chat();
    let mut probe = with("input", json!([]));
    probe["max_output_tokens"] = 1.into();
    assert_eq!(post(&server, "/v1/responses", &probe).status, 200);
    for (name, value, named) in [
        ("previous_response_id", json!("resp_1"), "previous_response_id"),
        ("conversation", json!("c"), "conversation"),
        ("background", json!(true), "background"),
        ("truncation", json!("auto"), "truncation"),
        ("model", json!(null), "model"),
        ("input", json!(7), "input"),
        ("input", json!([{"type": "item_reference", "id": "x"}]), "input[0]"),
        ("input", json!([{"role": "user", "content": [{"type": "input_image"}]}]), "input[0]"),
        ("max_output_tokens", json!("8"), "max_output_tokens"),
        ("text", json!({"format": {"type": "json_schema"}}), "text.format"),
        ("tool_choice", json!("required"), "tool_choice"),
        ("tool_choice", json!({"type": "function", "name": "f"}), "tool_choice"),
    ] {
        let answer = post(&server, "/v1/responses", &with(name, value));
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!(named)));
    }
}

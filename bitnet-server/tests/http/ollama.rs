//! Ollama's routes.

use bitnet_inference::engine::EngineConfig;
use serde_json::{Value, json};

use crate::server::{ask_as, get, post, start, start_chat};

fn with(name: &str, value: Value) -> Value {
    let mut body = json!({
        "model": "stories", "options": {"num_predict": 10, "temperature": 0},
        "messages": [{"role": "user", "content": "Tell me a story"}], "prompt": "Once upon a time",
    });
    body[name] = value;
    body
}

#[test]
fn answers_are_lines_unless_a_whole_is_wanted() {
    let server = start_chat();
    for (path, text) in [("/api/chat", "/message/content"), ("/api/generate", "/response")] {
        let answer = post(&server, path, &with("keep_alive", json!("5m")));
        assert!(answer.head.to_ascii_lowercase().contains("content-type: application/x-ndjson"));
        let lines = answer.lines("");
        let whole = post(&server, path, &with("stream", json!(false))).json();
        let streamed: String =
            lines.iter().map(|line| line.pointer(text).unwrap().as_str().unwrap()).collect();
        assert_eq!(whole.pointer(text).unwrap(), &streamed, "{whole}");
        assert!(lines[..lines.len() - 1].iter().all(|line| line["done"] == false));
        for last in [&whole, lines.last().unwrap()] {
            assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("length")));
            assert_eq!(last["eval_count"], 10);
            assert!(last["total_duration"].as_u64() >= last["eval_duration"].as_u64());
        }
    }
}

#[test]
fn a_model_without_a_template_continues_prompts() {
    let server = start(&[], EngineConfig::default());
    let generated = post(&server, "/api/generate", &with("stream", json!(false))).json();
    let body = json!({"prompt": "Once upon a time", "max_tokens": 10, "temperature": 0});
    let expected = post(&server, "/v1/completions", &body).json();
    assert_eq!(generated["response"], expected["choices"][0]["text"]);
    assert_eq!(post(&server, "/api/chat", &with("stream", json!(false))).status, 400);
}

#[test]
fn thinking_and_log_probabilities_are_beside_the_text() {
    let server = start_chat();
    let mut body = with("think", json!(true));
    body["stream"] = false.into();
    let answer = post(&server, "/api/chat", &body).json();
    assert!(!answer["message"]["thinking"].as_str().unwrap().is_empty(), "{answer}");
    let mut body = with("logprobs", json!(true));
    body["top_logprobs"] = 2.into();
    let lines = post(&server, "/api/chat", &body).lines("");
    let scores: Vec<&Value> =
        lines.iter().filter_map(|line| line["logprobs"].as_array()).flatten().collect();
    assert_eq!(scores.len(), 10);
    assert!(scores.iter().all(|score| score["top_logprobs"].as_array().unwrap().len() == 2));
}

#[test]
fn clients_find_the_model_and_change_none() {
    let server = start_chat();
    for method in ["HEAD", "GET"] {
        let answer = ask_as(server.address, method, "/", "Accept: */*\r\n", "");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, if method == "GET" { "Ollama is running" } else { "" });
    }
    assert!(get(&server, "/api/version").json()["version"].is_string());
    for path in ["/api/tags", "/api/ps"] {
        assert_eq!(get(&server, path).json()["models"][0]["model"], "stories");
    }
    let shown = post(&server, "/api/show", &json!({"model": "stories:latest"})).json();
    assert_eq!(shown["capabilities"], json!(["completion", "tools", "thinking"]));
    let context = server.engine.context();
    let architecture = shown["model_info"]["general.architecture"].as_str().unwrap();
    assert_eq!(shown["model_info"][format!("{architecture}.context_length")], context);
    let unknown = post(&server, "/api/show", &json!({"model": "../../etc/passwd"}));
    assert_eq!(unknown.status, 404);
    for (method, path) in [
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
        ("HEAD", "/api/blobs/sha256:00"),
    ] {
        assert_eq!(ask_as(server.address, method, path, "", "{}").status, 403, "{path}");
    }
    let loaded = post(&server, "/api/generate", &json!({"model": "stories"})).json();
    assert_eq!((&loaded["done"], &loaded["done_reason"]), (&json!(true), &json!("load")));
}

#[test]
fn errors_are_texts_that_name_the_field() {
    let server = start_chat();
    let option = |name: &str, value: Value| {
        let mut body = with("stream", json!(false));
        body["options"][name] = value;
        body
    };
    for (body, named) in [
        (option("num_predict", json!("8")), "num_predict"),
        (option("num_predict", json!(-5)), "num_predict"),
        (option("repeat_penalty", json!("x")), "repeat_penalty"),
        (option("stop", json!([1])), "stop"),
        (option("mirostat", json!(2)), "mirostat"),
        (option("num_ctx", json!(1_000_000)), "num_ctx"),
        (with("model", json!(null)), "model"),
        (with("format", json!("yaml")), "format"),
        (with("format", json!({"not": {}})), "format"),
        (with("options", json!([])), "options"),
        (with("think", json!("deeply")), "think"),
        (with("messages", json!([{"role": "user", "images": ["aGk="]}])), "messages[0]"),
        (with("messages", json!([{"content": "x"}])), "messages[0]"),
    ] {
        let answer = post(&server, "/api/chat", &body);
        let error = answer.json();
        let message = error["error"].as_str().unwrap_or_else(|| panic!("{error}"));
        assert_eq!(answer.status, 400);
        assert!(message.starts_with(named), "{named}: {message}");
    }
    let far = option("num_predict", json!(-2));
    assert_eq!(post(&server, "/api/chat", &far).status, 200);
    assert!(get(&server, "/api/nowhere").json()["error"].is_string());
}

//! Conversations by OpenAI's route: reasoning, answers that are continued.

use serde_json::{Value, json};

use crate::server::{Running, post, start_chat};

fn chat(server: &Running, messages: &Value, more: &Value) -> Value {
    let mut body = json!({"messages": messages, "max_tokens": 8, "temperature": 0});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    post(server, "/v1/chat/completions", &body).json()
}

#[test]
fn a_last_answer_is_continued_where_it_ends() {
    let server = start_chat();
    let user = json!({"role": "user", "content": "Tell me a story"});
    let answer = json!({"role": "assistant", "content": "Once upon a"});
    let continued = json!([user, answer]);
    let more = json!({"continue_final_message": true, "add_generation_prompt": false});
    let found = chat(&server, &continued, &more);
    let prompt = "<|user|>Tell me a story<|end|><|assistant|>Once upon a";
    // The template's text has no tokens that begin a text.
    let tokens = post(&server, "/tokenize", &json!({"content": prompt})).json()["tokens"].clone();
    let body = json!({"prompt": tokens, "max_tokens": 8, "temperature": 0});
    let expected = post(&server, "/v1/completions", &body).json();
    assert_eq!(found["choices"][0]["message"]["content"], expected["choices"][0]["text"]);
    assert_eq!(found["usage"]["prompt_tokens"], expected["usage"]["prompt_tokens"]);

    let only = json!({"continue_final_message": true});
    assert_eq!(chat(&server, &continued, &only)["choices"], found["choices"]);
    let after = chat(&server, &continued, &json!({"add_generation_prompt": false}));
    let end = json!({"content": format!("{prompt}<|end|>")});
    let tokens = post(&server, "/tokenize", &end).json()["tokens"].as_array().unwrap().len();
    assert_eq!(after["usage"]["prompt_tokens"], tokens);

    let both = json!({"continue_final_message": true, "add_generation_prompt": true});
    let refused = chat(&server, &continued, &both);
    assert_eq!(refused["error"]["param"], "continue_final_message");
    let of_user = chat(&server, &json!([user]), &only);
    assert_eq!(of_user["error"]["param"], "messages", "{of_user}");
}

#[test]
fn reasoning_is_apart_from_the_answer() {
    let server = start_chat();
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let kwargs = json!({"chat_template_kwargs": {"enable_thinking": true}});
    let found = chat(&server, &messages, &kwargs);
    let message = &found["choices"][0]["message"];
    assert!(!message["reasoning_content"].as_str().unwrap().is_empty(), "{found}");
    assert_eq!(message["content"], "");
}

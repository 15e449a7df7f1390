//! Embeddings by OpenAI's and Ollama's routes.

use bitnet_inference::EmbedOptions;
use bitnet_inference::engine::EngineConfig;
use serde_json::{Value, json};

use crate::server::{Running, post, start, start_embeddings};

const TEXTS: [&str; 3] = ["A dog ran home.", "The sun", "Once upon a time"];

fn numbers(value: &Value) -> Vec<f32> {
    let numbers = value.as_array().unwrap_or_else(|| panic!("{value}")).iter();
    numbers.map(|number| number.as_f64().unwrap() as f32).collect()
}

fn expected(server: &Running) -> Vec<Vec<f32>> {
    let embeddings = server.engine.model().embed(&TEXTS, &EmbedOptions::default()).unwrap();
    embeddings.into_iter().map(|embedding| embedding.values).collect()
}

#[test]
fn vectors_are_those_of_the_model() {
    let server = start_embeddings();
    let expected = expected(&server);
    let body = json!({"model": "stories", "input": TEXTS});
    let found = post(&server, "/v1/embeddings", &body).json();
    let of_ollama = post(&server, "/api/embed", &body).json();
    for (index, vector) in expected.iter().enumerate() {
        assert_eq!(&numbers(&found["data"][index]["embedding"]), vector);
        assert_eq!(&numbers(&of_ollama["embeddings"][index]), vector);
    }
    assert_eq!(found["usage"]["prompt_tokens"], of_ollama["prompt_eval_count"]);
    let body = json!({"model": "stories", "input": TEXTS[0], "encoding_format": "base64"});
    let text = post(&server, "/v1/embeddings", &body).json();
    // Four characters for three bytes, of four for each number.
    let len = (expected[0].len() * 4).div_ceil(3) * 4;
    assert_eq!(text["data"][0]["embedding"].as_str().unwrap().len(), len);
    let older = json!({"model": "stories", "prompt": TEXTS[0]});
    let older = numbers(&post(&server, "/api/embeddings", &older).json()["embedding"]);
    let length = older.iter().map(|x| x * x).sum::<f32>().sqrt();
    for (a, b) in older.iter().zip(&expected[0]) {
        // One division and one multiplication are rounded.
        assert!((a / length - b).abs() < 1e-5);
    }
}

#[test]
fn tokens_are_read_as_they_are() {
    let server = start_embeddings();
    let content = json!({"content": TEXTS[0], "add_special": true});
    let tokens = post(&server, "/tokenize", &content).json()["tokens"].clone();
    for input in [tokens.clone(), json!([tokens])] {
        let body = json!({"model": "stories", "input": input});
        let found = post(&server, "/v1/embeddings", &body).json();
        assert_eq!(numbers(&found["data"][0]["embedding"]), expected(&server)[0]);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let server = start_embeddings();
    let long = vec![5; server.engine.context() + 1];
    for (name, value, named) in [
        ("input", json!(null), "input"),
        ("input", json!([]), "input"),
        ("input", json!(vec!["x"; 2049]), "input"),
        ("input", json!([99_999_999]), "input"),
        ("dimensions", json!(7), "dimensions"),
        ("encoding_format", json!("int8"), "encoding_format"),
    ] {
        let mut body = json!({"model": "stories", "input": "x"});
        body[name] = value;
        let answer = post(&server, "/v1/embeddings", &body);
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!(named)));
    }
    assert_eq!(post(&server, "/v1/embeddings", &json!({"input": long})).status, 400);
    assert_eq!(
        post(&server, "/v1/embeddings", &json!({"input": "word ".repeat(9000)})).status,
        400
    );
    let text = json!({"prompt": "x"});
    assert_eq!(post(&server, "/v1/completions", &text).status, 400, "the model has no head");
    let writer = start(&[], EngineConfig::default());
    assert_eq!(post(&writer, "/v1/embeddings", &json!({"input": "x"})).status, 400);
}

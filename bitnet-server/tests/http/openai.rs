//! Texts by OpenAI's routes: the embedded model's, streams, errors, keys.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bitnet_inference::engine::EngineConfig;
use bitnet_inference::{GenerateOptions, Model};
use serde_json::{Value, json};

use crate::server::{ask_as, get, post, send, start};

pub(crate) fn greedy(prompt: &str, max_tokens: usize) -> Value {
    json!({"model": "stories", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0})
}

fn alone(model: &Model, prompt: &str, max_tokens: usize) -> String {
    let tokens = model.encode_prompt(prompt).unwrap();
    let mut session = model.session(None).unwrap();
    let options = GenerateOptions { max_tokens, ..GenerateOptions::default() };
    let mut generation = session.generate(&tokens, &options).unwrap();
    generation.by_ref().for_each(|token| drop(token.unwrap()));
    generation.finish().text
}

#[test]
fn texts_over_http_are_those_of_a_session_alone_and_in_a_crowd() {
    let server = start(&[], EngineConfig::default());
    let prompts = ["Once upon a time", "The sun", "Lily went to the park and", "A little dog"];
    let expected: Vec<String> =
        prompts.iter().map(|prompt| alone(server.engine.model(), prompt, 30)).collect();
    std::thread::scope(|scope| {
        for index in 0..32 {
            let (server, expected) = (&server, &expected);
            scope.spawn(move || {
                let mut body = greedy(prompts[index % 4], 30);
                if index % 2 == 0 {
                    let answer = post(server, "/v1/completions", &body).json();
                    assert_eq!(answer["choices"][0]["text"], expected[index % 4].as_str());
                    assert_eq!(answer["object"], "text_completion");
                    return;
                }
                body["stream"] = true.into();
                let events = post(server, "/v1/completions", &body).events();
                let text: String = events
                    .iter()
                    .filter_map(|event| event["choices"][0]["text"].as_str())
                    .collect();
                assert_eq!(text, expected[index % 4]);
            });
        }
    });
    // A stream is over for its client a moment before it is for the engine.
    let start = Instant::now();
    while server.engine.unfinished() > 0 {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(server.engine.stats().finished, 32);
}

#[test]
fn a_stream_has_usage_progress_and_an_end() {
    let server = start(&[], EngineConfig::default());
    let mut body = greedy("Once upon a time", 6);
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    body["return_progress"] = true.into();
    body["n"] = 2.into();
    let answer = post(&server, "/v1/completions", &body);
    assert!(answer.head.to_ascii_lowercase().contains("content-type: text/event-stream"));
    let events = answer.events();
    let progress = events.iter().find(|event| event["prompt_progress"].is_object()).unwrap();
    assert_eq!(progress["prompt_progress"]["total"], progress["prompt_progress"]["processed"]);
    for choice in 0..2 {
        let of_choice = |event: &&Value| event["choices"][0]["index"] == choice;
        let last = events.iter().rfind(of_choice).unwrap();
        assert_eq!(last["choices"][0]["finish_reason"], "length");
    }
    let last = events.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 12);
    assert!(last["timings"]["predicted_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn log_probabilities_of_a_prompt_have_the_form_that_evaluators_read() {
    let server = start(&[], EngineConfig::default());
    let mut body = greedy("Once upon a time", 1);
    (body["echo"], body["logprobs"]) = (true.into(), 1.into());
    let answer = post(&server, "/v1/completions", &body).json();
    let scores = &answer["choices"][0]["logprobs"];
    let prompt = server.engine.model().encode_prompt("Once upon a time").unwrap().len();
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(scores[name].as_array().unwrap().len(), prompt + 1, "{name}");
    }
    assert!(scores["token_logprobs"][0].is_null() && scores["token_logprobs"][1].is_number());
    assert!(answer["choices"][0]["text"].as_str().unwrap().contains("Once upon a time"));
}

#[test]
fn wrong_requests_are_named_in_the_shape_of_openai() {
    let server = start(&[], EngineConfig { context: Some(64), ..EngineConfig::default() });
    let with = |name: &str, value: Value| {
        let mut body = greedy("Hi", 4);
        body[name] = value;
        body
    };
    for (body, param) in [
        (with("temperature", json!(-1)), "temperature"),
        (with("temperature", json!("hot")), "temperature"),
        (with("top_p", json!(7)), "top_p"),
        (with("n", json!(0)), "n"),
        (with("n", json!(1_000_000)), "n"),
        (with("max_tokens", json!(-5)), "max_tokens"),
        (with("logprobs", json!(1000)), "logprobs"),
        (with("stop", json!(vec!["x"; 100])), "stop"),
        (with("logit_bias", json!({"1": 1e9})), "logit_bias"),
        (with("logit_bias", json!({"99999999": 1})), "logit_bias"),
        (with("response_format", json!({"type": "xml"})), "response_format"),
        (with("grammar", json!("root ::= x")), "grammar"),
        (with("prompt", json!([])), "prompt"),
        (with("prompt", json!([[1, -2]])), "prompt"),
        (with("prompt", json!([4_000_000_000_u32])), "prompt"),
        (with("seed", json!(1.5)), "seed"),
    ] {
        let answer = post(&server, "/v1/completions", &body);
        assert_eq!(answer.status, 400, "{body} {}", answer.body);
        assert_eq!(answer.json()["error"]["param"], param, "{}", answer.body);
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    let long = post(&server, "/v1/completions", &greedy(&"word ".repeat(200), 4));
    assert_eq!(
        (long.status, &long.json()["error"]["code"]),
        (400, &json!("context_length_exceeded"))
    );
    for body in ["", "{", "[1]", "\"text\""] {
        assert_eq!(ask_as(server.address, "POST", "/v1/completions", "", body).status, 400);
    }
    let deep = format!("{{\"prompt\":{}", "[".repeat(60_000));
    assert_eq!(ask_as(server.address, "POST", "/v1/completions", "", &deep).status, 400);
    assert_eq!(get(&server, "/v1/completions").status, 405);
    assert_eq!(get(&server, "/nowhere").status, 404);
    assert_eq!(get(&server, "/v1/models/other").status, 404);
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}]});
    let answer = post(&server, "/v1/chat/completions", &chat);
    assert_eq!(answer.status, 400, "the embedded model has no chat template");
    assert_eq!(server.engine.stats().requests, 0);
}

#[test]
fn a_body_beyond_the_limit_is_refused() {
    let server = start(&[], EngineConfig::default());
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 99999999\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[test]
fn a_client_without_a_key_gets_its_answer_before_its_body_is_read() {
    let server = start(&["secret"], EngineConfig::default());
    for header in ["", "Authorization: Bearer wrong\r\n"] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
        write!(stream, "{head}{header}Content-Length: 1000000\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 401");
    }
}

#[test]
fn a_body_after_a_refusal_does_not_hide_it() {
    let server = start(&["secret"], EngineConfig::default());
    for (path, status) in [("/v1/completions", "401"), ("/nowhere", "404")] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer[9..], status.as_bytes());
        for _ in 0..300 {
            stream.write_all(&[b' '; 1000]).unwrap();
        }
        // The connection is good for more.
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("HTTP/1.1 200 OK"), "{text}");
    }
}

#[test]
fn keys_are_needed_on_everything_but_health() {
    let server = start(&["secret-1", "secret-2"], EngineConfig::default());
    assert_eq!(get(&server, "/health").status, 200);
    for path in ["/v1/models", "/metrics", "/props"] {
        let answer = get(&server, path);
        assert_eq!(
            (answer.status, &answer.json()["error"]["type"]),
            (401, &json!("authentication_error"))
        );
        for header in
            ["Authorization: Bearer secret", "Authorization: Basic secret-1", "x-api-key: SECRET-1"]
        {
            let answer = ask_as(server.address, "GET", path, &format!("{header}\r\n"), "");
            assert_eq!(answer.status, 401, "{header}");
        }
        for header in [
            "Authorization: Bearer secret-2",
            "authorization: bearer secret-1",
            "x-api-key: secret-1",
        ] {
            let answer = ask_as(server.address, "GET", path, &format!("{header}\r\n"), "");
            assert_eq!(answer.status, 200, "{header}");
        }
    }
}

#[test]
fn other_hosts_and_origins_are_refused_on_the_loopback_interface() {
    let server = start(&[], EngineConfig::default());
    let ask = |head: &str| {
        let mut stream = send(server.address, &format!("GET /health HTTP/1.1\r\n{head}"), "");
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(ask("Host: 127.0.0.1:8080\r\n"), "200");
    assert_eq!(ask("Host: localhost\r\nOrigin: http://localhost:3000\r\n"), "200");
    assert_eq!(ask("Host: evil.example\r\n"), "403");
    assert_eq!(ask("Host: localhost\r\nOrigin: http://evil.example\r\n"), "403");
    assert_eq!(ask("Host: localhost\r\nOrigin: null\r\n"), "403");
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let server = start(&[], EngineConfig::default());
    for stream in [true, false] {
        let mut body = greedy("Once upon a time", 200);
        (body["ignore_eos"], body["stream"]) = (true.into(), stream.into());
        body["prompt"] = "Once upon a time there was a dog. ".repeat(6).into();
        let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n";
        let connections: Vec<_> =
            (0..8).map(|_| send(server.address, head, &body.to_string())).collect();
        let start = Instant::now();
        while server.engine.stats().active == 0 {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(connections);
        while server.engine.unfinished() > 0 {
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let stats = server.engine.stats();
    assert_eq!(stats.finished + stats.cancelled, stats.requests);
    assert!(stats.cancelled > 0, "{stats:?}");
}

#[test]
fn requests_in_progress_end_before_the_server_does() {
    let server = start(&[], EngineConfig::default());
    let address = server.address;
    let mut body = greedy("Once upon a time", 150);
    body["ignore_eos"] = true.into();
    let asking = std::thread::spawn(move || {
        ask_as(address, "POST", "/v1/completions", "", &body.to_string())
    });
    let start = Instant::now();
    while server.engine.unfinished() == 0 {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(server);
    let answer = asking.join().unwrap();
    assert_eq!((answer.status, &answer.json()["usage"]["completion_tokens"]), (200, &json!(150)));
}

#[test]
fn operators_and_tools_find_what_they_read() {
    let server = start(&[], EngineConfig::default());
    assert_eq!(get(&server, "/health").json(), json!({"status": "ok"}));
    assert_eq!(get(&server, "/health/live").status, 200);
    assert_eq!(get(&server, "/v1/models").json()["data"][0]["id"], "stories");
    assert_eq!(get(&server, "/v1/models/stories").json()["object"], "model");
    let page = ask_as(server.address, "GET", "/", "Accept: text/html,*/*;q=0.8\r\n", "");
    assert!(page.head.contains("content-type: text/html") && page.body.ends_with("</html>\n"));
    let head = page.head.to_ascii_lowercase();
    assert!(head.contains("content-security-policy: default-src 'none'; script-src 'sha256-"));
    let props = get(&server, "/props").json();
    assert_eq!(props["default_generation_settings"]["n_ctx"], server.engine.context());
    assert!(props["chat_template"].is_null());
    let tokens = post(&server, "/tokenize", &json!({"content": "Once upon a time"})).json();
    let text = post(&server, "/detokenize", &tokens).json();
    assert_eq!(text["content"].as_str().unwrap().trim_start(), "Once upon a time");
    post(&server, "/v1/completions", &greedy("Once upon a time", 5));
    let metrics = get(&server, "/metrics");
    assert!(metrics.head.contains("text/plain; version=0.0.4"));
    for line in [
        "bitnet_requests_total 1",
        "bitnet_requests_finished_total 1",
        "bitnet_tokens_written_total 5",
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "{line}: {}", metrics.body);
    }
}

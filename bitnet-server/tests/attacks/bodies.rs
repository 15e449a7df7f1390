//! Bodies of requests: numbers out of range, names that are paths, bytes that are no JSON.

use std::io::Write;

use bitnet_inference::engine::EngineConfig;
use bitnet_server::ServerConfig;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::server::{greedy, plain, read_all, request, start};

/// Sends a completion with a field whose value is JSON text, which need not fit any number.
fn with_field(name: &str, value: &str) -> String {
    format!("{{\"prompt\": \"Hi\", \"max_tokens\": 1, \"{name}\": {value}}}")
}

#[test]
fn numbers_that_are_negative_giant_or_none_are_refused_by_name() {
    let server = plain();
    let giant = [
        "-2",
        "-9223372036854775808",
        "9223372036854775808",
        "1e300",
        "1.5",
        "\"8\"",
        "[1]",
        "{}",
        "true",
    ];
    for name in ["n", "logprobs", "max_tokens", "top_k"] {
        for value in giant {
            // A limit of tokens or candidates beyond what there is means all of them.
            if value == "9223372036854775808" && ["max_tokens", "top_k"].contains(&name) {
                continue;
            }
            let answer =
                server.ask("POST", "/v1/completions", "", with_field(name, value).as_bytes());
            assert_eq!(answer.status, 400, "{name} {value}: {}", answer.body);
            assert_eq!(answer.json()["error"]["param"], name, "{name} {value}: {}", answer.body);
        }
    }
    for name in
        ["temperature", "top_p", "min_p", "typical_p", "frequency_penalty", "repetition_penalty"]
    {
        for value in ["1e39", "-1e300", "\"1\"", "[1]", "true"] {
            let answer =
                server.ask("POST", "/v1/completions", "", with_field(name, value).as_bytes());
            assert_eq!(answer.status, 400, "{name} {value}: {}", answer.body);
            assert_eq!(answer.json()["error"]["param"], name, "{name} {value}: {}", answer.body);
        }
    }
    // No number of JSON: the whole request is refused.
    for value in ["NaN", "Infinity", "1e999", "01", "0x10", "--1"] {
        let answer = server.ask("POST", "/v1/completions", "", with_field("n", value).as_bytes());
        assert_eq!(answer.status, 400, "{value}: {}", answer.body);
    }
    assert_eq!(server.engine.stats().requests, 0);
}

#[test]
fn numbers_of_texts_are_bounded_before_anything_is_allocated() {
    let server = plain();
    for n in ["33", "1000000", "4294967296", "18446744073709551615"] {
        let answer = server.ask("POST", "/v1/completions", "", with_field("n", n).as_bytes());
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("n")), "{n}");
        let answer = server.ask("POST", "/v1/completions", "", with_field("best_of", n).as_bytes());
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (400, &json!("best_of")),
            "{n}"
        );
    }
    let prompts: Vec<_> = (0..10_000).map(|_| "Hi").collect();
    let answer = server.complete(&json!({"prompt": prompts, "max_tokens": 1}));
    assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("prompt")));
    assert_eq!(server.engine.stats().requests, 0);
}

#[test]
fn bytes_that_are_no_request_are_refused() {
    let server = plain();
    let deep = [b"[".repeat(1 << 20), b"{\"a\":".repeat(200_000)];
    let bodies: Vec<&[u8]> = vec![
        b"",
        b"null",
        b"[]",
        b"\"x\"",
        b"{\"prompt\": \"Hi",
        b"\xef\xbb\xbf{\"prompt\": \"Hi\"}",
        b"{\"prompt\": \"\xff\xfe\"}",
        b"{\"prompt\": \"\\ud800\"}",
        b"{\"prompt\": \"Hi\"} {\"prompt\": \"Hi\"}",
        &deep[0],
        &deep[1],
    ];
    for body in bodies {
        let start = &body[..body.len().min(40)];
        for path in [
            "/v1/completions",
            "/v1/chat/completions",
            "/tokenize",
            "/detokenize",
            "/apply-template",
        ] {
            let answer = server.ask("POST", path, "", body);
            assert_eq!(answer.status, 400, "{path} {start:?}: {}", answer.body);
            assert!(answer.json()["error"]["message"].is_string());
        }
    }
    assert_eq!(server.engine.stats().requests, 0);
}

#[test]
fn compressed_bodies_are_not_read() {
    let server = plain();
    // Ten zero bytes as gzip; a bomb looks alike until it is unpacked.
    let packed = b"\x1f\x8b\x08\0\0\0\0\0\x02\xff\x63\x80\x01\0\xf0\xd3\x37\xe3\x0a\0\0\0";
    for encoding in ["gzip", "deflate", "br", "zstd", "gzip, gzip"] {
        let headers = format!("Content-Encoding: {encoding}\r\n");
        let answer = server.ask("POST", "/v1/completions", &headers, packed);
        assert_eq!(answer.status, 415, "{encoding}: {}", answer.body);
    }
    let body = greedy("Hi", 1).to_string();
    let plain =
        server.ask("POST", "/v1/completions", "Content-Encoding: identity\r\n", body.as_bytes());
    assert_eq!(plain.status, 200);
}

#[test]
fn lengths_that_lie_do_no_harm() {
    let config = ServerConfig { api_keys: vec!["key".into()], ..ServerConfig::default() };
    let server = start(EngineConfig::default(), config);
    let key = "Authorization: Bearer key\r\nConnection: close\r\n";
    // Longer than what comes: the client goes away before its body has ended.
    let mut stream = server.connect();
    stream.write_all(&request("POST", "/v1/completions", key, &[0; 100])).unwrap();
    stream.write_all(b"{\"prompt\": \"Hi\"}").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let text = read_all(&mut stream);
    assert!(text.is_empty() || !text.contains(" 200 "), "{text}");
    // Two lengths, and a length beside chunks: what is one request to a proxy may be two to a server.
    for lengths in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: -1\r\n",
    ] {
        let sent =
            format!("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{key}{lengths}\r\nhello");
        assert_eq!(Answer::parse(&server.raw(sent.as_bytes())).status, 400, "{lengths}");
    }
    // Chunks without end are cut off at the limit of a body.
    let mut stream = server.connect();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{key}Transfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    let sent = (0..400).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    assert!(sent >= 256, "{sent} chunks of 64 KiB");
    let text = read_all(&mut stream);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 413"), "{text}");
    assert_eq!(server.engine.stats().requests, 0);
}

#[test]
fn names_of_models_are_no_paths() {
    let server = plain();
    for name in [
        "../../etc/passwd",
        "/etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "a%00b",
        "..",
        ".",
        "%2fetc%2fpasswd",
        "C:%5cWindows",
    ] {
        let answer = server.get(&format!("/v1/models/{name}"));
        assert_eq!(answer.status, 404, "{name}: {}", answer.body);
        assert!(!answer.body.contains("root:"));
    }
    let mut body = greedy("Hi", 1);
    body["model"] = "../../../../etc/passwd".into();
    let answer = server.complete(&body);
    assert!(!answer.body.contains("etc/passwd") || answer.status == 404, "{}", answer.body);
    // There are no routes that load, pull or remove models.
    for path in
        ["/api/pull", "/api/create", "/api/delete", "/api/push", "/models/load", "/lora-adapters"]
    {
        assert!(
            [403, 404, 405, 501].contains(&server.ask("POST", path, "", b"{}").status),
            "{path}"
        );
    }
}

#[test]
fn prompts_of_wrong_tokens_or_lengths_are_refused() {
    let server = plain();
    let long: Vec<u32> = vec![1; 100_000];
    for prompt in [
        json!([]),
        json!([[]]),
        json!([-1]),
        json!([4_294_967_296_u64]),
        json!([99_999_999]),
        json!([1.5]),
        json!(long),
        Value::Null,
        json!({"a": 1}),
    ] {
        let answer = server.complete(&json!({"prompt": prompt, "max_tokens": 1}));
        assert_eq!(answer.status, 400, "{}", answer.body);
    }
    assert_eq!(server.engine.stats().requests, 0);
}

//! Connections, headers, names of requests and the lines about them.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bitnet_inference::engine::EngineConfig;
use bitnet_server::{ConnectionLimits, LogFormat, ServerConfig};
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::server::{Lines, greedy, much_memory, plain, read_all, request, start};

fn limited(connections: ConnectionLimits) -> ServerConfig {
    ServerConfig { connections, ..ServerConfig::default() }
}

#[test]
fn each_answer_has_the_id_of_its_request() {
    let config = ServerConfig { api_keys: vec!["key".into()], ..ServerConfig::default() };
    let server = start(EngineConfig::default(), config);
    let with_key = "Authorization: Bearer key\r\n";
    let mut stream = greedy("Once", 2);
    stream["stream"] = true.into();
    let stream = stream.to_string();
    for (method, path, key, body, status) in [
        ("GET", "/health", "", "", 200),
        ("GET", "/nowhere", "", "", 404),
        ("PUT", "/health", "", "", 405),
        ("GET", "/metrics", "", "", 401),
        ("POST", "/v1/completions", with_key, "{", 400),
        ("POST", "/v1/completions", with_key, &stream, 200),
    ] {
        let sent = format!("X-Request-Id: trace-1.2:3\r\n{key}");
        let named = server.ask(method, path, &sent, body.as_bytes());
        assert_eq!((named.status, named.header("x-request-id")), (status, Some("trace-1.2:3")));
        let sent = format!("X-Request-Id: a b\r\n{key}");
        let other = server.ask(method, path, &sent, body.as_bytes());
        assert!(other.header("x-request-id").unwrap().starts_with("req-"), "{}", other.head);
    }
    let foreign =
        server.raw(b"GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    assert_eq!(Answer::parse(&foreign).status, 403);
    assert!(Answer::parse(&foreign).header("x-request-id").is_some());
}

#[test]
fn a_line_about_each_request_has_no_prompt_key_query_or_body() {
    let lines = Lines::default();
    let config = ServerConfig {
        api_keys: vec!["secret-key".into()],
        access_log: lines.log(LogFormat::Json),
        ..ServerConfig::default()
    };
    let server = start(EngineConfig::default(), config);
    let key = "Authorization: Bearer secret-key\r\nX-Request-Id: mine\r\n";
    let body = greedy("secret-prompt", 2).to_string();
    server.ask("POST", "/v1/completions?secret-query=1", key, body.as_bytes());
    server.ask("GET", "/metrics?secret-query", "x-api-key: secret-wrong\r\n", b"");
    let mut stream = server.connect();
    let mut endless = greedy("secret-prompt", 200);
    endless["stream"] = true.into();
    let endless = endless.to_string();
    stream.write_all(&request("POST", "/v1/completions", key, endless.as_bytes())).unwrap();
    stream.write_all(endless.as_bytes()).unwrap();
    server.wait("the stream begins", |server| server.engine.stats().active > 0);
    drop(stream);
    server.wait("the stream ends", |_| lines.text().lines().count() == 3);
    let text = lines.text();
    assert!(!text.contains("secret"), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first = &lines[0];
    assert_eq!(first["time"].as_str().unwrap().len(), "2026-01-31T23:59:59.123Z".len());
    for (line, wanted) in [
        (
            0,
            json!({"level": "info", "request_id": "mine", "method": "POST", "path": "/v1/completions",
            "status": 200, "client": 1, "aborted": false}),
        ),
        (
            1,
            json!({"level": "warn", "method": "GET", "path": "/metrics", "status": 401, "client": null}),
        ),
        (2, json!({"level": "warn", "status": 200, "client": 1, "aborted": true})),
    ] {
        for (name, value) in wanted.as_object().unwrap() {
            assert_eq!(&lines[line][name], value, "{name} of {}", lines[line]);
        }
        assert!(lines[line]["duration_ms"].as_f64().unwrap() > 0.0);
    }
    assert!(first["bytes"].as_u64().unwrap() > 0);
}

#[test]
fn too_many_and_too_large_headers_are_refused_with_431() {
    let header_time = Duration::from_secs(3600);
    let limits = ConnectionLimits { header_time, ..Default::default() };
    let server = start(EngineConfig::default(), limited(limits));
    let get = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let many = |count: usize| {
        let headers: String = (0..count).map(|index| format!("X-{index}: 1\r\n")).collect();
        format!("{get}{headers}\r\n")
    };
    let large = |bytes: usize| format!("{get}X-A: {}\r\n\r\n", "a".repeat(bytes));
    for (sent, status) in [
        (many(50), "200"),
        (large(30_000), "200"),
        (many(150), "431"),
        (many(1000), "431"),
        (many(100_000), "431"),
        (large(40_000), "431"),
        (large(1 << 20), "431"),
    ] {
        let answer = server.raw(sent.as_bytes());
        // The rest that a client sends after the answer may end the connection before it was read.
        let found = answer.split(' ').nth(1).unwrap_or("431");
        assert_eq!(found, status, "{} bytes: {answer}", sent.len());
    }
    // Headers without end are not read on and on.
    server.raw(format!("{get}X-A: {}", "a".repeat(1 << 20)).as_bytes());
    // Within what is read at all, the answer is an error as all others.
    let refused = Answer::parse(&server.raw(many(150).as_bytes()));
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("152 headers"));
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn connections_on_which_no_request_arrives_are_closed() {
    let header_time = Duration::from_millis(300);
    let server = start(
        EngineConfig::default(),
        limited(ConnectionLimits { header_time, ..Default::default() }),
    );
    let mut silent = server.connect();
    let mut slow = server.connect();
    slow.write_all(b"GET /health HTTP/1.1\r\nHost: loc").unwrap();
    let mut kept = server.connect();
    kept.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(read_all(&mut silent), "");
    read_all(&mut slow);
    assert!(read_all(&mut kept).starts_with("HTTP/1.1 200"));
}

#[test]
fn connections_beyond_the_limit_get_503_and_places_come_back() {
    let server =
        start(EngineConfig::default(), limited(ConnectionLimits { most: 3, ..Default::default() }));
    let mut open: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for stream in &mut open {
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut byte = [0; 12];
        std::io::Read::read_exact(stream, &mut byte).unwrap();
        assert_eq!(&byte, b"HTTP/1.1 200");
    }
    let mut refused = server.connect();
    let refused = Answer::parse(&read_all(&mut refused));
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.header("content-length"), Some(refused.body.len().to_string().as_str()));
    assert_eq!(refused.json()["error"]["type"], "server_error");
    drop(open);
    server.wait("places come back", |server| {
        server
            .raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .contains(" 200 ")
    });
}

#[test]
fn a_client_that_reads_no_answer_gives_its_connection_back() {
    let limits =
        ConnectionLimits { most: 1, write_time: Duration::from_millis(300), ..Default::default() };
    let server = start(EngineConfig::default(), limited(limits));
    let mut stream = server.connect();
    // The answers are many times what the system holds between the two.
    let pipelined = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(400);
    stream.write_all(pipelined.as_bytes()).unwrap();
    server.wait("the place comes back", |server| {
        server
            .raw(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .contains(" 200 ")
    });
}

#[test]
fn requests_on_one_connection_are_answered_in_turn() {
    let server = plain();
    let get =
        |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
    let sent =
        get("/health", "") + &get("/nowhere", "") + &get("/v1/models", "Connection: close\r\n");
    let text = server.raw(sent.as_bytes());
    let statuses: Vec<_> = text.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect();
    assert_eq!(statuses, ["200", "404", "200"]);
}

#[test]
fn a_server_that_drains_says_so_and_refuses_new_requests() {
    let server = start(much_memory(), ServerConfig::default());
    // Held back since nobody reads it, so that the server does not end before the test has asked.
    let mut body = greedy("Once upon a time", 240);
    (body["stream"], body["n"], body["logprobs"]) = (true.into(), 32.into(), 20.into());
    let mut held = server.send(&body);
    server.wait("the texts begin", |server| server.engine.stats().active > 0);
    server.stop.store(true, Ordering::SeqCst);
    server.wait("the engine closes", |server| !server.engine.is_open());
    for (path, status) in [("/health/ready", 503), ("/health", 503), ("/health/live", 200)] {
        assert_eq!(server.get(path).status, status, "{path}");
    }
    let refused = server.complete(&greedy("Hi", 1));
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (503, &"server_error".into()));
    assert!(server.engine.unfinished() > 0);
    assert!(read_all(&mut held).contains("[DONE]"), "the text that was begun ends");
}

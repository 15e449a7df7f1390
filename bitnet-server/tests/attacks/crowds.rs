//! Many clients at a time, of which some go away, read slowly, or wait: the others are served, and nothing is left.

use std::io::Read;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use bitnet_inference::engine::EngineConfig;
use bitnet_inference::engine::scheduler::StepLimits;
use bitnet_server::ServerConfig;
use serde_json::{Value, json};

use crate::server::{LONG, Random, Server, alone, greedy, much_memory, plain, start};

/// Four texts at a time, and the memory that they take if each is as long as a context: earlier texts must go.
fn little_memory() -> EngineConfig {
    let step = StepLimits { max_sequences: 4, ..StepLimits::default() };
    EngineConfig { kv_bytes: Some(2 << 20), max_waiting: 4096, step, ..EngineConfig::default() }
}

/// Sends requests that are ended by their clients at random moments: while they wait, in the middle of a prompt, of a text.
fn disconnect(server: &Server, requests: u64) {
    let threads = 8;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let mut random = Random(thread + 1);
                for _ in 0..requests / threads {
                    let words = 1 + random.below(30) as usize;
                    let mut body =
                        greedy(&"The cat sat. ".repeat(words), 1 + random.below(60) as usize);
                    body["stream"] = (random.below(4) > 0).into();
                    body["n"] = (1 + random.below(3)).into();
                    let mut stream = server.send(&body);
                    let events = random.below(6);
                    let mut buffer = [0; 600];
                    for _ in 0..events {
                        if stream.read(&mut buffer).unwrap_or(0) == 0 {
                            break;
                        }
                    }
                    if random.below(4) == 0 {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                }
            });
        }
    });
}

#[test]
fn random_disconnects_leave_no_page_and_no_request() {
    let server = start(little_memory(), ServerConfig::default());
    disconnect(&server, 200);
    server.assert_nothing_is_left();
    assert!(server.metric("requests_cancelled_total") > 0.0);
    assert_eq!(server.metric("requests_failed_total"), 0.0);
    // What is written afterwards is what is written by a new server.
    let text = server.complete(&greedy("Once upon a time", 40)).json();
    assert_eq!(text["choices"][0]["text"], alone("Once upon a time", 40));
}

#[test]
#[ignore = "minutes: cargo test --release -p bitnet-server --test attacks -- --ignored ten_thousand"]
fn ten_thousand_random_disconnects_leave_no_page_and_no_request() {
    let server = start(little_memory(), ServerConfig::default());
    disconnect(&server, 10_000);
    server.assert_nothing_is_left();
    assert_eq!(server.metric("requests_failed_total"), 0.0);
    let text = server.complete(&greedy("Once upon a time", 40)).json();
    assert_eq!(text["choices"][0]["text"], alone("Once upon a time", 40));
}

/// Sends the requests of 64 sessions, each with a word of its own in prompts that begin alike, with cancels between and
/// memory for two of them, and asserts that each has the text that the model writes for it alone.
fn canaries(server: &Server, rounds: u64) {
    let sessions = 64;
    let prompt = |session: u64| {
        format!(
            "Once upon a time there was a dog. Its name was Zq{:x}x{session}.",
            session * 7919 % 4093
        )
    };
    let expected: Vec<String> = (0..sessions).map(|session| alone(&prompt(session), 24)).collect();
    let different: std::collections::HashSet<_> = expected.iter().collect();
    assert!(different.len() > 8, "the texts must tell the sessions apart: {}", different.len());
    std::thread::scope(|scope| {
        for session in 0..sessions {
            let (prompt, expected) = (&prompt, &expected);
            scope.spawn(move || {
                let mut random = Random(session);
                for _ in 0..rounds {
                    let mut body = greedy(&prompt(session), 24);
                    if random.below(3) == 0 {
                        body["stream"] = true.into();
                        let mut stream = server.send(&body);
                        let _ = stream.read(&mut [0; 300]);
                        continue;
                    }
                    let answer = server.complete(&body).json();
                    assert!(answer["error"].is_null(), "{answer}");
                    assert_eq!(answer["choices"][0]["text"], expected[session as usize].as_str());
                    for other in (0..sessions).filter(|other| *other != session) {
                        assert!(!answer.to_string().contains(&format!("x{other}.")));
                    }
                }
            });
        }
    });
    server.assert_nothing_is_left();
    assert!(server.metric("prefixes_evicted_total") > 0.0, "memory was never short");
}

#[test]
fn texts_of_64_sessions_never_cross() {
    canaries(&start(little_memory(), ServerConfig::default()), 3);
}

#[test]
#[ignore = "minutes: cargo test --release -p bitnet-server --test attacks -- --ignored ten_thousand"]
fn texts_of_64_sessions_never_cross_in_ten_thousand_requests() {
    canaries(&start(little_memory(), ServerConfig::default()), 157);
}

#[test]
fn a_reader_that_takes_nothing_is_cut_off_and_others_go_on() {
    let config = EngineConfig { reader_patience: Duration::from_millis(300), ..much_memory() };
    let server = start(config, ServerConfig::default());
    // Log probabilities of 32 texts are more than what the system holds between the two.
    let mut body = greedy("Once upon a time", 240);
    (body["stream"], body["n"], body["logprobs"]) = (true.into(), 32.into(), 20.into());
    let slow: Vec<_> = (0..2).map(|_| server.send(&body)).collect();
    server.wait("the slow ones begin", |server| server.engine.stats().requests == 2);
    let text = server.complete(&greedy("The sun", 10)).json();
    assert_eq!(text["choices"][0]["text"], alone("The sun", 10));
    server.assert_nothing_is_left();
    assert_eq!(server.metric("requests_failed_total"), 2.0, "both were cut off");
    drop(slow);
}

fn idle_streams(streams: usize) {
    let config = EngineConfig { max_waiting: 2 * streams, ..EngineConfig::default() };
    let limits = bitnet_server::ConnectionLimits { most: 2 * streams, ..Default::default() };
    let server = start(config, ServerConfig { connections: limits, ..ServerConfig::default() });
    let mut body = greedy("Once upon a time", 100);
    body["stream"] = true.into();
    let open: Vec<_> = (0..streams).map(|_| server.send(&body)).collect();
    server.wait("all are taken", |server| server.engine.stats().requests as usize == streams);
    assert_eq!(server.get("/health").status, 200);
    assert!(server.engine.unfinished() > 0, "health was answered while streams wait");
    drop(open);
    server.assert_nothing_is_left();
}

#[test]
fn health_is_answered_while_200_streams_wait() {
    idle_streams(200);
}

#[test]
#[ignore = "2,000 open files: ulimit -n 4096; cargo test --release -p bitnet-server --test attacks -- --ignored thousand_streams"]
fn health_is_answered_while_a_thousand_streams_wait() {
    idle_streams(1000);
}

#[test]
fn health_and_metrics_are_answered_while_the_engine_is_busy() {
    let server = plain();
    let busy: Vec<_> = (0..16).map(|_| server.send(&greedy("Once upon a time", 200))).collect();
    server.wait("the texts begin", |server| server.engine.stats().active > 0);
    for path in ["/health", "/health/live", "/health/ready", "/metrics", "/v1/models", "/"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    assert!(server.engine.unfinished() > 0, "they were answered first");
    drop(busy);
    server.assert_nothing_is_left();
}

#[test]
fn requests_beyond_the_queue_get_429_with_a_time_to_retry() {
    let server =
        start(EngineConfig { max_waiting: 2, ..EngineConfig::default() }, ServerConfig::default());
    let mut body = greedy("Once upon a time", 200);
    body["n"] = 16.into();
    let (start, mut busy) = (Instant::now(), Vec::new());
    let refused = loop {
        busy.extend((0..6).map(|_| server.send(&body)));
        server.wait("all are taken or refused", |server| {
            let stats = server.engine.stats();
            stats.requests + stats.refused >= busy.len() as u64
        });
        let answer = server.complete(&json!({"prompt": "Hi", "max_tokens": 1}));
        if answer.status == 429 {
            break answer;
        }
        assert!(start.elapsed() < LONG);
    };
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(refused.json()["error"]["type"], Value::from("rate_limit_error"));
    drop(busy);
    server.assert_nothing_is_left();
}

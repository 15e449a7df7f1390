//! Errors of the hub and rejected responses.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bitnet_hub::{Error, Settings, State};

use crate::server::{COMMIT, Reply, Repository, Server, git_sha1, part, sha256};
use crate::{Puller, contents, own, secret};

fn one_file(name: &'static str, length: usize) -> Repository {
    Repository(vec![(name, contents(length))])
}

#[test]
fn the_token_is_sent_to_the_hub_only() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Server::start(|request| part(request, &contents(1000), "etag-of-storage"));
    let away = format!("{}/blob?signature=word", storage.address);
    let served = one_file("x.bin", 1000);
    let server = Server::start(move |request| {
        let etag = format!("\"{}\"", sha256(&contents(1000)));
        if request.path.contains("/resolve/") {
            // First within the hub, as for small files, then to another host.
            return Reply::status(307).with("Location", "/inner?x=1").with("X-Repo-Commit", COMMIT);
        }
        if request.path.starts_with("/inner") {
            let reply = Reply::status(302).with("Location", &away);
            return reply.with("X-Linked-Etag", etag).with("X-Linked-Size", 1000);
        }
        served.answer(request)
    });
    let settings = Settings { token: secret(), ..Puller::settings(&server.address, folder.path()) };
    let puller = Puller::with(settings);
    let pulled = puller.pull("x.bin").unwrap();
    assert_eq!(pulled.path.file_name().unwrap(), "x.bin");
    assert_eq!(fs::read(pulled.path).unwrap(), contents(1000));
    let (hub, away) = (server.requests(), storage.requests());
    assert_eq!((hub.len(), away.len()), (5, 1), "{hub:?} {away:?}");
    assert!(hub.iter().all(|request| request.header("authorization") == Some("Bearer hf_secret")));
    assert_eq!(away[0].header("authorization"), None);
    assert_eq!((away[0].method.as_str(), away[0].path.as_str()), ("GET", "/blob?signature=word"));
}

#[test]
fn refusals_of_the_hub_say_what_to_do() {
    let cases: [(u16, &str, &str, bool, &[&str]); 10] = [
        (
            401,
            "GatedRepo",
            "",
            false,
            &["gated", "accept its terms at http", "/own/model", "HF_TOKEN"],
        ),
        (403, "GatedRepo", "awaiting review", true, &["gated", "accept its terms"]),
        (401, "RepoNotFound", "", false, &["own/model is not on http", "private", "HF_TOKEN"]),
        (401, "", "", false, &["own/model is not on http", "private"]),
        (
            401,
            "",
            "Invalid credentials in Authorization header",
            true,
            &["does not accept the token"],
        ),
        (404, "RepoNotFound", "", true, &["own/model is not on http"]),
        (404, "RevisionNotFound", "", false, &["no revision \"main\"", "after the @"]),
        (404, "", "", false, &["own/model is not on http"]),
        (403, "", "no\u{1b}[2J", true, &["denies access", ": no[2J", "token that may read"]),
        (
            418,
            "",
            "teapot",
            false,
            &["/api/models/own/model/revision/main answered with status 418: teapot"],
        ),
    ];
    for (status, code, message, token, words) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (code, message) = (code.to_owned(), message.replace('\u{1b}', ""));
        let server = Server::start(move |_| {
            Reply::status(status).with("X-Error-Code", &code).with("X-Error-Message", &message)
        });
        let token = if token { secret() } else { None };
        let puller =
            Puller::with(Settings { token, ..Puller::settings(&server.address, folder.path()) });
        let text = puller.list().unwrap_err().to_string();
        for word in words {
            assert!(text.contains(word), "{status}: {word:?} is not in: {text}");
        }
        assert!(!text.contains("hf_secret"), "{text}");
        assert_eq!(server.requests().len(), 1, "{status} is final");
    }
}

#[test]
fn missing_and_gated_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let served = one_file("x.bin", 10);
    let server = Server::start(move |request| {
        if request.path.ends_with("gated.bin") {
            return Reply::status(403).with("X-Error-Code", "GatedRepo");
        }
        served.answer(request)
    });
    let puller = Puller::new(&server.address, folder.path());
    let missing = puller.pull("y.bin").unwrap_err().to_string();
    assert!(
        missing.contains("own/model has no file \"y.bin\"") && missing.contains("--list"),
        "{missing}"
    );
    assert!(matches!(puller.pull("gated.bin"), Err(Error::Gated { .. })));
}

#[test]
fn retry_after_is_respected() {
    let folder = tempfile::tempdir().unwrap();
    let served = one_file("x.bin", 10);
    let times = AtomicUsize::new(0);
    let server = Server::start(move |request| match times.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::status(429).with("Retry-After", 7),
        1 => Reply::status(503),
        2 => Reply::status(429).with("Retry-After", 1_000_000),
        // The connection closes without a response.
        4 => Reply { cut: Some(0), ..served.answer(request) },
        _ => served.answer(request),
    });
    let puller = Puller::new(&server.address, folder.path());
    assert_eq!(puller.pull("x.bin").unwrap().state, State::Downloaded);
    assert_eq!(*puller.pauses.borrow(), [7, 2, 120]);
}

#[test]
fn a_hub_that_stays_down_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(|_| Reply::status(502));
    let puller = Puller::new(&server.address, folder.path());
    assert!(matches!(puller.list(), Err(Error::Status { status: 502, .. })));
    assert_eq!(*puller.pauses.borrow(), [1, 2, 4, 8]);
    // A closed port.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let puller = Puller::new(&format!("http://{closed}"), folder.path());
    let error = puller.list().unwrap_err();
    assert!(matches!(&error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("try again"), "{error}");
    assert_eq!(puller.pauses.borrow().len(), 4);
}

#[test]
fn expired_signed_urls_are_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let times = Arc::new(AtomicUsize::new(0));
    let storage = Server::start(move |request| match times.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::status(403),
        _ => part(request, &contents(10), "x"),
    });
    let served = one_file("x.bin", 10);
    let address = storage.address.clone();
    let server = Server::start(move |request| {
        let reply = served.answer(request);
        match request.method.as_str() {
            "GET" if request.path.contains("/resolve/") => {
                Reply::status(302).with("Location", &address)
            }
            _ => reply,
        }
    });
    let puller = Puller::new(&server.address, folder.path());
    assert_eq!(puller.pull("x.bin").unwrap().state, State::Downloaded);
    assert_eq!((storage.requests().len(), puller.pauses.borrow().len()), (2, 1));
}

#[test]
fn hostile_names_are_refused_and_touch_nothing() {
    let names =
        ["../../outside", "/outside", "a/../../../outside", "a\\b", "C:\\outside", "nul", "x\u{1}"];
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let served = Repository(names.iter().map(|name| (*name, contents(10))).collect());
    let server = Server::start(move |request| {
        let mut reply = served.answer(request);
        if reply.status == 404 {
            // Every requested file exists.
            reply = part(request, &contents(10), &sha256(&contents(10)));
        }
        // Rust's escapes equal JSON's except for control characters.
        reply.body = String::from_utf8_lossy(&reply.body).replace("\\u{1}", "\\u0001").into_bytes();
        reply
    });
    let puller = Puller::new(&server.address, &cache);
    assert_eq!(puller.list().unwrap().files.len(), names.len());
    for name in names {
        let error = puller.pull(name).unwrap_err();
        assert!(
            matches!(&error, Error::FileName { file, .. } if file == name),
            "{name:?}: {error}"
        );
    }
    assert!(!cache.exists() && fs::read_dir(folder.path()).unwrap().count() == 0);
}

#[test]
fn invalid_responses_are_errors() {
    let good = format!("\"{}\"", sha256(&contents(10)));
    let files: [(&str, Reply, &str); 4] = [
        ("tag", Reply::status(200).with("ETag", "\"../../x\"").with("Content-Length", 10), "ETag"),
        ("none", Reply::status(200).with("Content-Length", 10), "ETag"),
        (
            "commit",
            Reply::status(200)
                .with("ETag", &good)
                .with("X-Repo-Commit", "f".repeat(40))
                .with("Content-Length", 10),
            "another commit",
        ),
        ("loop", Reply::status(302).with("Location", "loop"), "too many redirects"),
    ];
    for (name, reply, word) in files {
        let folder = tempfile::tempdir().unwrap();
        let served = one_file("x.bin", 10);
        let server = Server::start(move |request| {
            if request.path.contains("/resolve/") { reply.clone() } else { served.answer(request) }
        });
        let error = Puller::new(&server.address, folder.path()).pull(name).unwrap_err();
        assert!(
            matches!(error, Error::Answer { .. }) && error.to_string().contains(word),
            "{name}: {error}"
        );
    }
    for (body, word) in [
        ("", "can't be read"),
        ("[]", "can't be read"),
        ("{\"siblings\":[]}", "can't be read"),
        ("{\"sha\":\"../../x\"}", "no commit"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(move |_| Reply::status(200).body(body));
        let error = Puller::new(&server.address, folder.path()).list().unwrap_err();
        assert!(error.to_string().contains(word), "{body}: {error}");
    }
}

#[test]
fn offline_means_that_nothing_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let served = one_file("x.bin", 10);
    let server = Server::start(move |request| served.answer(request));
    let offline = || Settings { offline: true, ..Puller::settings(&server.address, folder.path()) };
    let error = Puller::with(offline()).list().unwrap_err();
    assert!(
        matches!(error, Error::Offline { .. }) && error.to_string().contains("HF_HUB_OFFLINE"),
        "{error}"
    );
    assert_eq!(server.requests().len(), 0);
    let puller = Puller::new(&server.address, folder.path());
    puller.pull("x.bin").unwrap();
    puller.hub.settle(&puller.list().unwrap()).unwrap();
    server.requests();
    assert_eq!(Puller::with(offline()).pull("x.bin").unwrap().state, State::Present);
    assert!(matches!(Puller::with(offline()).pull("y.bin"), Err(Error::Offline { .. })));
    assert_eq!(server.requests().len(), 0);
    assert_eq!(own().folder(), "models--own--model");
    assert_eq!(git_sha1(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
}

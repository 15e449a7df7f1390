//! `bitnet serve` as a service, and `bitnet top` beside it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::tempdir;

use crate::program::{bitnet, json, refused};

/// A server of the story model, ended when the test does.
struct Server {
    child: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(args: &[&str], environment: &[(&str, &str)]) -> Server {
    let mut command = bitnet(&["serve", "--port", "0", "--json"]);
    command.args(args).envs(environment.iter().copied());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let started: Value = serde_json::from_str(&line).unwrap();
    Server { child, url: started["url"].as_str().unwrap().to_owned() }
}

fn get(url: &str, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    let head =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[cfg(target_os = "linux")]
#[test]
fn a_service_manager_is_told_when_the_server_is_ready_works_and_stops() {
    use std::os::unix::net::UnixDatagram;

    let folder = tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(120))).unwrap();
    let receive = || {
        let mut buffer = [0; 4096];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    };
    let environment = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let mut server = serve(&[], &environment);
    let ready = receive();
    assert!(
        ready.contains("READY=1\n") && ready.contains("STATUS=stories at http://127"),
        "{ready}"
    );
    for _ in 0..3 {
        assert_eq!(receive().trim(), "WATCHDOG=1");
    }
    signal(&server.child, "-TERM");
    let told = std::iter::repeat_with(receive).find(|told| told.trim() != "WATCHDOG=1");
    assert_eq!(told.unwrap().trim(), "STOPPING=1");
    assert!(server.child.wait().unwrap().success());
}

#[test]
fn requests_are_logged_as_asked_and_not_otherwise() {
    for (form, wanted) in [("json", 2), ("text", 2), ("off", 0), ("", 0)] {
        let log = ["--log", form];
        let mut server = serve(if form.is_empty() { &[] } else { &log }, &[]);
        get(&server.url, "/health?secret", "X-Request-Id: mine\r\n");
        get(&server.url, "/nowhere", "");
        signal(&server.child, "-TERM");
        assert!(server.child.wait().unwrap().success());
        let mut text = String::new();
        server.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        let lines: Vec<_> = text
            .lines()
            .filter(|line| line.contains(" GET ") || line.contains("\"GET\""))
            .collect();
        assert_eq!(lines.len(), wanted, "{form}: {text}");
        assert!(!text.contains("secret"), "{text}");
        match form {
            "json" => {
                let line: Value = serde_json::from_str(lines[0]).unwrap();
                assert_eq!((&line["request_id"], &line["status"]), (&"mine".into(), &200.into()));
            }
            "text" => assert!(lines[1].contains(" warn 404 GET /nowhere "), "{text}"),
            _ => {}
        }
    }
}

#[cfg(feature = "top")]
#[test]
fn top_prints_a_sample_as_a_document_and_names_what_is_wrong() {
    let folder = tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, "# of the test\nsecret\n").unwrap();
    let keys = keys.to_str().unwrap();
    let server = serve(&["--api-key-file", keys, "--name", "tales"], &[]);
    let sample = json(&["top", &server.url, "--api-key-file", keys, "--json"]);
    assert_eq!((&sample["model"], &sample["parallel"]), (&"tales".into(), &32.into()));
    assert_eq!(sample["metrics"]["requests_total"], 0);
    assert_eq!(sample["step_seconds"].as_array().unwrap().last().unwrap()["le"], "+Inf");
    refused(&["top", &server.url], &["needs a key", "--api-key-file"]);
    refused(&["top", "ftp://localhost"], &["ftp://localhost", "http://HOST:PORT"]);
    let url = server.url.clone();
    drop(server);
    refused(&["top", &url], &[&format!("{url}/metrics")]);
}

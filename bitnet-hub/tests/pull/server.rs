//! A hub on loopback: responses are a function of the request, and every request is recorded.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::Digest;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Number of body bytes after which the connection closes.
    pub(crate) cut: Option<usize>,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }
}

pub(crate) struct Server {
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Creates a server that lives as long as the process.
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let Some(request) = read(&stream) else { continue };
                written.lock().unwrap().push(request.clone());
                let reply = answer(&request);
                // A client that disconnects early has all it needs.
                let _ = send(&mut stream, &request, &reply);
            }
        });
        Self { address, requests }
    }

    /// Returns and clears the recorded requests.
    pub(crate) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Some(Request { method, path, headers })
}

fn send(stream: &mut TcpStream, request: &Request, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", reply.status);
    if !reply
        .headers
        .iter()
        .any(|(name, _)| name == "Content-Length" || name == "Transfer-Encoding")
    {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" {
        let end = reply.cut.map_or(reply.body.len(), |cut| cut.min(reply.body.len()));
        stream.write_all(&reply.body[..end])?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&sha2::Sha256::digest(bytes))
}

pub(crate) fn git_sha1(bytes: &[u8]) -> String {
    let mut sum = sha1::Sha1::new();
    sum.update(format!("blob {}\0", bytes.len()));
    sum.update(bytes);
    hex(&sum.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The repository `own/model`; `.json` files are small, all others large.
#[derive(Debug, Clone)]
pub(crate) struct Repository(pub(crate) Vec<(&'static str, Vec<u8>)>);

impl Repository {
    /// Returns the responses of a correct hub.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        if request.path.starts_with("/api/models/own/model/revision/main?") {
            return Reply::status(200).body(self.description());
        }
        let prefix = format!("/own/model/resolve/{COMMIT}/");
        let path = request.path.strip_prefix(&prefix).unwrap_or_default();
        match self.0.iter().find(|(name, _)| *name == path) {
            None => Reply::status(404).with("X-Error-Code", "EntryNotFound"),
            Some((name, bytes)) => part(request, bytes, &etag(name, bytes)),
        }
    }

    fn description(&self) -> String {
        let files = self.0.iter().map(|(path, bytes)| {
            let path = path.escape_default();
            let bytes = bytes.len();
            format!(r#"{{"rfilename":"{path}","size":{bytes}}}"#)
        });
        format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, files.collect::<Vec<_>>().join(","))
    }
}

pub(crate) fn etag(path: &str, bytes: &[u8]) -> String {
    if path.ends_with(".json") { git_sha1(bytes) } else { sha256(bytes) }
}

/// Returns the requested range of `bytes`.
pub(crate) fn part(request: &Request, bytes: &[u8], etag: &str) -> Reply {
    let all = bytes.len();
    let start =
        request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    let reply = match start.map(|start| start.parse::<usize>().unwrap()) {
        None => Reply::status(200).body(bytes),
        Some(start) if start < all => Reply::status(206)
            .body(&bytes[start..])
            .with("Content-Range", format!("bytes {start}-{}/{all}", all - 1)),
        Some(_) => Reply::status(416).with("Content-Range", format!("bytes */{all}")),
    };
    reply.with("ETag", format!("\"{etag}\"")).with("X-Repo-Commit", COMMIT)
}

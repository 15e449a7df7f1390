//! A server of the embedded model, and clients that may behave badly.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bitnet_inference::engine::{Engine, EngineConfig};
use bitnet_inference::{GenerateOptions, Model};
use bitnet_server::{AccessLog, LogFormat, Served, ServerConfig, serve};
use serde_json::{Value, json};

use crate::answer::Answer;

/// How long anything may take before a test gives up.
pub(crate) const LONG: Duration = Duration::from_secs(120);

static MODEL: LazyLock<Arc<Model>> =
    LazyLock::new(|| Arc::new(Model::builder().threads(2).embedded().unwrap()));

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) engine: Engine,
    pub(crate) stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Served>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

pub(crate) fn start(engine: EngineConfig, config: ServerConfig) -> Server {
    let engine = Engine::start(Arc::clone(&MODEL), engine).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
    let (served, asked) = (engine.clone(), Arc::clone(&stop));
    let thread = std::thread::spawn(move || {
        serve(served, listener, config, move || asked.load(Ordering::SeqCst)).unwrap()
    });
    Server { address, engine, stop, thread: Some(thread) }
}

pub(crate) fn plain() -> Server {
    start(EngineConfig::default(), ServerConfig::default())
}

/// Memory for as many texts as there may be, each as long as a context.
pub(crate) fn much_memory() -> EngineConfig {
    EngineConfig { kv_bytes: Some(16 << 20), ..EngineConfig::default() }
}

/// Lines of the access log.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    pub(crate) fn log(&self, format: LogFormat) -> Option<AccessLog> {
        Some(AccessLog::new(format, self.clone()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))?;
        Some(line.trim())
    }
}

impl Server {
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    /// Sends bytes and reads until the server closes the connection.
    pub(crate) fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may have answered and closed before it has read all.
        let _ = stream.write_all(bytes);
        read_all(&mut stream)
    }

    pub(crate) fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let mut bytes = request(method, path, &format!("Connection: close\r\n{headers}"), body);
        bytes.extend_from_slice(body);
        Answer::parse(&self.raw(&bytes))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", b"")
    }

    pub(crate) fn complete(&self, body: &Value) -> Answer {
        self.ask("POST", "/v1/completions", "", body.to_string().as_bytes())
    }

    /// Sends a request for a text and returns its connection, of which nothing was read.
    pub(crate) fn send(&self, body: &Value) -> TcpStream {
        let mut stream = self.connect();
        let body = body.to_string();
        let mut bytes =
            request("POST", "/v1/completions", "Connection: close\r\n", body.as_bytes());
        bytes.extend_from_slice(body.as_bytes());
        stream.write_all(&bytes).unwrap();
        stream
    }

    /// Waits until `done` says so.
    pub(crate) fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < LONG, "{what}: {:?}", self.engine.stats());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until no request is left, and asserts that `/metrics` counts none, and no page that one holds.
    pub(crate) fn assert_nothing_is_left(&self) {
        self.wait("requests are left", |server| server.engine.unfinished() == 0);
        self.wait("texts are left", |server| server.engine.stats().active_pages == 0);
        for name in [
            "requests_unfinished",
            "requests_waiting",
            "tokens_waiting",
            "texts_active",
            "kv_pages_active",
        ] {
            assert_eq!(self.metric(name), 0.0, "{name}");
        }
        let ended = ["finished", "cancelled", "failed"];
        let ended: f64 =
            ended.map(|end| self.metric(&format!("requests_{end}_total"))).iter().sum();
        assert_eq!(ended, self.metric("requests_total"));
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        let answer = self.get("/metrics");
        let name = format!("bitnet_{name} ");
        let value = answer.body.lines().find_map(|line| line.strip_prefix(&name));
        value.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    }
}

/// The head of a request.
pub(crate) fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len}\r\n\r\n")
        .into_bytes()
}

/// Reads until the connection ends, with or without an error.
pub(crate) fn read_all(stream: &mut TcpStream) -> String {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => bytes.extend_from_slice(&buffer[..len]),
            // The server closes a connection before it has read all that was sent.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the connection is still open: {error}"),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn greedy(prompt: &str, max_tokens: usize) -> Value {
    json!({"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": true})
}

/// The text that the model writes when nobody else asks.
pub(crate) fn alone(prompt: &str, max_tokens: usize) -> String {
    let tokens = MODEL.encode_prompt(prompt).unwrap();
    let mut session = MODEL.session(None).unwrap();
    let options = GenerateOptions { max_tokens, ignore_end: true, ..GenerateOptions::default() };
    let mut generation = session.generate(&tokens, &options).unwrap();
    generation.by_ref().for_each(|token| drop(token.unwrap()));
    generation.finish().text
}

/// Random numbers, the same in each run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// Returns a number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

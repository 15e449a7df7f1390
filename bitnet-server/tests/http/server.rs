//! A running server, and a client that shows its answers as they come over TCP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bitnet_inference::chat::TemplateChoice;
use bitnet_inference::engine::{Engine, EngineConfig};
use bitnet_inference::{LoadOptions, Model};
use bitnet_server::{Served, ServerConfig, serve};
use serde_json::Value;

pub(crate) use crate::answer::Answer;

pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) engine: Engine,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Served>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A template in the forms of Qwen's, with a switch for reasoning.
const TEMPLATE: &str = "\
{%- if tools -%}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools> <tool_call>{%- endif -%}
{%- for m in messages -%}
{{ '<|' + m.role + '|>' + m.content }}
{%- for call in m.tool_calls or [] -%}<tool_call>{{ call.function | tojson }}</tool_call>{%- endfor -%}
{{ '<|end|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{{ '<think>' if enable_thinking }}{%- endif -%}
{#- </think> -#}
";

/// Serves the embedded model to write texts.
pub(crate) fn start(api_keys: &[&str], config: EngineConfig) -> Running {
    serve_model(Model::builder().threads(2).embedded().unwrap(), api_keys, config)
}

/// Serves it with a chat template: what it writes is no answer, but has the form of one.
pub(crate) fn start_chat() -> Running {
    let template = Some(TemplateChoice::Source(TEMPLATE.into()));
    let options = LoadOptions { chat_template: template, ..LoadOptions::default() };
    let model = Model::builder().options(options).threads(2).embedded().unwrap();
    serve_model(model, &[], EngineConfig::default())
}

/// Serves a model for embeddings, of random weights.
pub(crate) fn start_embeddings() -> Running {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models");
    let file = folder.join("gguf-gemma3-embedding-i2s/model.gguf");
    serve_model(Model::builder().threads(2).open(file).unwrap(), &[], EngineConfig::default())
}

fn serve_model(model: Model, api_keys: &[&str], config: EngineConfig) -> Running {
    let model = Arc::new(model);
    let engine = Engine::start(model, config).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
    let api_keys = api_keys.iter().map(|key| (*key).to_owned()).collect();
    let config = ServerConfig {
        api_keys,
        model_name: "stories".into(),
        drain: Duration::from_secs(60),
        ..ServerConfig::default()
    };
    let (served, asked) = (engine.clone(), Arc::clone(&stop));
    let thread = std::thread::spawn(move || {
        serve(served, listener, config, move || asked.load(Ordering::SeqCst)).unwrap()
    });
    Running { address, engine, stop, thread: Some(thread) }
}

impl Answer {
    /// The texts of its events' data.
    pub(crate) fn data(&self) -> Vec<&str> {
        self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
    }

    /// The lines of JSON in it that begin with `prefix`, without that.
    pub(crate) fn lines(&self, prefix: &str) -> Vec<Value> {
        let lines = self.body.lines().filter_map(|line| line.strip_prefix(prefix));
        let lines = lines.filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The data of its events, without the last one.
    pub(crate) fn events(&self) -> Vec<Value> {
        let data = self.data();
        assert_eq!(data.last(), Some(&"[DONE]"), "{}", self.body);
        data[..data.len() - 1].iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }
}

pub(crate) fn send(address: SocketAddr, head: &str, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let len = body.len();
    write!(stream, "{head}Connection: close\r\nContent-Length: {len}\r\n\r\n{body}").unwrap();
    stream
}

pub(crate) fn ask_as(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}");
    let mut stream = send(address, &head, body);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    Answer::parse(&text)
}

pub(crate) fn get(server: &Running, path: &str) -> Answer {
    ask_as(server.address, "GET", path, "", "")
}

pub(crate) fn post(server: &Running, path: &str, body: &Value) -> Answer {
    ask_as(server.address, "POST", path, "", &body.to_string())
}

//! What is asked of a server over HTTP.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use ureq::Agent;

use super::sample::Sample;
use super::view::Server;
use crate::output::without_controls;

/// How long an answer may take.
const WAIT: Duration = Duration::from_secs(5);
/// Bytes of an answer, at most.
const LARGEST: u64 = 1 << 20;

/// A client of one server.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    agent: Agent,
    /// The server without a path.
    pub(crate) url: String,
    key: Option<String>,
    start: Instant,
}

impl Client {
    /// Creates a client. A URL without a scheme is one of HTTP; that of an API may be given too.
    pub(crate) fn new(url: &str, key: Option<String>) -> Result<Self> {
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let url = url.trim_end_matches('/');
        let url = url.strip_suffix("/v1").unwrap_or(url).to_owned();
        let host = url.split_once("://").map_or("", |(_, host)| host);
        if host.is_empty() || !(url.starts_with("http://") || url.starts_with("https://")) {
            bail!("{url}: no URL of a server; write http://HOST:PORT");
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(WAIT))
            .proxy(None)
            .build();
        Ok(Self { agent: config.into(), url, key, start: Instant::now() })
    }

    /// Returns the figures of the server.
    pub(crate) fn sample(&self) -> Result<Sample> {
        let text = self.get("/metrics")?;
        let sample = Sample::parse(&text, self.start.elapsed());
        if sample.figures.is_empty() {
            bail!("{}/metrics has no figures of bitnet", self.url);
        }
        Ok(sample)
    }

    /// Returns what is known of the server beside its figures.
    pub(crate) fn server(&self) -> Server {
        let object = |path: &str| {
            let text = self.get(path).ok();
            text.and_then(|text| serde_json::from_str::<Value>(&text).ok()).unwrap_or_default()
        };
        let (models, props) = (object("/v1/models"), object("/props"));
        let model = models.pointer("/data/0/id").and_then(Value::as_str);
        Server {
            url: self.url.clone(),
            model: model.map(|model| without_controls(model).replace('\n', " ")),
            context: props.pointer("/default_generation_settings/n_ctx").and_then(Value::as_u64),
            parallel: props.get("total_slots").and_then(Value::as_u64),
        }
    }

    fn get(&self, path: &str) -> Result<String> {
        let url = format!("{}{path}", self.url);
        let mut request = self.agent.get(&url);
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.call().map_err(|error| anyhow!("{url}: {error}"))?;
        match response.status().as_u16() {
            200 => {}
            401 => bail!("{url} needs a key: --api-key-file FILE"),
            status => bail!("{url} answers with status {status}"),
        }
        let body = response.body_mut().with_config().limit(LARGEST).read_to_string();
        body.with_context(|| format!("{url} can't be read"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_found_by_every_spelling_of_their_url() {
        for url in ["http://a:1", "a:1", "http://a:1/", "http://a:1/v1", "http://a:1/v1/"] {
            assert_eq!(Client::new(url, None).unwrap().url, "http://a:1", "{url}");
        }
        assert_eq!(Client::new("https://a", None).unwrap().url, "https://a");
        for url in ["", "ftp://a", "http://"] {
            assert!(Client::new(url, None).is_err(), "{url}");
        }
    }
}

//! HTTP requests. Redirects are followed here, so that a token is sent to the hub only.

use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, LOCATION, USER_AGENT};
use ureq::http::{HeaderMap, HeaderValue, Method, Request};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::address::Address;
use super::refusal::Trouble;
use crate::error::{Error, Result};
use crate::settings::{Settings, Token};

/// Maximum number of redirects per request.
const REDIRECTS: usize = 10;

/// The redirect policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// Follows redirects within the hub; returns a response that leads to another host.
    Hub,
    /// Follows all redirects.
    Everywhere,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The URL of the response.
    pub(crate) address: Address,
    /// The status.
    pub(crate) status: u16,
    /// The headers.
    pub(crate) headers: HeaderMap,
    /// The unread body.
    pub(crate) body: Body,
}

impl Answer {
    /// Returns a header, if present and valid.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns a numeric header.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }
}

/// An HTTP client for one hub.
pub(crate) struct Client {
    agent: Agent,
    hub: Address,
    token: Option<Token>,
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let hub = Address::parse(&settings.endpoint).ok_or_else(|| Error::Setting {
            name: "HF_ENDPOINT".to_owned(),
            problem: "it is no address".to_owned(),
        })?;
        let wait = Some(settings.timeout);
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(wait)
            .timeout_connect(wait)
            .timeout_recv_response(wait)
            .timeout_per_read(wait);
        if !settings.proxies {
            config = config.proxy(None);
        }
        if let Some(path) = &settings.certificates {
            let roots = RootCerts::from(certificates(path)?);
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Self { agent: config.build().into(), hub, token: settings.token.clone() })
    }

    /// Returns whether the URL belongs to the hub.
    pub(crate) fn is_hub(&self, address: &Address) -> bool {
        address.same_origin(&self.hub)
    }

    /// Returns whether requests carry a token.
    pub(crate) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Requests `address`. Passes each redirect to `on_the_way` and returns the last response, whatever its status.
    pub(crate) fn request(
        &self,
        method: Method,
        address: &Address,
        range_from: u64,
        follow: Follow,
        on_the_way: &mut dyn FnMut(&Answer),
    ) -> Result<Answer, Trouble> {
        let mut address = address.clone();
        for _ in 0..=REDIRECTS {
            let answer = self.once(&method, &address, range_from)?;
            let moved = matches!(answer.status, 301 | 302 | 303 | 307 | 308);
            let Some(location) = answer.header(LOCATION.as_str()).filter(|_| moved) else {
                return Ok(answer);
            };
            let Some(target) = address.redirected(location) else {
                return Err(Trouble::answer(
                    &address,
                    "it redirects to an invalid or insecure address",
                ));
            };
            if follow == Follow::Hub && !self.is_hub(&target) {
                return Ok(answer);
            }
            on_the_way(&answer);
            address = target;
        }
        Err(Trouble::answer(&address, "there are too many redirects"))
    }

    fn once(&self, method: &Method, address: &Address, range_from: u64) -> Result<Answer, Trouble> {
        let mut request = Request::builder()
            .method(method)
            .uri(address.uri())
            .header(USER_AGENT, concat!("bitnet/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT_ENCODING, "identity");
        if range_from > 0 {
            request = request.header("Range", format!("bytes={range_from}-"));
        }
        if let Some(token) = self.token.as_ref().filter(|_| self.is_hub(address)) {
            let value = HeaderValue::from_str(&format!("Bearer {}", token.secret()));
            let mut value =
                value.map_err(|_| Trouble::answer(address, "the token can't stand in a header"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request =
            request.body(()).map_err(|_| Trouble::answer(address, "it can't be requested"))?;
        let response =
            self.agent.run(request).map_err(|error| Trouble::connection(address, &error))?;
        let status = response.status().as_u16();
        let (parts, body) = response.into_parts();
        Ok(Answer { address: address.clone(), status, headers: parts.headers, body })
    }
}

/// Reads the certificates of a PEM file.
fn certificates(path: &std::path::Path) -> Result<Vec<Certificate<'static>>> {
    let wrong = |problem: String| Error::Setting { name: "SSL_CERT_FILE".to_owned(), problem };
    let bytes =
        std::fs::read(path).map_err(|error| wrong(format!("{}: {error}", path.display())))?;
    let items = parse_pem(&bytes).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = items.collect();
    if certificates.is_empty() {
        return Err(wrong(format!("{} holds no certificate in PEM form", path.display())));
    }
    Ok(certificates)
}

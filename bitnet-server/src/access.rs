//! Who may ask: API keys, and the hosts under which a server on the loopback interface is known.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::body::discard;
use crate::error::ApiError;
use crate::state::AppState;

/// API keys, as their SHA-256.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys(Vec<[u8; 32]>);

impl Keys {
    pub(crate) fn new(keys: &[String]) -> Self {
        Self(keys.iter().map(|key| digest(key.as_bytes())).collect())
    }

    /// Whether no key is needed.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of the key that equals `key`, from 1. The time it takes depends on no byte of a key.
    fn find(&self, key: &[u8]) -> Option<u64> {
        let key = digest(key);
        let mut found = None;
        for (index, known) in self.0.iter().enumerate() {
            let difference = known.iter().zip(&key).fold(0, |all, (a, b)| all | (a ^ b));
            if std::hint::black_box(difference) == 0 {
                found = Some(index as u64 + 1);
            }
        }
        found
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Who sent a request: the number of its key, or 0 where no key is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client(pub(crate) u64);

/// Refuses requests without a key where one is needed, and notes whose they are.
pub(crate) async fn check_key(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let client = match (state.keys.is_empty(), sent_key(request.headers())) {
        (true, _) => Some(0),
        (false, None) => None,
        (false, Some(key)) => state.keys.find(key),
    };
    let Some(client) = client else {
        discard(request);
        let message = "a valid API key is needed: send it as `Authorization: Bearer KEY`";
        return ApiError::new(StatusCode::UNAUTHORIZED, message).into_response();
    };
    request.extensions_mut().insert(Client(client));
    let mut response = next.run(request).await;
    response.extensions_mut().insert(Client(client));
    response
}

fn sent_key(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let value = value.as_bytes();
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
    });
    bearer.or_else(|| headers.get("x-api-key").map(|value| value.as_bytes()))
}

/// Refuses requests whose `Host` or `Origin` is not this server's, where it listens on the loopback interface: a page
/// from elsewhere could reach it through a name that it controls (DNS rebinding).
pub(crate) async fn check_host(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    if !state.is_loopback || is_local(request.headers()) {
        return next.run(request).await;
    }
    discard(request);
    let message =
        "this server listens on the loopback interface and answers to localhost and 127.0.0.1 only";
    ApiError::new(StatusCode::FORBIDDEN, message).into_response()
}

/// Whether `Host` and `Origin`, where they are sent, are the loopback interface.
fn is_local(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let origin_is_good =
        |origin: &str| origin.split_once("://").is_some_and(|(_, host)| is_loopback_host(host));
    text(header::HOST).is_none_or(is_loopback_host)
        && text(header::ORIGIN).is_none_or(origin_is_good)
}

/// Whether `host`, with or without a port, is the loopback interface.
fn is_loopback_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_their_whole_text() {
        let keys = Keys::new(&["alpha".into(), "beta".into()]);
        assert_eq!((keys.find(b"alpha"), keys.find(b"beta")), (Some(1), Some(2)));
        for wrong in [&b""[..], b"alph", b"alphaa", b"Alpha"] {
            assert_eq!(keys.find(wrong), None);
        }
        assert!(Keys::default().is_empty());
    }

    #[test]
    fn only_names_of_the_loopback_interface_are_local() {
        for local in [
            "localhost",
            "localhost:8080",
            "LOCALHOST",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:80",
            "[::1]",
        ] {
            assert!(is_loopback_host(local), "{local}");
        }
        for other in [
            "evil.example",
            "localhost.evil.example:80",
            "10.0.0.1",
            "",
            "[::2]:80",
            "127.0.0.1.evil",
        ] {
            assert!(!is_loopback_host(other), "{other}");
        }
    }
}

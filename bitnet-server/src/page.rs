//! The chat page at `/`: one file, and a policy that lets it load nothing else.

use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("../page/index.html");

/// The page's script and style are allowed by their hashes; answers of the model can bring no others.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |element| STANDARD.encode(Sha256::digest(inside(element).as_bytes()));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    )
});

/// Returns the text of the page's only element of this name.
fn inside(element: &str) -> &'static str {
    let after = PAGE.split_once(&format!("<{element}>")).map_or("", |(_, after)| after);
    after.split_once(&format!("</{element}>")).map_or("", |(text, _)| text)
}

/// `GET /`: the page for browsers, and what Ollama says for its clients.
pub(crate) async fn page(headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if !accepts.is_some_and(|accepts| accepts.contains("text/html")) {
        return "Ollama is running".into_response();
    }
    let mut response = Html(PAGE).into_response();
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_one_small_file_with_one_script_and_one_style() {
        for element in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "{element}");
            assert!(inside(element).len() > 100);
        }
        for attribute in [" src=", " onclick=", " onload=", " style=", "http-equiv"] {
            let markup = PAGE.replace(inside("script"), "").replace(inside("style"), "");
            assert!(!markup.contains(attribute), "{attribute}");
        }
        assert!(PAGE.len() <= 60 << 10, "{} bytes", PAGE.len());
    }
}

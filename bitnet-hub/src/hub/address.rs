//! URLs: parsing, joining, comparison, and display without secrets.

use ureq::http::Uri;

/// An absolute http or https URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address(Uri);

impl Address {
    /// Parses an absolute http or https URL without user information; else `None`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        let authority = uri.authority()?;
        (known && !authority.host().is_empty() && !authority.as_str().contains('@'))
            .then_some(Self(uri))
    }

    /// Resolves a `Location` header.
    pub(crate) fn join(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next().unwrap_or(location);
        let scheme = self.0.scheme_str()?;
        let authority = self.0.authority()?;
        let lower = location.to_ascii_lowercase();
        if lower.starts_with("http:") || lower.starts_with("https:") {
            Self::parse(location)
        } else if location.starts_with("//") {
            Self::parse(&format!("{scheme}:{location}"))
        } else if location.starts_with('/') {
            Self::parse(&format!("{scheme}://{authority}{location}"))
        } else {
            let folder = self.0.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            Self::parse(&format!("{scheme}://{authority}{folder}/{location}"))
        }
    }

    /// Like [`Address::join`], but rejects a redirect from https to http.
    pub(crate) fn redirected(&self, location: &str) -> Option<Self> {
        self.join(location).filter(|target| target.is_secure() || !self.is_secure())
    }

    /// Returns whether both have the same origin: scheme, host and port.
    pub(crate) fn same_origin(&self, other: &Self) -> bool {
        self.is_secure() == other.is_secure()
            && self.host().eq_ignore_ascii_case(other.host())
            && self.port() == other.port()
    }

    /// Returns whether the scheme is https.
    pub(crate) fn is_secure(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    fn host(&self) -> &str {
        self.0.host().unwrap_or_default()
    }

    fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(if self.is_secure() { 443 } else { 80 })
    }

    /// Returns the URL for requests.
    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }

    /// Returns the URL without its query, which may hold a signature.
    pub(crate) fn shown(&self) -> String {
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        format!("{}://{authority}{}", self.0.scheme_str().unwrap_or_default(), self.0.path())
    }
}

/// Percent-encodes text, except the special characters in `keep`.
pub(crate) fn encode(text: &str, keep: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-._~".contains(c) || keep.contains(c) {
            encoded.push(c);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined() {
        let base = Address::parse("https://hub.example/a/resolve/c/x?y=1").unwrap();
        let to = |location| base.join(location).map(|a| a.uri().to_string());
        assert_eq!(
            to("https://cdn.example/k?sig=1#f").as_deref(),
            Some("https://cdn.example/k?sig=1")
        );
        assert_eq!(to("/api/x").as_deref(), Some("https://hub.example/api/x"));
        assert_eq!(to("//cdn.example/k").as_deref(), Some("https://cdn.example/k"));
        assert_eq!(to("y").as_deref(), Some("https://hub.example/a/resolve/c/y"));
        for wrong in ["http://", "https://user:word@host/x", "HTTPS:", "http://a b/"] {
            assert_eq!(to(wrong), None, "{wrong}");
        }
        assert_eq!(base.shown(), "https://hub.example/a/resolve/c/x");
        assert_eq!(base.redirected("http://cdn.example/k"), None);
        assert_eq!(base.redirected("/api/x"), base.join("/api/x"));
        let open = Address::parse("http://hub.example/").unwrap();
        assert!(
            open.redirected("http://a.example/").is_some()
                && open.redirected("https://a.example/").is_some()
        );
    }

    #[test]
    fn origins_are_compared_whole() {
        let same = |a, b| Address::parse(a).unwrap().same_origin(&Address::parse(b).unwrap());
        assert!(same("https://Hub.example/x", "https://hub.example:443/y?z"));
        for other in [
            "http://hub.example",
            "https://hub.example:444",
            "https://hub.example.evil",
            "https://a.hub.example",
        ] {
            assert!(!same("https://hub.example", other), "{other}");
        }
    }

    #[test]
    fn parts_are_encoded() {
        assert_eq!(encode("refs/pr/1", ""), "refs%2Fpr%2F1");
        assert_eq!(encode("a b/é?#.gguf", "/"), "a%20b/%C3%A9%3F%23.gguf");
    }
}

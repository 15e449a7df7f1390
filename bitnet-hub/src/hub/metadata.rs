//! File metadata from response headers: commit, ETag and size.

use ureq::http::Method;

use super::address::{Address, encode};
use super::checksum::Expected;
use super::client::{Answer, Follow};
use super::refusal::{Requested, Trouble};
use super::{Hub, Listing, Watch};
use crate::error::Result;
use crate::name::Repository;

/// Maximum length of an ETag used as a file name.
const LONGEST_ETAG: usize = 128;

/// The metadata of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// The ETag, usually a checksum.
    pub(crate) etag: String,
    /// The size.
    pub(crate) bytes: u64,
    /// The expected checksum.
    pub(crate) expected: Expected,
}

/// Headers collected over redirects: `X-Linked-*` headers take precedence, and the first value wins.
#[derive(Debug, Default)]
struct Seen {
    etag: Option<String>,
    bytes: Option<u64>,
    commit: Option<String>,
}

impl Seen {
    fn look(&mut self, answer: &Answer) {
        let text = |name| answer.header(name).map(str::to_owned);
        self.etag = self.etag.take().or_else(|| text("x-linked-etag"));
        self.bytes = self.bytes.or_else(|| answer.number("x-linked-size"));
        self.commit = self.commit.take().or_else(|| text("x-repo-commit"));
    }
}

impl Hub {
    /// Returns the URL of a file of a commit.
    pub(crate) fn file_address(&self, repository: &Repository, commit: &str, path: &str) -> String {
        format!("{}/{repository}/resolve/{commit}/{}", self.settings.endpoint, encode(path, "/"))
    }

    /// Requests the metadata of a file.
    pub(crate) fn metadata(
        &self,
        listing: &Listing,
        path: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Metadata> {
        let text = self.file_address(&listing.repository, &listing.commit, path);
        let requested = Requested {
            repository: &listing.repository,
            revision: &listing.revision,
            file: Some(path),
        };
        self.trying(path, watch, || {
            let address = Address::parse(&text).ok_or_else(|| crate::Error::Answer {
                address: text.clone(),
                problem: "it is no address".to_owned(),
            })?;
            let mut seen = Seen::default();
            let answer =
                self.client.request(Method::HEAD, &address, 0, Follow::Hub, &mut |answer| {
                    seen.look(answer)
                })?;
            if answer.status >= 400 {
                return Err(self.refusal(&answer, requested));
            }
            seen.look(&answer);
            announced(&address, &answer, seen, listing, path)
        })
    }
}

fn announced(
    address: &Address,
    answer: &Answer,
    seen: Seen,
    listing: &Listing,
    path: &str,
) -> Result<Metadata, Trouble> {
    let listed = listing.file(path);
    let direct = answer.status == 200;
    let length = || answer.number("content-length").filter(|_| direct);
    let bytes = seen.bytes.or_else(length).or(listed.and_then(|file| file.bytes));
    let bytes = bytes
        .ok_or_else(|| Trouble::answer(address, "the hub does not state the length of the file"))?;
    let etag = seen.etag.or_else(|| answer.header("etag").map(str::to_owned));
    let etag = etag.as_deref().and_then(plain_etag);
    let etag =
        etag.ok_or_else(|| Trouble::answer(address, "the ETag of the file is missing or invalid"))?;
    if seen.commit.is_some_and(|commit| commit != listing.commit) {
        return Err(Trouble::answer(address, "the file belongs to another commit than requested"));
    }
    let sha256 = listed.and_then(|file| file.sha256.as_deref());
    Ok(Metadata { expected: Expected::from_announced(etag, sha256), etag: etag.to_owned(), bytes })
}

/// Returns an ETag without quotes and weakness prefix, if it is a valid file name.
fn plain_etag(etag: &str) -> Option<&str> {
    let etag = etag.trim();
    let etag = etag.strip_prefix("W/").unwrap_or(etag);
    let etag = etag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(etag);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let good = (1..=LONGEST_ETAG).contains(&etag.len()) && etag.bytes().all(plain);
    (good && !etag.starts_with('.') && !etag.ends_with('.') && crate::path_problem(etag).is_none())
        .then_some(etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_become_file_names_or_nothing() {
        assert_eq!(plain_etag("\"abc-1\""), Some("abc-1"));
        assert_eq!(plain_etag("W/\"abc\""), Some("abc"));
        assert_eq!(plain_etag("abc"), Some("abc"));
        let long = "a".repeat(129);
        for wrong in
            ["", "\"\"", "../x", "a/b", "..", "a\\b", ".x", "a b", "\"", "nul", long.as_str()]
        {
            assert_eq!(plain_etag(wrong), None, "{wrong}");
        }
    }
}

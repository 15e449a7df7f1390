//! What the hub announces about a file before it sends it: its commit, its tag and its size.

use ureq::http::Method;

use super::address::{Address, encode};
use super::checksum::Expected;
use super::client::{Answer, Follow};
use super::refusal::{Asked, Trouble};
use super::{Hub, Listing, Watch};
use crate::error::Result;
use crate::name::Repository;

/// Characters of the longest tag that becomes a file name.
const LONGEST_ETAG: usize = 128;

/// What the hub announces about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// The name of the contents: a checksum, on hubs that follow the rules.
    pub(crate) etag: String,
    /// The size.
    pub(crate) bytes: u64,
    /// The checksum to hold the contents against.
    pub(crate) expected: Expected,
}

/// Headers as they are met on the way: those about the file that an answer links to come first, and once seen they stay.
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
    /// Where a file of a commit is.
    pub(crate) fn file_address(&self, repository: &Repository, commit: &str, path: &str) -> String {
        format!("{}/{repository}/resolve/{commit}/{}", self.settings.endpoint, encode(path, "/"))
    }

    /// Asks what the file is before it is pulled.
    pub(crate) fn metadata(
        &self,
        listing: &Listing,
        path: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Metadata> {
        let text = self.file_address(&listing.repository, &listing.commit, path);
        let asked = Asked {
            repository: &listing.repository,
            revision: &listing.revision,
            file: Some(path),
        };
        self.trying(path, watch, || {
            let address = Address::parse(&text).ok_or_else(|| crate::HubError::Answer {
                address: text.clone(),
                problem: "it is no address".to_owned(),
            })?;
            let mut seen = Seen::default();
            let answer =
                self.client.request(Method::HEAD, &address, 0, Follow::Hub, &mut |answer| {
                    seen.look(answer)
                })?;
            if answer.status >= 400 {
                return Err(self.refusal(&answer, asked));
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
        .ok_or_else(|| Trouble::answer(address, "the hub does not say how long the file is"))?;
    let etag = seen.etag.or_else(|| answer.header("etag").map(str::to_owned));
    let etag = etag.as_deref().and_then(plain_etag);
    let etag = etag.ok_or_else(|| {
        Trouble::answer(address, "the hub gives the file no ETag that can be used")
    })?;
    if seen.commit.is_some_and(|commit| commit != listing.commit) {
        return Err(Trouble::answer(address, "the file is of another commit than was asked for"));
    }
    let sha256 = listed.and_then(|file| file.sha256.as_deref());
    Ok(Metadata { expected: Expected::from_announced(etag, sha256), etag: etag.to_owned(), bytes })
}

/// An ETag without its quotes and its mark of weakness, if it can be a file name.
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

//! Checksums of contents: SHA-256 of large files, and the SHA-1 by which git names small ones.

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::name::is_hex;

/// What the checksum of a file has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The SHA-256 of the contents.
    Sha256(String),
    /// The SHA-1 of `blob`, the length and the contents: what git calls the file.
    Git(String),
    /// The hub gives none.
    Unknown,
}

impl Expected {
    /// An ETag is a checksum if it looks like one; else the listing may have one.
    pub(crate) fn from_announced(etag: &str, listed_sha256: Option<&str>) -> Self {
        match listed_sha256 {
            _ if is_hex(etag, 64) => Self::Sha256(etag.to_owned()),
            Some(hash) => Self::Sha256(hash.to_owned()),
            None if is_hex(etag, 40) => Self::Git(etag.to_owned()),
            None => Self::Unknown,
        }
    }

    /// A checksum of this kind for contents of `bytes` bytes.
    pub(crate) fn begin(&self, bytes: u64) -> Running {
        match self {
            Self::Sha256(_) => Running::Sha256(Sha256::new()),
            Self::Git(_) => Running::Git(Sha1::new_with_prefix(format!("blob {bytes}\0"))),
            Self::Unknown => Running::Nothing,
        }
    }

    /// What is wrong with `sum`, if anything: the kind, what it should be, what it is.
    pub(crate) fn problem(&self, sum: Running) -> Option<(&'static str, String, String)> {
        let (kind, expected, got) = match (self, sum) {
            (Self::Sha256(expected), Running::Sha256(sum)) => {
                ("SHA-256", expected, hex(&sum.finalize()))
            }
            (Self::Git(expected), Running::Git(sum)) => {
                ("git SHA-1", expected, hex(&sum.finalize()))
            }
            _ => return None,
        };
        (*expected != got).then(|| (kind, expected.clone(), got))
    }
}

/// A checksum of what has come so far.
#[derive(Clone)]
pub(crate) enum Running {
    Sha256(Sha256),
    Git(Sha1),
    Nothing,
}

impl Running {
    /// Adds what came next.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(bytes),
            Self::Git(sum) => sum.update(bytes),
            Self::Nothing => {}
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_sums_are_right() {
        // `git hash-object` and `sha256sum` of these six bytes.
        let cases = [
            "ce013625030ba8dba906f756967f9e9ca394464a",
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        ];
        for etag in cases {
            let expected = Expected::from_announced(etag, None);
            let mut sum = expected.begin(6);
            sum.update(b"hel");
            sum.update(b"lo\n");
            assert_eq!(expected.problem(sum.clone()), None, "{etag}");
            sum.update(b"!");
            assert!(expected.problem(sum).is_some(), "{etag}");
        }
        assert_eq!(Expected::from_announced("v1", None), Expected::Unknown);
        assert_eq!(
            Expected::from_announced("v1", Some(cases[1])),
            Expected::Sha256(cases[1].to_owned())
        );
    }
}

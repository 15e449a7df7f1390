//! Checksums: SHA-256 of large files, git's SHA-1 of small ones.

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::name::is_hex;

/// The expected checksum of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The SHA-256 of the contents.
    Sha256(String),
    /// git's object id: SHA-1 of `blob`, the length and the contents.
    Git(String),
    /// Unknown.
    Unknown,
}

impl Expected {
    /// Returns the checksum in an ETag, if it has the form of one, else that of the listing.
    pub(crate) fn from_announced(etag: &str, listed_sha256: Option<&str>) -> Self {
        match listed_sha256 {
            _ if is_hex(etag, 64) => Self::Sha256(etag.to_owned()),
            Some(hash) => Self::Sha256(hash.to_owned()),
            None if is_hex(etag, 40) => Self::Git(etag.to_owned()),
            None => Self::Unknown,
        }
    }

    /// Returns an empty hash state for contents of `bytes` bytes.
    pub(crate) fn begin(&self, bytes: u64) -> Running {
        match self {
            Self::Sha256(_) => Running::Sha256(Sha256::new()),
            Self::Git(_) => Running::Git(Sha1::new_with_prefix(format!("blob {bytes}\0"))),
            Self::Unknown => Running::Nothing,
        }
    }

    /// Compares `sum` with the expected value; returns the kind, the expected and the actual value if they differ.
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

/// The hash state of the received data.
#[derive(Clone)]
pub(crate) enum Running {
    Sha256(Sha256),
    Git(Sha1),
    Nothing,
}

impl Running {
    /// Adds received data.
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

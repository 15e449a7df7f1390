//! Failures of requests: classification into retryable and final, and error messages.

use std::io;
use std::time::Duration;

use super::address::Address;
use super::client::Answer;
use super::{Event, Hub, Watch, tell};
use crate::error::{Error, Result};
use crate::name::Repository;

/// Maximum number of consecutive failures without progress.
pub(crate) const TRIES: u32 = 5;
/// Maximum delay that a server may request.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// Maximum length of a quoted server message.
const LONGEST_WORDS: usize = 200;

/// The failure of a request.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// A transient failure.
    Again {
        /// The failure.
        why: String,
        /// The delay requested by the server.
        wait: Option<Duration>,
        /// The error after all retries.
        error: Box<Error>,
    },
    /// A final failure.
    Final(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Trouble {
    /// Creates a final failure for an invalid response.
    pub(crate) fn answer(address: &Address, problem: &str) -> Self {
        Self::Final(Error::Answer { address: address.shown(), problem: problem.to_owned() })
    }

    /// Creates a transient failure for a broken connection or a truncated response.
    pub(crate) fn broken(address: &Address, why: &str) -> Self {
        let advice = "check the connection and try again: the download will resume";
        let error = Error::Unreachable { address: address.shown(), why: why.to_owned(), advice };
        Self::Again { why: why.to_owned(), wait: None, error: Box::new(error) }
    }

    /// Creates the failure of a request.
    pub(crate) fn connection(address: &Address, error: &ureq::Error) -> Self {
        let final_one = |why: String, advice| {
            Self::Final(Error::Unreachable { address: address.shown(), why, advice })
        };
        let distrusted = "the certificate is not trusted: behind a corporate proxy set SSL_CERT_FILE to its certificate";
        match error {
            ureq::Error::HostNotFound => final_one(
                "the host is not found".to_owned(),
                "check the connection, HF_ENDPOINT and proxies; HF_HUB_OFFLINE=1 uses the cache only",
            ),
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                final_one(error.to_string(), distrusted)
            }
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => {
                final_one(error.to_string(), distrusted)
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                Self::answer(address, "it can't be requested")
            }
            ureq::Error::InvalidProxyUrl => final_one(
                "the proxy's address is invalid".to_owned(),
                "correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY",
            ),
            other => Self::broken(address, &other.to_string()),
        }
    }
}

/// The requested item.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requested<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) revision: &'a str,
    pub(crate) file: Option<&'a str>,
}

impl Hub {
    /// Classifies a response with an error status.
    pub(crate) fn refusal(&self, answer: &Answer, requested: Requested<'_>) -> Trouble {
        let from_hub = self.client.is_hub(&answer.address);
        let error = self.refused(answer, requested, from_hub);
        // Signed storage URLs expire; the hub issues a new one.
        let expired = answer.status == 403 && !from_hub;
        if matches!(answer.status, 408 | 429 | 500 | 502 | 503 | 504) || expired {
            let wait = answer.number("retry-after").map(Duration::from_secs);
            return Trouble::Again {
                why: format!("status {}", answer.status),
                wait: wait.map(|wait| wait.min(LONGEST_PAUSE)),
                error: Box::new(error),
            };
        }
        Trouble::Final(error)
    }

    fn refused(&self, answer: &Answer, requested: Requested<'_>, from_hub: bool) -> Error {
        let repository = requested.repository.to_string();
        let endpoint = self.settings.endpoint.clone();
        let code = answer.header("x-error-code").filter(|_| from_hub).unwrap_or_default();
        let said = words(answer.header("x-error-message").unwrap_or_default());
        let bad_token =
            said.contains("Invalid credentials") || code.is_empty() && self.client.has_token();
        match (answer.status, code) {
            (_, "RevisionNotFound") => {
                Error::NoRevision { repository, revision: requested.revision.to_owned() }
            }
            (_, "EntryNotFound") => {
                Error::NoFile { repository, file: requested.file.unwrap_or_default().to_owned() }
            }
            (_, "GatedRepo") => Error::Gated { repository, endpoint },
            (401, _) if bad_token => Error::Token { endpoint },
            (401, _) | (404, "RepoNotFound") => Error::NoRepository { repository, endpoint },
            (403, _) if from_hub => Error::Forbidden { repository, endpoint, said },
            (404, _) => match requested.file {
                Some(file) => Error::NoFile { repository, file: file.to_owned() },
                None => Error::NoRepository { repository, endpoint },
            },
            (status, _) => Error::Status { address: answer.address.shown(), status, said },
        }
    }

    /// Waits before a retry after `failures` consecutive failures, or returns the final error.
    pub(crate) fn pause_or_give_up(
        &self,
        trouble: Trouble,
        failures: u32,
        file: &str,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let (why, wait, error) = match trouble {
            Trouble::Final(error) => return Err(error),
            Trouble::Again { why, wait, error } => (why, wait, error),
        };
        if failures >= TRIES {
            return Err(*error);
        }
        let pause =
            wait.unwrap_or_else(|| Duration::from_secs(1 << failures.saturating_sub(1).min(5)));
        tell(watch, Event::Again { file, why: &why, pause })?;
        (self.pause)(pause);
        Ok(())
    }

    /// Runs `attempt` until it succeeds, fails permanently, or has failed too often.
    pub(crate) fn trying<T>(
        &self,
        file: &str,
        watch: &mut Watch<'_>,
        mut attempt: impl FnMut() -> Result<T, Trouble>,
    ) -> Result<T> {
        let mut failures = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(trouble) => {
                    failures += 1;
                    self.pause_or_give_up(trouble, failures, file, watch)?;
                }
            }
        }
    }
}

/// Returns a server's message after a colon, truncated to one line.
fn words(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).take(LONGEST_WORDS).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

//! Refusals and failures: which of them are worth another try, and what to tell about the others.

use std::io;
use std::time::Duration;

use super::address::Address;
use super::client::Answer;
use super::{Event, Hub, Watch, tell};
use crate::error::{HubError, Result};
use crate::name::Repository;

/// Failures in a row without any progress after which the work is given up.
pub(crate) const TRIES: u32 = 5;
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// Characters of a server's own words that are repeated.
const LONGEST_WORDS: usize = 200;

/// What stopped a request.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It may go better next time.
    Again {
        /// What happened.
        why: String,
        /// How long the server asks to wait.
        wait: Option<Duration>,
        /// The error, if it does not go better.
        error: Box<HubError>,
    },
    /// It will not.
    Final(HubError),
}

impl From<HubError> for Trouble {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

impl Trouble {
    /// An answer that can't be used, and that will be the same next time.
    pub(crate) fn answer(address: &Address, problem: &str) -> Self {
        Self::Final(HubError::Answer { address: address.shown(), problem: problem.to_owned() })
    }

    /// A connection that broke, or an answer that ended early.
    pub(crate) fn broken(address: &Address, why: &str) -> Self {
        let advice = "check the connection and try again: what has come is kept";
        let error = HubError::Unreachable { address: address.shown(), why: why.to_owned(), advice };
        Self::Again { why: why.to_owned(), wait: None, error: Box::new(error) }
    }

    /// A failed request.
    pub(crate) fn connection(address: &Address, error: &ureq::Error) -> Self {
        let final_one = |why: String, advice| {
            Self::Final(HubError::Unreachable { address: address.shown(), why, advice })
        };
        let distrusted = "the certificate is not trusted: behind a company's proxy set SSL_CERT_FILE to its certificate";
        match error {
            ureq::Error::HostNotFound => final_one(
                "the host is not found".to_owned(),
                "check the connection, HF_ENDPOINT and proxies; with HF_HUB_OFFLINE=1 the cache alone is used",
            ),
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                final_one(error.to_string(), distrusted)
            }
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => {
                final_one(error.to_string(), distrusted)
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                Self::answer(address, "it can't be asked for")
            }
            ureq::Error::InvalidProxyUrl => final_one(
                "the proxy's address is none".to_owned(),
                "correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY",
            ),
            other => Self::broken(address, &other.to_string()),
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) revision: &'a str,
    pub(crate) file: Option<&'a str>,
}

impl Hub {
    /// What an answer means whose status is none of success.
    pub(crate) fn refusal(&self, answer: &Answer, asked: Asked<'_>) -> Trouble {
        let from_hub = self.client.is_hub(&answer.address);
        let error = self.refused(answer, asked, from_hub);
        // A signed address of storage is good for a while only; the hub gives a new one.
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

    fn refused(&self, answer: &Answer, asked: Asked<'_>, from_hub: bool) -> HubError {
        let repository = asked.repository.to_string();
        let endpoint = self.settings.endpoint.clone();
        let code = answer.header("x-error-code").filter(|_| from_hub).unwrap_or_default();
        let said = words(answer.header("x-error-message").unwrap_or_default());
        let bad_token =
            said.contains("Invalid credentials") || code.is_empty() && self.client.has_token();
        match (answer.status, code) {
            (_, "RevisionNotFound") => {
                HubError::NoRevision { repository, revision: asked.revision.to_owned() }
            }
            (_, "EntryNotFound") => {
                HubError::NoFile { repository, file: asked.file.unwrap_or_default().to_owned() }
            }
            (_, "GatedRepo") => HubError::Gated { repository, endpoint },
            (401, _) if bad_token => HubError::Token { endpoint },
            (401, _) | (404, "RepoNotFound") => HubError::NoRepository { repository, endpoint },
            (403, _) if from_hub => HubError::Forbidden { repository, endpoint, said },
            (404, _) => match asked.file {
                Some(file) => HubError::NoFile { repository, file: file.to_owned() },
                None => HubError::NoRepository { repository, endpoint },
            },
            (status, _) => HubError::Status { address: answer.address.shown(), status, said },
        }
    }

    /// Waits before the try after `failures` failures in a row, or gives up.
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

    /// Makes `attempt` until it succeeds, fails for good, or has failed too often.
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

/// A server's own words with a colon before them, cut to a line.
fn words(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).take(LONGEST_WORDS).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}

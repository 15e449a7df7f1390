//! The file listing of a repository at a revision.

use serde::Deserialize;
use ureq::http::Method;

use super::address::{Address, encode};
use super::client::Follow;
use super::refusal::{Requested, Trouble};
use super::{Hub, Watch};
use crate::choose::Found;
use crate::error::{Error, Result};
use crate::name::{Repository, is_commit, is_hex};

/// Maximum size of a repository description in bytes.
const LONGEST: u64 = 64 << 20;

/// The files of a repository at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The repository.
    pub repository: Repository,
    /// The requested revision.
    pub revision: String,
    /// Its commit.
    pub commit: String,
    /// The files, by name. Names are unchecked.
    pub files: Vec<RemoteFile>,
}

/// A file on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its path in the repository.
    pub path: String,
    /// Its size, if the hub reports it.
    pub bytes: Option<u64>,
    /// The SHA-256 of its contents, reported for large files.
    pub sha256: Option<String>,
}

impl Listing {
    /// Returns the file at `path`.
    pub fn file(&self, path: &str) -> Option<&RemoteFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Returns paths and sizes for selection.
    pub fn found(&self) -> Vec<Found> {
        self.files.iter().map(|file| Found { path: file.path.clone(), bytes: file.bytes }).collect()
    }
}

#[derive(Deserialize)]
struct Description {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    size: Option<u64>,
}

impl Hub {
    /// Lists `repository` at `revision`; offline, lists the cached files.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn list(
        &self,
        repository: &Repository,
        revision: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Listing> {
        if self.settings.offline {
            return self.list_cached(repository, revision);
        }
        let address = format!(
            "{}/api/models/{repository}/revision/{}?blobs=true",
            self.settings.endpoint,
            encode(revision, "")
        );
        let unusable = || Error::Setting {
            name: "HF_ENDPOINT".to_owned(),
            problem: "it is no address".to_owned(),
        };
        let address = Address::parse(&address).ok_or_else(unusable)?;
        let requested = Requested { repository, revision, file: None };
        let text =
            self.trying(repository.as_str(), watch, || self.describe(&address, requested))?;
        let wrong = |problem: String| Error::Answer { address: address.shown(), problem };
        let description: Description = serde_json::from_slice(&text).map_err(|error| {
            wrong(format!("the description of the repository can't be read: {error}"))
        })?;
        if !is_commit(&description.sha) {
            return Err(wrong("the description names no commit".to_owned()));
        }
        let mut files: Vec<RemoteFile> =
            description.siblings.into_iter().map(RemoteFile::from).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Listing {
            repository: repository.clone(),
            revision: revision.to_owned(),
            commit: description.sha,
            files,
        })
    }

    fn describe(&self, address: &Address, requested: Requested<'_>) -> Result<Vec<u8>, Trouble> {
        let mut answer = self.client.request(Method::GET, address, 0, Follow::Hub, &mut |_| ())?;
        if answer.status != 200 {
            return Err(self.refusal(&answer, requested));
        }
        answer.body.with_config().limit(LONGEST).read_to_vec().map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => {
                Trouble::answer(address, "the description is too long")
            }
            other => Trouble::connection(address, &other),
        })
    }

    fn list_cached(&self, repository: &Repository, revision: &str) -> Result<Listing> {
        let cache = self.settings.cache.repository(repository);
        let missing = || Error::Offline {
            what: format!("{repository}@{revision}"),
            folder: self.settings.cache.folder().to_owned(),
            missing: Vec::new(),
        };
        let commit = cache.commit(revision)?.ok_or_else(missing)?;
        let files = cache.files(&commit)?;
        if files.is_empty() {
            return Err(missing());
        }
        let remote = |file: Found| RemoteFile { path: file.path, bytes: file.bytes, sha256: None };
        Ok(Listing {
            repository: repository.clone(),
            revision: revision.to_owned(),
            commit,
            files: files.into_iter().map(remote).collect(),
        })
    }
}

impl From<Sibling> for RemoteFile {
    fn from(file: Sibling) -> Self {
        let (sha256, large) = file.lfs.map_or((None, None), |lfs| (lfs.sha256, lfs.size));
        Self {
            path: file.rfilename,
            bytes: large.or(file.size),
            sha256: sha256.filter(|hash| is_hex(hash, 64)),
        }
    }
}

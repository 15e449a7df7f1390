//! A hub client: listing of repositories and downloads into the cache.

mod address;
mod beginning;
mod checksum;
mod client;
mod disk;
mod listing;
mod lock;
mod metadata;
mod refusal;
mod transfer;

use std::fs::File;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use crate::cache::RepositoryCache;
use crate::error::{Error, Result};
use crate::name::{Repository, path_problem};
use crate::settings::Settings;
use client::Client;
pub use listing::{Listing, RemoteFile};
use transfer::Transfer;

/// An event of a download. Returning [`ControlFlow::Break`] stops the download; the partial file remains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Waits for another process that downloads the same file.
    Waiting {
        /// The file.
        file: &'a str,
    },
    /// Progress: `have` of `bytes` are on disk.
    Progress {
        /// The file.
        file: &'a str,
        /// Bytes on the disk.
        have: u64,
        /// Bytes of the whole file.
        bytes: u64,
    },
    /// A request failed and will be retried.
    Again {
        /// The file, or the repository.
        file: &'a str,
        /// The failure.
        why: &'a str,
        /// The delay.
        pause: Duration,
    },
    /// The download restarts, because the partial file is unusable.
    FromTheBeginning {
        /// The file.
        file: &'a str,
        /// Why.
        why: &'a str,
    },
}

/// A callback for events, which can stop the download.
pub type Watch<'w> = dyn FnMut(Event<'_>) -> ControlFlow<()> + 'w;

/// The origin of a cached file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was already cached.
    Present,
    /// It was downloaded.
    Downloaded,
    /// Its download was resumed at this byte.
    Resumed(u64),
}

/// A file in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Its path.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its origin.
    pub state: State,
}

/// A guard that prevents this program from removing the model.
#[derive(Debug)]
pub struct Hold {
    _lock: Option<File>,
}

/// A hub and its cache.
pub struct Hub {
    settings: Settings,
    client: Client,
    pause: Box<dyn Fn(Duration)>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Hub {
    /// Creates a hub from settings, without network access.
    ///
    /// # Errors
    /// [`Error::Setting`] for invalid certificates or proxies.
    pub fn new(settings: Settings) -> Result<Self> {
        let client = Client::new(&settings)?;
        Ok(Self { settings, client, pause: Box::new(std::thread::sleep) })
    }

    /// Replaces the wait between retries.
    #[must_use]
    pub fn pausing_with(mut self, pause: impl Fn(Duration) + 'static) -> Self {
        self.pause = Box::new(pause);
        self
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Downloads one file of a listed commit unless it is cached. Resumes an interrupted download, and verifies length
    /// and checksum.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::FileName`] for an unsafe file name.
    pub fn pull(&self, listing: &Listing, path: &str, watch: &mut Watch<'_>) -> Result<Pulled> {
        let repository = &listing.repository;
        if let Some(problem) = path_problem(path) {
            return Err(Error::FileName {
                repository: repository.to_string(),
                file: path.to_owned(),
                problem,
            });
        }
        let listed = listing.file(path);
        let cache = self.settings.cache.repository(repository);
        let shown = cache.shown(&listing.commit, Some(path));
        if let Some(bytes) = size(&shown)
            && listed.and_then(|file| file.bytes).is_none_or(|expected| expected == bytes)
        {
            return Ok(Pulled { path: shown, bytes, state: State::Present });
        }
        self.ensure_online(&format!("{repository}:{path}"))?;
        let metadata = self.metadata(listing, path, watch)?;
        let hold = self.hold(repository, watch)?;
        let lock = lock::hold(&cache.lock(&metadata.etag), path, watch, &self.pause)?;
        let state = if size(&cache.blob(&metadata.etag)) == Some(metadata.bytes) {
            State::Present
        } else {
            let address = self.file_address(repository, &listing.commit, path);
            Transfer::new(self, &cache, listing, path, address, &metadata)?.run(watch)?
        };
        let path = cache.show(&listing.commit, path, &metadata.etag)?;
        drop(lock);
        drop(hold);
        Ok(Pulled { path, bytes: metadata.bytes, state })
    }

    /// Prevents this program from removing the model during a download. Hold the guard until all files are downloaded.
    ///
    /// # Errors
    /// [`Error::Stopped`] if `watch` stops the wait for a removal.
    pub fn hold(&self, repository: &Repository, watch: &mut Watch<'_>) -> Result<Hold> {
        let cache = self.settings.cache.repository(repository);
        let lock = lock::share(&cache.removal_lock, repository.as_str(), watch, &self.pause)?;
        Ok(Hold { _lock: lock })
    }

    /// Records the listing's commit for its revision. Call this after all requested files are downloaded, so that the
    /// ref always points to a complete model.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn settle(&self, listing: &Listing) -> Result<()> {
        self.cache(listing).note_commit(&listing.revision, &listing.commit)
    }

    /// Returns the repository cache of a listing.
    pub fn cache(&self, listing: &Listing) -> RepositoryCache {
        self.settings.cache.repository(&listing.repository)
    }

    fn ensure_online(&self, what: &str) -> Result<()> {
        if self.settings.offline {
            let folder = self.settings.cache.folder().to_owned();
            return Err(Error::Offline { what: what.to_owned(), folder, missing: Vec::new() });
        }
        Ok(())
    }
}

/// Returns the size of a file, if it exists.
fn size(path: &std::path::Path) -> Option<u64> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|data| data.len())
}

/// Returns an error if `watch` requested to stop.
fn tell(watch: &mut Watch<'_>, event: Event<'_>) -> Result<()> {
    match watch(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Stopped),
    }
}

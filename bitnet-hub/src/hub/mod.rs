//! A hub: what a repository holds, and its files pulled into the cache.

mod address;
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
use crate::error::{HubError, Result};
use crate::name::{Repository, path_problem};
use crate::settings::Settings;
use client::Client;
pub use listing::{Listing, RemoteFile};
use transfer::Transfer;

/// What happens while files are pulled. The answer [`ControlFlow::Break`] stops the work; what has come is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Another program is pulling the same file, and is waited for.
    Waiting {
        /// The file.
        file: &'a str,
    },
    /// `have` of the file's `bytes` are here.
    Progress {
        /// The file.
        file: &'a str,
        /// Bytes on the disk.
        have: u64,
        /// Bytes of the whole file.
        bytes: u64,
    },
    /// A request failed and is made again after a pause.
    Again {
        /// The file, or the repository.
        file: &'a str,
        /// What happened.
        why: &'a str,
        /// The pause.
        pause: Duration,
    },
    /// The file is pulled from its beginning again, because what was there can't be used.
    FromTheBeginning {
        /// The file.
        file: &'a str,
        /// Why.
        why: &'a str,
    },
}

/// Who is told what happens, and may stop it.
pub type Watch<'w> = dyn FnMut(Event<'_>) -> ControlFlow<()> + 'w;

/// How a file came to be in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was there.
    Present,
    /// It was downloaded.
    Downloaded,
    /// It was downloaded from this byte on; the rest had come before.
    Resumed(u64),
}

/// A file that is in the cache now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// How it came there.
    pub state: State,
}

/// While it lives, this program does not remove the model.
#[derive(Debug)]
pub struct Hold {
    _lock: Option<File>,
}

/// A hub and the cache for what comes from it.
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
    /// A hub as `settings` describe it. Nothing is sent yet.
    ///
    /// # Errors
    /// [`HubError::Setting`] if the certificates or the proxies can't be used.
    pub fn new(settings: Settings) -> Result<Self> {
        let client = Client::new(&settings)?;
        Ok(Self { settings, client, pause: Box::new(std::thread::sleep) })
    }

    /// With another way to wait before a request is made again.
    #[must_use]
    pub fn pausing_with(mut self, pause: impl Fn(Duration) + 'static) -> Self {
        self.pause = Box::new(pause);
        self
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Pulls one file of a listed commit, unless it is there. A download that was cut short goes on; what comes is kept only if its
    /// length and its checksum are those that the hub announced.
    ///
    /// # Errors
    /// See [`HubError`]; [`HubError::FileName`] for a name that has no place in a folder.
    pub fn pull(&self, listing: &Listing, path: &str, watch: &mut Watch<'_>) -> Result<Pulled> {
        let repository = &listing.repository;
        if let Some(problem) = path_problem(path) {
            return Err(HubError::FileName {
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

    /// Keeps the model from being removed by this program while files of it are pulled. To be held until all are there.
    ///
    /// # Errors
    /// [`HubError::Stopped`] if `watch` stops the wait for a removal.
    pub fn hold(&self, repository: &Repository, watch: &mut Watch<'_>) -> Result<Hold> {
        let cache = self.settings.cache.repository(repository);
        let lock = lock::share(&cache.removal_lock, repository.as_str(), watch, &self.pause)?;
        Ok(Hold { _lock: lock })
    }

    /// Notes the listing's commit as that of its revision. To be called when all that is wanted has been pulled: whoever looks into
    /// the cache later is led to what is whole.
    ///
    /// # Errors
    /// [`HubError::Io`].
    pub fn settle(&self, listing: &Listing) -> Result<()> {
        self.cache(listing).note_commit(&listing.revision, &listing.commit)
    }

    /// The part of the cache that a listing's files go to.
    pub fn cache(&self, listing: &Listing) -> RepositoryCache {
        self.settings.cache.repository(&listing.repository)
    }

    fn ensure_online(&self, what: &str) -> Result<()> {
        if self.settings.offline {
            let folder = self.settings.cache.folder().to_owned();
            return Err(HubError::Offline { what: what.to_owned(), folder, missing: Vec::new() });
        }
        Ok(())
    }
}

/// The size of a file, if it is there.
fn size(path: &std::path::Path) -> Option<u64> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|data| data.len())
}

/// That `watch` has not asked to stop.
fn tell(watch: &mut Watch<'_>, event: Event<'_>) -> Result<()> {
    match watch(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(HubError::Stopped),
    }
}

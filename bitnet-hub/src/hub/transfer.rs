//! The transfer of a file into the cache: resumption, verification, atomic rename.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ureq::http::Method;

use super::address::Address;
use super::checksum::Running;
use super::client::{Answer, Follow};
use super::metadata::Metadata;
use super::refusal::{Requested, Trouble};
use super::{Event, Hub, Listing, State, Watch, disk, tell};
use crate::cache::{RepositoryCache, make_parent};
use crate::error::{Error, Result};

/// Buffer size in bytes.
const CHUNK: usize = 256 << 10;

/// The transfer of one file.
pub(crate) struct Transfer<'a> {
    hub: &'a Hub,
    requested: Requested<'a>,
    path: &'a str,
    address: Address,
    metadata: &'a Metadata,
    blob: PathBuf,
    partial: PathBuf,
    file: File,
    have: u64,
    sum: Running,
}

impl<'a> Transfer<'a> {
    /// Opens the partial file.
    pub(crate) fn new(
        hub: &'a Hub,
        cache: &RepositoryCache,
        listing: &'a Listing,
        path: &'a str,
        address: String,
        metadata: &'a Metadata,
    ) -> Result<Self> {
        let partial = cache.partial(&metadata.etag);
        make_parent(&partial)?;
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(&partial);
        let file = file.map_err(Error::io(&partial, "open"))?;
        let parsed = Address::parse(&address);
        let no_address = || Error::Answer { address, problem: "it is no address".to_owned() };
        Ok(Self {
            hub,
            requested: Requested {
                repository: &listing.repository,
                revision: &listing.revision,
                file: Some(path),
            },
            path,
            address: parsed.ok_or_else(no_address)?,
            metadata,
            blob: cache.blob(&metadata.etag),
            partial,
            file,
            have: 0,
            sum: metadata.expected.begin(metadata.bytes),
        })
    }

    /// Downloads the whole file.
    pub(crate) fn run(mut self, watch: &mut Watch<'_>) -> Result<State> {
        let existing = self.take_over(watch)?;
        self.ensure_room()?;
        self.complete(watch)?;
        if let Some(problem) = self.problem() {
            if existing == 0 {
                return Err(self.discard(problem));
            }
            // The partial file may come from another program or be damaged.
            let why = "the checksum is wrong, and a part of the file is from an earlier download";
            self.restart(why, watch)?;
            self.complete(watch)?;
            if let Some(problem) = self.problem() {
                return Err(self.discard(problem));
            }
        }
        self.publish()?;
        Ok(if existing == 0 { State::Downloaded } else { State::Resumed(existing) })
    }

    /// Hashes the partial file and returns its length. Without a checksum its contents can't be verified, and it is
    /// discarded.
    fn take_over(&mut self, watch: &mut Watch<'_>) -> Result<u64> {
        let there = self.file.metadata().map_err(Error::io(&self.partial, "look at"))?.len();
        if there == 0 {
            return Ok(0);
        }
        if there > self.metadata.bytes || matches!(self.sum, Running::Nothing) {
            self.restart("the partial file is unusable", watch)?;
            return Ok(0);
        }
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = self.file.read(&mut chunk).map_err(Error::io(&self.partial, "read"))?;
            if read == 0 {
                return Ok(self.have);
            }
            self.sum.update(&chunk[..read]);
            self.have += read as u64;
            tell(watch, self.progress())?;
        }
    }

    /// Requests data until the file is complete.
    fn complete(&mut self, watch: &mut Watch<'_>) -> Result<()> {
        let (mut failures, mut most) = (0, self.have);
        tell(watch, self.progress())?;
        while self.have < self.metadata.bytes {
            let Err(trouble) = self.attempt(watch) else { continue };
            failures = if self.have > most { 1 } else { failures + 1 };
            most = most.max(self.have);
            if let Trouble::Final(Error::Length { expected, got, .. }) = trouble {
                return Err(self.discard(Error::Length {
                    file: self.path.to_owned(),
                    expected,
                    got,
                }));
            }
            self.hub.pause_or_give_up(trouble, failures, self.path, watch)?;
        }
        Ok(())
    }

    /// Sends one request for the missing data.
    fn attempt(&mut self, watch: &mut Watch<'_>) -> Result<(), Trouble> {
        let answer = self.hub.client.request(
            Method::GET,
            &self.address,
            self.have,
            Follow::Everywhere,
            &mut |_| (),
        )?;
        match answer.status {
            200 => {
                if self.have > 0 {
                    self.restart("the server sends whole files only", watch)?;
                }
                if let Some(got) = answer.number("content-length")
                    && got != self.metadata.bytes
                {
                    return Err(self.wrong_length(got).into());
                }
                self.receive(answer, watch)
            }
            206 if self.have > 0 => match self.range_problem(&answer) {
                None => self.receive(answer, watch),
                Some(why) => Ok(self.restart(why, watch)?),
            },
            416 if self.have > 0 => Ok(self.restart("the server does not have the rest", watch)?),
            206 | 416 => Err(Trouble::answer(
                &answer.address,
                "it sent a partial response to a full request",
            )),
            _ => Err(self.hub.refusal(&answer, self.requested)),
        }
    }

    /// Returns why a partial response does not match the request, if so.
    fn range_problem(&self, answer: &Answer) -> Option<&'static str> {
        let range = answer.header("content-range").unwrap_or_default();
        let parsed = range.strip_prefix("bytes ").and_then(|range| {
            let (span, all) = range.split_once('/')?;
            let start: u64 = span.split_once('-')?.0.trim().parse().ok()?;
            Some((start, all.trim().parse::<u64>().ok()))
        });
        match parsed {
            None => Some("the server does not state the range that it sends"),
            Some((start, _)) if start != self.have => {
                Some("the server sends another range than requested")
            }
            Some((_, Some(all))) if all != self.metadata.bytes => {
                Some("the length of the file has changed")
            }
            Some(_) => None,
        }
    }

    /// Writes received data.
    fn receive(&mut self, answer: Answer, watch: &mut Watch<'_>) -> Result<(), Trouble> {
        let mut body = answer.body.into_with_config().limit(u64::MAX).reader();
        let mut chunk = vec![0; CHUNK];
        while self.have < self.metadata.bytes {
            let read = match body.read(&mut chunk) {
                Ok(0) => return Err(Trouble::broken(&self.address, "the connection ended early")),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Trouble::broken(&self.address, &error.to_string())),
            };
            if read as u64 > self.metadata.bytes - self.have {
                return Err(self.wrong_length(self.have + read as u64).into());
            }
            self.file.write_all(&chunk[..read]).map_err(|error| self.write_error(error))?;
            self.sum.update(&chunk[..read]);
            self.have += read as u64;
            tell(watch, self.progress())?;
        }
        Ok(())
    }

    /// Discards the partial file.
    fn restart(&mut self, why: &str, watch: &mut Watch<'_>) -> Result<()> {
        self.file.set_len(0).map_err(Error::io(&self.partial, "empty"))?;
        self.file.seek(SeekFrom::Start(0)).map_err(Error::io(&self.partial, "empty"))?;
        self.have = 0;
        self.sum = self.metadata.expected.begin(self.metadata.bytes);
        tell(watch, Event::FromTheBeginning { file: self.path, why })
    }

    fn progress(&self) -> Event<'a> {
        Event::Progress { file: self.path, have: self.have, bytes: self.metadata.bytes }
    }

    fn wrong_length(&self, got: u64) -> Error {
        Error::Length { file: self.path.to_owned(), expected: self.metadata.bytes, got }
    }

    /// Verifies the complete file; returns the problem, if any.
    fn problem(&self) -> Option<Error> {
        let (kind, expected, got) = self.metadata.expected.problem(self.sum.clone())?;
        Some(Error::Checksum { file: self.path.to_owned(), kind, expected, got })
    }

    fn ensure_room(&self) -> Result<()> {
        let folder = self.partial.parent().unwrap_or(Path::new("."));
        let needed = self.metadata.bytes - self.have;
        match disk::free(folder) {
            Some(free) if free < needed => Err(self.no_room(Some(free))),
            _ => Ok(()),
        }
    }

    fn no_room(&self, free: Option<u64>) -> Error {
        let folder = self.partial.parent().unwrap_or(Path::new(".")).to_owned();
        Error::Disk {
            file: self.path.to_owned(),
            folder,
            needed: self.metadata.bytes - self.have,
            free,
        }
    }

    fn write_error(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => self.no_room(None),
            _ => Error::io(&self.partial, "write")(error),
        }
    }

    /// Removes the partial file and returns `error`.
    fn discard(&self, error: Error) -> Error {
        // If the removal fails, the next download detects the damage.
        let _ = std::fs::remove_file(&self.partial);
        error
    }

    /// Flushes the file to disk and renames it.
    fn publish(self) -> Result<()> {
        self.file.sync_all().map_err(|error| self.write_error(error))?;
        let Self { file, partial, blob, .. } = self;
        drop(file);
        std::fs::rename(&partial, &blob).map_err(Error::io(&blob, "put into place"))?;
        sync_folder(&blob).map_err(Error::io(&blob, "flush to disk"))
    }
}

/// Flushes the folder entry of `path` to disk, where the OS supports it.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

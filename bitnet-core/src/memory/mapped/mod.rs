//! Parts of files as memory: read-only, or copy-on-write.
//!
//! A mapped file that is truncated raises SIGBUS when the lost pages are used, which kills the process by default. On
//! Unix the first mapping installs a handler that maps zero pages there and flags the mapping; [`FileMap::check`] then
//! returns [`Error::FileTruncated`]: call it after a computation with mapped bytes. A tensor over a mapping checks
//! before each read, and returns the error from the first read on that begins after the truncation.

mod regular;

#[cfg(unix)]
pub(super) mod fault;
#[cfg(not(unix))]
#[path = "no_fault.rs"]
pub(super) mod fault;

use std::fmt;
use std::fs::{File, Metadata};
use std::ops::{Bound, Range, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use memmap2::{Mmap, MmapMut, MmapOptions};

use crate::memory::tensor::{BitNetTensor, ExternalBytes, TensorMetadata};
use crate::{Error, Result};

/// The access to mapped bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapMode {
    /// Reading. All processes that map the file share the memory.
    ReadOnly,
    /// Reading and writing. A written page becomes a private copy; the file never changes.
    CopyOnWrite,
}

/// A part of a file that is mapped into memory.
pub struct FileMap {
    name: String,
    file: File,
    range: Range<u64>,
    len: u64,
    modified: Option<SystemTime>,
    // Declared before `pages`, so that it is dropped first: the address is
    // removed from the registry before it is unmapped.
    guard: Option<fault::Guard>,
    pages: Pages,
}

enum Pages {
    /// `None` for no bytes, which systems refuse to map.
    Empty,
    ReadOnly(Mmap),
    CopyOnWrite(MmapMut),
}

impl FileMap {
    /// Maps the bytes `range` of a regular file; `..` for the whole.
    ///
    /// # Errors
    /// [`Error::NotRegularFile`] for directories, pipes, devices and sockets (never waits for one);
    /// [`Error::NotInFile`]; [`Error::File`] where the file cannot be opened or mapped; [`Error::TooManyMaps`].
    pub fn open(path: &Path, range: impl RangeBounds<u64>, mode: MapMode) -> Result<Self> {
        let (file, found) = regular::open(path)?;
        let name = regular::shown(path);
        let len = found.len();
        let range = part(&name, (range.start_bound().cloned(), range.end_bound().cloned()), len)?;
        // On systems of 32 bits a file may be longer than the address space.
        let size = usize::try_from(range.end - range.start)
            .map_err(|_| Error::SizeOverflow { what: "mapped file" })?;
        let mut options = MmapOptions::new();
        options.offset(range.start).len(size);
        let refused = |error| Error::file(&name, "map the file", &error);
        let pages = match mode {
            _ if size == 0 => Pages::Empty,
            MapMode::ReadOnly => {
                // SAFETY: the mapping is private to this type and read-only. Another process may still change the file;
                // readers treat the bytes as untrusted at every read,
                // and the SIGBUS that cutting it short raises is handled.
                let map = unsafe { options.map(&file) };
                Pages::ReadOnly(map.map_err(refused)?)
            }
            MapMode::CopyOnWrite => {
                // SAFETY: as above; writes are private to this process.
                let map = unsafe { options.map_copy(&file) };
                Pages::CopyOnWrite(map.map_err(refused)?)
            }
        };
        let guard = match pages.bytes() {
            [] => None,
            bytes => {
                let writable = mode == MapMode::CopyOnWrite;
                Some(fault::Guard::register(&name, bytes.as_ptr() as usize, size, writable)?)
            }
        };
        Ok(Self { name, file, range, len, modified: found.modified().ok(), guard, pages })
    }

    /// The file's name, as in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The mapped range of the file, in bytes.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.pages.bytes()
    }

    /// The bytes, for writing; `None` if they are read-only.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        match &mut self.pages {
            Pages::Empty | Pages::ReadOnly(_) => None,
            Pages::CopyOnWrite(map) => Some(map),
        }
    }

    /// Checks that no byte of the mapped part is lost.
    ///
    /// # Errors
    /// [`Error::FileTruncated`] where pages were lost or the file now ends before the mapped part does; [`Error::File`]
    /// where its state is unavailable.
    pub fn check_length(&self) -> Result<()> {
        self.found_whole().map(drop)
    }

    /// Returns the metadata of the file, if no byte of the mapped part is lost.
    fn found_whole(&self) -> Result<Metadata> {
        let found = self.file.metadata();
        let found = found.map_err(|error| Error::file(&self.name, "read its length", &error))?;
        let damaged = self.guard.as_ref().is_some_and(fault::Guard::is_damaged);
        if found.len() < self.range.end || damaged {
            let (file, now) = (self.name.clone(), found.len());
            return Err(Error::FileTruncated { file, mapped: self.range.end, now });
        }
        Ok(found)
    }

    /// Checks that the file is unchanged. Bytes read before an `Ok` were
    /// in the file (or had been written by this process).
    ///
    /// # Errors
    /// [`Error::FileTruncated`] where pages were lost or the file now ends before the mapped part does;
    /// [`Error::FileChanged`] where it was written to; [`Error::File`] where its state is unavailable.
    pub fn check(&self) -> Result<()> {
        let found = self.found_whole()?;
        let change = if found.len() != self.len {
            format!("it had {} bytes and has {} now", self.len, found.len())
        } else if found.modified().ok() != self.modified {
            "it was written to".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::FileChanged { file: self.name.clone(), change })
    }

    /// Advises the system to read the file into huge pages, where kernel and file system can: for bytes that are all
    /// read, again and again. What memory holds of the file already stays as it is.
    pub fn advise_huge(&self) {
        #[cfg(target_os = "linux")]
        if let Pages::ReadOnly(map) = &self.pages {
            // A refusal leaves small pages.
            drop(map.advise(memmap2::Advice::HugePage));
        }
    }

    /// Advises the system that the pages wholly inside `range` are not needed, so that they leave the resident set.
    /// Later reads load them from the file. Does nothing for writable bytes.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Pages::ReadOnly(map) = &self.pages {
            let page = crate::os::pages::page_size();
            // The offset of the mapping inside its first page.
            let skew = map.as_ptr() as usize % page;
            let first = (range.start.min(map.len()) + skew).next_multiple_of(page) - skew;
            let end = (range.end.min(map.len()) + skew) / page * page;
            if first + skew < end {
                let len = end - skew - first;
                // SAFETY: the range is whole pages of a live, read-only
                // mapping of a file: the next read loads them again.
                let advised = unsafe {
                    map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, len)
                };
                // A refusal leaves the pages resident.
                drop(advised);
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Pages {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Empty => &[],
            Self::ReadOnly(map) => map,
            Self::CopyOnWrite(map) => map,
        }
    }
}

/// Resolves `bounds` within a file of `len` bytes.
fn part(name: &str, bounds: (Bound<u64>, Bound<u64>), len: u64) -> Result<Range<u64>> {
    let start = match bounds.0 {
        Bound::Included(at) => at,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match bounds.1 {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => end,
        Bound::Unbounded => len,
    };
    if start > end || end > len {
        return Err(Error::NotInFile { file: name.to_owned(), start, end, len });
    }
    Ok(start..end)
}

impl ExternalBytes for FileMap {
    fn bytes(&self) -> &[u8] {
        self.bytes()
    }

    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        self.bytes_mut()
    }

    fn check(&self) -> Result<()> {
        self.check()
    }

    fn check_readable(&self) -> Result<()> {
        self.check_length()
    }
}

impl BitNetTensor {
    /// A tensor whose bytes are those of a file from byte `offset` on, row-major, in the byte order of the machine;
    /// they are not copied. With [`MapMode::CopyOnWrite`] it can be written, without changing the file.
    ///
    /// # Errors
    /// Those of [`FileMap::open`]. A file that changes later is reported by [`BitNetTensor::check`].
    pub fn map_file(
        path: &Path,
        offset: u64,
        metadata: TensorMetadata,
        mode: MapMode,
    ) -> Result<Self> {
        let bytes = metadata.dtype().bytes_for(metadata.elements()?)? as u64;
        let end = offset.checked_add(bytes).ok_or(Error::SizeOverflow { what: "mapped tensor" })?;
        Self::from_external(metadata, Arc::new(FileMap::open(path, offset..end, mode)?))
    }
}

impl fmt::Debug for FileMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileMap({}, {:?})", self.name, self.range)
    }
}

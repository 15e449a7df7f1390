//! Memory-mapped files, and cheap handles to ranges of their bytes.
//!
//! If another process truncates a mapped file, the lost pages read as zeros and [`Region::check`] returns
//! [`Error::Truncated`]. Loaders call it after decoding. [`FileMap`] implements the mapping and the handler of the
//! signal that lost pages raise.

use std::borrow::Cow;
use std::fmt;
#[cfg(unix)]
use std::fs::Metadata;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;
#[cfg(unix)]
use std::time::SystemTime;

use bitnet_core::memory::mapped::{FileMap, MapMode};

use crate::error::{Error, Result};

/// The bytes of one file, mapped or in memory.
pub struct MappedFile {
    name: String,
    bytes: Backing,
}

enum Backing {
    Mapped(FileMap),
    Memory(Cow<'static, [u8]>),
}

impl MappedFile {
    /// Maps a regular file for reading. An empty file is an empty mapping.
    ///
    /// # Errors
    /// [`Error::NotRegularFile`] for directories, pipes, devices and sockets (never blocks on one); [`Error::Io`] if
    /// the file cannot be opened or mapped; [`Error::Limit`] if too many files are mapped.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let map = FileMap::open(path, .., MapMode::ReadOnly)?;
        Ok(Arc::new(Self { name: map.name().to_owned(), bytes: Backing::Mapped(map) }))
    }

    /// Wraps bytes in memory; error messages call them `name`.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>, name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), bytes: Backing::Memory(bytes.into()) })
    }

    /// Wraps bytes embedded in the program without copying; error messages call them `name`.
    #[must_use]
    pub fn from_static(bytes: &'static [u8], name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), bytes: Backing::Memory(bytes.into()) })
    }

    /// Asks for huge pages; see [`FileMap::advise_huge`].
    pub(crate) fn advise_huge(&self) {
        if let Backing::Mapped(map) = &self.bytes {
            map.advise_huge();
        }
    }

    /// Returns the file's name for error messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns all bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Backing::Mapped(map) => map.bytes(),
            Backing::Memory(bytes) => bytes,
        }
    }

    /// Returns the whole file as a region.
    #[must_use]
    pub fn region(self: &Arc<Self>) -> Region {
        Region { file: Arc::clone(self), start: 0, len: self.bytes().len() }
    }

    /// Returns the identity of the mapped file. Two mappings with equal stamps hold the same bytes if the first one was
    /// [settled](Stamp::settled). `None` for bytes in memory, and on systems without a time of change (the time of
    /// modification is not enough: programs can set it).
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        #[cfg(unix)]
        if let Backing::Mapped(map) = &self.bytes {
            return Stamp::of(&map.file().metadata().ok()?);
        }
        None
    }

    /// Checks that the file has not changed since it was mapped.
    ///
    /// # Errors
    /// [`Error::Truncated`] if pages were lost or the file is shorter; [`Error::Changed`] if it is longer or was
    /// modified; [`Error::Io`] if its metadata cannot be read.
    pub fn check(&self) -> Result<()> {
        Ok(self.check_map()?)
    }

    /// Like [`MappedFile::check`], with errors of the memory system.
    pub(crate) fn check_map(&self) -> bitnet_core::Result<()> {
        match &self.bytes {
            Backing::Mapped(map) => map.check(),
            Backing::Memory(_) => Ok(()),
        }
    }

    /// Checks that no page was lost, with errors of the memory system.
    pub(crate) fn check_length(&self) -> bitnet_core::Result<()> {
        match &self.bytes {
            Backing::Mapped(map) => map.check_length(),
            Backing::Memory(_) => Ok(()),
        }
    }
}

/// The identity of a file and of its last change, from the file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Device, file number, length, times of modification and of change.
    pub identity: String,
    /// Returns whether the last change is old enough that another one changes the time stamp, whose resolution is
    /// a few milliseconds, two seconds on some systems.
    pub settled: bool,
}

#[cfg(unix)]
impl Stamp {
    fn of(found: &Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        use std::time::Duration;
        let identity = format!(
            "device {} file {} bytes {} modified {}.{:09} changed {}.{:09}",
            found.dev(),
            found.ino(),
            found.len(),
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec()
        );
        let changed = Duration::from_secs(u64::try_from(found.ctime()).ok()?);
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed);
        Some(Self { identity, settled: age.is_ok_and(|age| age > Duration::from_secs(3)) })
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MappedFile({}, {} bytes)", self.name, self.bytes().len())
    }
}

/// A range of a file's bytes. Clones share the file, which stays mapped while any clone lives.
#[derive(Clone)]
pub struct Region {
    file: Arc<MappedFile>,
    start: usize,
    len: usize,
}

impl Region {
    /// Returns the region's offset in its file, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.start as u64
    }

    /// Returns the file that contains the bytes.
    #[must_use]
    pub fn file(&self) -> &Arc<MappedFile> {
        &self.file
    }

    /// Returns a part of this region; `range` is relative to its first byte.
    ///
    /// # Errors
    /// [`Error::UnexpectedEnd`] if the range exceeds the region.
    pub fn slice(&self, range: Range<usize>) -> Result<Self> {
        if range.start > range.end || range.end > self.len {
            let offset = (self.start as u64).saturating_add(range.start as u64);
            let needed = range.end.saturating_sub(range.start) as u64;
            let available = self.len.saturating_sub(range.start) as u64;
            let what = "a part of a mapped region";
            return Err(Error::unexpected_end(&self.file.name, what, offset, needed, available));
        }
        Ok(Self {
            file: Arc::clone(&self.file),
            start: self.start + range.start,
            len: range.end - range.start,
        })
    }

    /// Advises the kernel to drop the pages inside this region from the resident set (`MADV_DONTNEED`). Later reads
    /// load them from the file again. Does nothing for bytes in memory.
    pub fn release(&self) {
        if let Backing::Mapped(map) = &self.file.bytes {
            map.release(self.start..self.start + self.len);
        }
    }

    /// Checks that the file has not changed; see [`MappedFile::check`].
    ///
    /// # Errors
    /// Same as [`MappedFile::check`].
    pub fn check(&self) -> Result<()> {
        self.file.check()
    }
}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // In bounds by construction: a region starts as the whole file and only shrinks.
        self.file.bytes().get(self.start..self.start + self.len).unwrap_or(&[])
    }
}

impl AsRef<[u8]> for Region {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({}, {}..{})", self.file.name, self.start, self.start + self.len)
    }
}

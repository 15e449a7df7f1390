//! Files mapped into memory, and cheap handles on ranges of their bytes.
//!
//! A mapped file that another process cuts short loses pages, which read as zeros from then on; [`Region::check`] reports
//! [`Error::Truncated`]. Whoever loads a model calls it after decoding. The mapping itself, and what answers the signal that
//! lost pages raise, is [`FileMap`].

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

/// The bytes of one file: mapped, or held in memory.
pub struct MappedFile {
    name: String,
    bytes: Backing,
}

enum Backing {
    Mapped(FileMap),
    Owned(Vec<u8>),
    Static(&'static [u8]),
}

impl MappedFile {
    /// Maps a regular file for reading. An empty file gives an empty mapping.
    ///
    /// # Errors
    /// [`Error::NotRegularFile`] for directories, pipes, devices and sockets (never blocks on one); [`Error::Io`] where
    /// the file cannot be opened or mapped; [`Error::Limit`] where too many files are mapped at once.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let map = FileMap::open(path, .., MapMode::ReadOnly)?;
        Ok(Arc::new(Self { name: map.name().to_owned(), bytes: Backing::Mapped(map) }))
    }

    /// Bytes in memory under a name for messages.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>, name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), bytes: Backing::Owned(bytes) })
    }

    /// Bytes that are part of the program, under a name for messages; they are not copied.
    #[must_use]
    pub fn from_static(bytes: &'static [u8], name: &str) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), bytes: Backing::Static(bytes) })
    }

    /// The file's name as messages show it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Backing::Mapped(map) => map.bytes(),
            Backing::Owned(bytes) => bytes,
            Backing::Static(bytes) => bytes,
        }
    }

    /// The whole file as a region.
    #[must_use]
    pub fn region(self: &Arc<Self>) -> Region {
        Region { file: Arc::clone(self), start: 0, len: self.bytes().len() }
    }

    /// What the system says about the mapped file's identity: two mappings with the same stamp hold the same bytes, if the
    /// first one was [settled](Stamp::settled). `None` for bytes that are not mapped, and where the system does not say
    /// when a file was last changed (the time of modification does not do: anyone may set it).
    #[must_use]
    pub fn stamp(&self) -> Option<Stamp> {
        #[cfg(unix)]
        if let Backing::Mapped(map) = &self.bytes {
            return Stamp::of(&map.file().metadata().ok()?);
        }
        None
    }

    /// Whether the file is still what was mapped.
    ///
    /// # Errors
    /// [`Error::Truncated`] where pages were lost or the file is shorter now; [`Error::Changed`] where it is longer or
    /// was written to; [`Error::Io`] where it cannot be asked.
    pub fn check(&self) -> Result<()> {
        Ok(self.check_map()?)
    }

    /// As [`MappedFile::check`], in the memory system's words.
    pub(crate) fn check_map(&self) -> bitnet_core::Result<()> {
        match &self.bytes {
            Backing::Mapped(map) => map.check(),
            Backing::Owned(_) | Backing::Static(_) => Ok(()),
        }
    }

    /// Whether every byte is still there, in the memory system's words.
    pub(crate) fn check_length(&self) -> bitnet_core::Result<()> {
        match &self.bytes {
            Backing::Mapped(map) => map.check_length(),
            Backing::Owned(_) | Backing::Static(_) => Ok(()),
        }
    }
}

/// What a file system says about the identity and the last change of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Device, file number, length, times of modification and of change.
    pub identity: String,
    /// Whether the last change is so long ago that the next one will show in the time of change, which counts in steps
    /// of a few milliseconds, on some systems of two seconds.
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

/// A range of a file's bytes; clones share the file, which stays mapped as long as any of them lives.
#[derive(Clone)]
pub struct Region {
    file: Arc<MappedFile>,
    start: usize,
    len: usize,
}

impl Region {
    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the region begins in its file, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.start as u64
    }

    /// The file that the bytes belong to.
    #[must_use]
    pub fn file(&self) -> &Arc<MappedFile> {
        &self.file
    }

    /// A part of this region, `range` counted from its first byte.
    ///
    /// # Errors
    /// [`Error::UnexpectedEnd`] where the range is not inside the region.
    pub fn slice(&self, range: Range<usize>) -> Result<Self> {
        if range.start > range.end || range.end > self.len {
            return Err(Error::UnexpectedEnd {
                file: self.file.name.clone(),
                what: "a part of a mapped region".to_owned(),
                offset: (self.start as u64).saturating_add(range.start as u64),
                needed: range.end.saturating_sub(range.start) as u64,
                available: self.len.saturating_sub(range.start) as u64,
            });
        }
        Ok(Self {
            file: Arc::clone(&self.file),
            start: self.start + range.start,
            len: range.end - range.start,
        })
    }

    /// Tells the kernel that the pages wholly inside this region are not needed for now, so that they leave the resident
    /// set. Reading them later brings them back from the file. Does nothing for bytes that are not mapped.
    pub fn release(&self) {
        if let Backing::Mapped(map) = &self.file.bytes {
            map.release(self.start..self.start + self.len);
        }
    }

    /// Whether the file is still what was mapped; see [`MappedFile::check`].
    ///
    /// # Errors
    /// Those of [`MappedFile::check`].
    pub fn check(&self) -> Result<()> {
        self.file.check()
    }
}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // In bounds by construction: regions begin whole and only shrink.
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

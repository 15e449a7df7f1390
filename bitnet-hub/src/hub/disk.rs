//! Free disk space.

use std::path::Path;

use super::{Hub, Listing, RemoteFile, size};
use crate::error::{Error, Result};

impl Hub {
    /// Returns an error if the disk has no room for what is missing of `paths`, as far as sizes are known. Partial
    /// downloads count as present.
    ///
    /// # Errors
    /// [`Error::Room`].
    pub fn ensure_room(&self, listing: &Listing, paths: &[String]) -> Result<()> {
        let files = paths.iter().filter_map(|path| listing.file(path));
        let needed = files.fold(0_u64, |sum, file| sum.saturating_add(self.missing(listing, file)));
        let folder = self.settings.cache.folder();
        let existing = folder.ancestors().find(|folder| folder.exists());
        match existing.and_then(free) {
            Some(free) if free < needed => Err(Error::Room {
                repository: listing.repository.to_string(),
                folder: folder.to_owned(),
                needed,
                free,
            }),
            _ => Ok(()),
        }
    }

    /// Returns the bytes of a file that a download would add.
    fn missing(&self, listing: &Listing, file: &RemoteFile) -> u64 {
        let cache = self.cache(listing);
        let Some(bytes) = file.bytes else { return 0 };
        if size(&cache.shown(&listing.commit, Some(&file.path))) == Some(bytes) {
            return 0;
        }
        // The checksum of a large file is its ETag.
        let contents = file.sha256.as_ref().map(|hash| (cache.blob(hash), cache.partial(hash)));
        match contents {
            Some((blob, _)) if size(&blob) == Some(bytes) => 0,
            Some((_, partial)) => bytes.saturating_sub(size(&partial).unwrap_or(0)),
            None => bytes,
        }
    }
}

/// Returns the free bytes for this user on the disk of `folder`, if the OS reports them.
#[cfg(unix)]
pub(crate) fn free(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    // File systems without a size report zero.
    if disk.f_blocks == 0 { None } else { disk.f_bavail.checked_mul(disk.f_frsize) }
}

#[cfg(not(unix))]
pub(crate) fn free(_folder: &Path) -> Option<u64> {
    None
}

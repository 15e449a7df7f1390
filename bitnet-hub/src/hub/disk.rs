//! Free disk space.

use std::path::Path;

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

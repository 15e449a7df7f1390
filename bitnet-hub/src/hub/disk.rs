//! Room on a disk.

use std::path::Path;

/// Bytes that are free for this user where `folder` is, if the system says so.
#[cfg(unix)]
pub(crate) fn free(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    // File systems without a size of their own say zero.
    if disk.f_blocks == 0 { None } else { disk.f_bavail.checked_mul(disk.f_frsize) }
}

#[cfg(not(unix))]
pub(crate) fn free(_folder: &Path) -> Option<u64> {
    None
}

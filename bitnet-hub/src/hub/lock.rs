//! Locks between processes that download the same file.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use super::{Event, Watch, tell};
use crate::cache::make_parent;
use crate::error::{Error, Result};

/// Poll interval for a lock held by another process.
const INTERVAL: Duration = Duration::from_millis(200);

/// Takes the lock at `path` in shared mode, waiting for an exclusive holder. If the lock can't be opened or the file
/// system has no locks, no lock is held: the cache may be read-only.
pub(crate) fn share(
    path: &Path,
    file: &str,
    watch: &mut Watch<'_>,
    pause: &dyn Fn(Duration),
) -> Result<Option<File>> {
    let opened = make_parent(path).ok();
    let lock = opened.and_then(|()| File::options().create(true).append(true).open(path).ok());
    let Some(lock) = lock else { return Ok(None) };
    loop {
        match lock.try_lock_shared() {
            Ok(()) => return Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => {
                tell(watch, Event::Waiting { file })?;
                pause(INTERVAL);
            }
            Err(TryLockError::Error(_)) => return Ok(None),
        }
    }
}

/// Takes the lock at `path` exclusively, waiting for the current holder; dropping the file releases it. On a file
/// system without locks two processes may download the same file; the checksum still protects the result.
pub(crate) fn hold(
    path: &Path,
    file: &str,
    watch: &mut Watch<'_>,
    pause: &dyn Fn(Duration),
) -> Result<Option<File>> {
    make_parent(path)?;
    let lock = File::options().create(true).append(true).open(path);
    let lock = lock.map_err(Error::io(path, "open the lock"))?;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => {
                tell(watch, Event::Waiting { file })?;
                pause(INTERVAL);
            }
            Err(TryLockError::Error(_)) => return Ok(None),
        }
    }
}

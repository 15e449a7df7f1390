//! Locks between programs that pull the same file.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use super::{Event, Watch, tell};
use crate::cache::make_parent;
use crate::error::{HubError, Result};

/// How often a lock that another program holds is tried again.
const INTERVAL: Duration = Duration::from_millis(200);

/// Shares the lock at `path`, waiting for a removal that holds it alone. Where the lock can't be opened or the file system has none,
/// nothing is held: the cache may be one that is only read.
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

/// Takes the lock at `path`, waiting for whoever holds it; it is given back when the file is dropped. On a file system without locks
/// there is nothing to take: then two programs may do the same work, and the checksum still holds.
pub(crate) fn hold(
    path: &Path,
    file: &str,
    watch: &mut Watch<'_>,
    pause: &dyn Fn(Duration),
) -> Result<Option<File>> {
    make_parent(path)?;
    let lock = File::options().create(true).append(true).open(path);
    let lock = lock.map_err(HubError::io(path, "open the lock"))?;
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

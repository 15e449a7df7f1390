//! The folder of the cache, and the notices about it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::{InferenceError, Result};

/// The extension of cached files.
pub(super) const EXTENSION: &str = "prepared";
/// Temporary files that are older were left behind by a program that was killed.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Where prepared weights and heads are stored from one start to the next.
#[derive(Debug, Clone)]
pub struct PreparedCache {
    /// The folder; it is made when the first file is written.
    pub folder: PathBuf,
    /// What is prepared in less time is not stored: preparing it again is as good.
    pub worth: Duration,
    /// Receives a line when a file is written, could not be written or is damaged.
    pub notice: Notice,
}

/// Receives lines of text for the user, from any thread.
#[derive(Clone)]
pub struct Notice(Arc<dyn Fn(&str) + Send + Sync>);

impl Notice {
    /// Passes each line to `show`.
    pub fn new(show: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(show))
    }
}

impl Default for Notice {
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl std::fmt::Debug for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Notice")
    }
}

impl PreparedCache {
    /// The time that is worth a file of hundreds of megabytes.
    pub const WORTH: Duration = Duration::from_millis(250);

    /// A cache in `folder` that shows no notices.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), worth: Self::WORTH, notice: Notice::default() }
    }

    /// `$BITNET_CACHE`, or `bitnet` in the system's folder for caches; `None` if the user has no such folder.
    pub fn default_folder() -> Option<PathBuf> {
        let variable = |name| {
            let value = std::env::var_os(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        let of_system = if cfg!(windows) {
            variable("LOCALAPPDATA").map(|folder| folder.join("cache"))
        } else if cfg!(target_os = "macos") {
            variable("HOME").map(|home| home.join("Library").join("Caches"))
        } else {
            let absolute = variable("XDG_CACHE_HOME").filter(|folder| folder.is_absolute());
            absolute.or_else(|| variable("HOME").map(|home| home.join(".cache")))
        };
        variable("BITNET_CACHE").or_else(|| of_system.map(|folder| folder.join("bitnet")))
    }

    /// Returns the cached files with their sizes in bytes, by name; none if there is no folder.
    ///
    /// # Errors
    /// [`InferenceError::Io`] if the folder can't be read.
    pub fn files(&self) -> Result<Vec<(PathBuf, u64)>> {
        let fail = |source| InferenceError::Io { path: self.folder.clone(), source };
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                files.push((path, entry.metadata().map_err(fail)?.len()));
            }
        }
        files.sort();
        Ok(files)
    }

    /// Removes all cached files, and returns them.
    ///
    /// # Errors
    /// [`InferenceError::Io`] if the folder can't be read or a file can't be removed.
    pub fn clear(&self) -> Result<Vec<(PathBuf, u64)>> {
        let files = self.files()?;
        for (path, _) in &files {
            std::fs::remove_file(path)
                .map_err(|source| InferenceError::Io { path: path.clone(), source })?;
        }
        Ok(files)
    }

    pub(super) fn notify(&self, text: &str) {
        (self.notice.0)(text);
    }
}

/// Removes what killed programs left half written.
pub(super) fn remove_abandoned(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let old = entry.metadata().and_then(|found| found.modified()).is_ok_and(|written| {
            SystemTime::now().duration_since(written).is_ok_and(|age| age > ABANDONED)
        });
        if old && name.starts_with(".bitnet-") && name.ends_with(".tmp") {
            // Another program may have done so; what can't be removed does no harm.
            drop(std::fs::remove_file(entry.path()));
        }
    }
}

//! Links from a snapshot to a blob: symbolic if the OS supports them, else hard, else a copy.

use std::io;
use std::path::Path;

#[cfg(unix)]
fn symbolic(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symbolic(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symbolic(_target: &Path, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Links `link` to `blob`. `relative` is the path from the folder of `link` to `blob`; `links` = false disables
/// symbolic links.
pub(crate) fn show(blob: &Path, relative: &Path, link: &Path, links: bool) -> io::Result<()> {
    if links && symbolic(relative, link).is_ok() {
        return Ok(());
    }
    if std::fs::hard_link(blob, link).is_ok() {
        return Ok(());
    }
    std::fs::copy(blob, link).map(drop)
}

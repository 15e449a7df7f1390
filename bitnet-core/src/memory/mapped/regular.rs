//! Opening regular files only, because opening a pipe may block.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::path::Path;

use crate::{Error, Result};

/// Opens a regular file for reading. Returns it with its metadata.
pub(super) fn open(path: &Path) -> Result<(File, Metadata)> {
    let name = shown(path);
    let refused = |action| {
        let name = &name;
        move |error| Error::file(name, action, &error)
    };
    // Checked before opening: opening some devices changes them.
    require_regular(&name, &std::fs::metadata(path).map_err(refused("find the file"))?)?;
    let file = open_without_waiting(path).map_err(refused("open the file"))?;
    let found = file.metadata().map_err(refused("read the file's length"))?;
    require_regular(&name, &found)?;
    Ok((file, found))
}

/// A path as messages name it: escaped, in full.
pub(super) fn shown(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

fn require_regular(name: &str, found: &Metadata) -> Result<()> {
    let kind = found.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let kind = if kind.is_dir() { "a directory" } else { special_kind(kind) };
    Err(Error::NotRegularFile { file: name.to_owned(), kind })
}

#[cfg(unix)]
fn special_kind(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_fifo() {
        "a pipe (FIFO)"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a special file"
    }
}

#[cfg(not(unix))]
fn special_kind(_kind: FileType) -> &'static str {
    "a special file"
}

#[cfg(unix)]
fn open_without_waiting(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // If the path has become a pipe since the check, opening it must not wait for a writer.
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(not(unix))]
fn open_without_waiting(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

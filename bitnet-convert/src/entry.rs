//! The kind of a directory entry, without following symbolic links.

use std::fs::{FileType, Metadata};
use std::io;
use std::path::Path;

use crate::{Error, Result};

/// A directory entry.
#[derive(Debug)]
pub(crate) enum Entry {
    /// Nothing.
    Absent,
    /// A regular file.
    File(Metadata),
    /// A folder.
    Folder,
    /// A symbolic link, a pipe, a socket or a device; its kind, with the article.
    Special(&'static str),
}

impl Entry {
    /// Inspects `path` without following a symbolic link.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        let found = match std::fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Absent),
            Err(error) => return Err(Error::io(path, "look at")(error)),
        };
        let kind = found.file_type();
        Ok(if kind.is_file() {
            Self::File(found)
        } else if kind.is_dir() {
            Self::Folder
        } else {
            Self::Special(special_kind(kind))
        })
    }
}

#[cfg(unix)]
fn special_kind(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_fifo() {
        "a pipe (FIFO)"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "a special file"
    }
}

#[cfg(not(unix))]
fn special_kind(kind: FileType) -> &'static str {
    if kind.is_symlink() { "a symbolic link" } else { "a special file" }
}

/// Returns the names in a folder, sorted.
pub(crate) fn names_in(folder: &Path) -> Result<Vec<std::ffi::OsString>> {
    let list = || -> io::Result<Vec<_>> {
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
    };
    let mut names = list().map_err(Error::io(folder, "list"))?;
    names.sort();
    Ok(names)
}

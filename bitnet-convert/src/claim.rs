//! Ownership of the partial folder: one conversion at a time.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

use crate::destination::{Destination, special};
use crate::entry::{Entry, names_in};
use crate::{Error, Result};

/// The name of the marker file.
pub(crate) const MARK: &str = ".bitnet-convert";

/// Creates the partial folder, or claims an empty one or one of an earlier conversion.
fn claim(folder: &Path) -> Result<()> {
    let mark = folder.join(MARK);
    // Parent folders are not created: a mistyped path is an error.
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(Error::io(folder, "create")(error));
        }
        _ => {}
    }
    match Entry::at(folder)? {
        Entry::Folder => {}
        Entry::Special(kind) => return Err(special(folder, kind, "a folder")),
        Entry::Absent | Entry::File(_) => return Err(not_ours(folder)),
    }
    match Entry::at(&mark)? {
        Entry::File(_) => return Ok(()),
        Entry::Absent if nothing_to_lose(folder)? => {}
        _ => return Err(not_ours(folder)),
    }
    match OpenOptions::new().write(true).create_new(true).open(&mark) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(Error::io(&mark, "create")(error))
        }
        _ => Ok(()),
    }
}

/// Returns whether a folder is empty or contains only an empty journal.
fn nothing_to_lose(folder: &Path) -> Result<bool> {
    let names = names_in(folder)?;
    if names.iter().any(|name| name != "journal") {
        return Ok(false);
    }
    match Entry::at(&folder.join("journal"))? {
        Entry::Absent => Ok(true),
        Entry::File(found) => Ok(found.len() == 0),
        _ => Ok(false),
    }
}

/// Returns the error for a folder or an entry that no conversion created.
pub(crate) fn not_ours(path: &Path) -> Error {
    let problem = "the result would grow in a folder of this name, and what is there was not made by a conversion; \
                   move it away, or choose another name for the result";
    Error::refused(path.display().to_string(), problem)
}

/// Claims the partial folder, and opens and locks its journal.
///
/// A conversion that finishes meanwhile removes both; they are then created again.
pub(crate) fn claim_and_lock(destination: &Destination) -> Result<File> {
    const ATTEMPTS: usize = 16;
    let path = destination.partial.join("journal");
    for _ in 0..ATTEMPTS {
        claim(&destination.partial)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        match Entry::at(&path)? {
            Entry::Absent => options.create_new(true),
            Entry::File(_) => &mut options,
            _ => return Err(not_ours(&path)),
        };
        let journal = match options.open(&path) {
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) =>
            {
                continue;
            }
            opened => opened.map_err(Error::io(&path, "open"))?,
        };
        match journal.try_lock() {
            Err(TryLockError::WouldBlock) => break,
            // File systems without locks have none to take.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let marked = matches!(Entry::at(&destination.partial.join(MARK))?, Entry::File(_));
        if marked && is_at(&journal, &path)? {
            return Ok(journal);
        }
    }
    let problem =
        "another conversion to the same name is running; wait for it, or choose another name";
    Err(Error::refused(destination.path.display().to_string(), problem))
}

/// Returns whether `path` still refers to an open file.
fn is_at(file: &File, path: &Path) -> Result<bool> {
    let open = file.metadata().map_err(Error::io(path, "look at"))?;
    Ok(match Entry::at(path)? {
        Entry::File(found) => same_file(&open, &found),
        _ => false,
    })
}

/// Returns whether both are the same file.
#[cfg(unix)]
pub(crate) fn same_file(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
pub(crate) fn same_file(_a: &Metadata, _b: &Metadata) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_without_a_name_is_not_taken() {
        let work = tempfile::tempdir().unwrap();
        let destination = Destination::new(&work.path().join("model")).unwrap();
        let first = claim_and_lock(&destination).unwrap();
        assert!(claim_and_lock(&destination).is_err(), "locked by the first");
        let path = destination.partial.join("journal");
        std::fs::remove_file(&path).unwrap();
        assert!(!is_at(&first, &path).unwrap());
        let second = claim_and_lock(&destination).unwrap();
        assert!(is_at(&second, &path).unwrap());
        assert!(cfg!(not(unix)) || !is_at(&first, &path).unwrap());
    }

    #[test]
    fn folder_whose_removal_was_interrupted_is_claimed() {
        let work = tempfile::tempdir().unwrap();
        let destination = Destination::new(&work.path().join("model")).unwrap();
        std::fs::create_dir(&destination.partial).unwrap();
        let journal = destination.partial.join("journal");
        std::fs::write(&journal, b"mine").unwrap();
        assert!(claim_and_lock(&destination).is_err());
        std::fs::write(&journal, b"").unwrap();
        claim_and_lock(&destination).unwrap();
        assert!(destination.partial.join(MARK).exists());
    }
}

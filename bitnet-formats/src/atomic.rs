//! Writing a file so that it is there whole or not at all: temporary file beside it, fsync, rename, fsync of the folder.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result, shown_path};

/// Refuses a destination that is there and is no regular file: a rename would replace a pipe or a device by a file, or a
/// symbolic link instead of what it points to.
fn require_regular(path: &Path) -> Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => found.file_type(),
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            let (file, action) = (shown_path(path), "look at what is there");
            return Err(Error::Io { file, action, source });
        }
        _ => return Ok(()),
    };
    let kind = if found.is_dir() {
        "a directory"
    } else if found.is_symlink() {
        "a symbolic link"
    } else {
        "a pipe, a socket or a device"
    };
    Err(Error::NotRegularFile { file: shown_path(path), kind })
}

/// Writes `path` through `fill`. Until `fill` has returned and everything is on the disk, `path` keeps what it held;
/// on any error the temporary file is removed.
pub(crate) fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&File>) -> Result<()>,
) -> Result<()> {
    require_regular(path)?;
    let name = shown_path(path);
    let fail = |action| move |source| Error::Io { file: name.clone(), action, source };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = tempfile::Builder::new()
        .prefix(".bitnet-")
        .suffix(".tmp")
        .tempfile_in(folder)
        .map_err(fail.clone()("create a temporary file beside it"))?;
    {
        let mut sink = BufWriter::with_capacity(1 << 20, temporary.as_file());
        fill(&mut sink)?;
        sink.flush().map_err(fail.clone()("write"))?;
    }
    temporary.as_file().sync_all().map_err(fail.clone()("bring the data to the disk"))?;
    set_default_mode(temporary.as_file()).map_err(fail.clone()("set its permissions"))?;
    temporary
        .persist(path)
        .map_err(|error| fail.clone()("rename the finished file")(error.error))?;
    sync_folder(folder).map_err(fail("bring the folder to the disk"))
}

/// Writes `bytes` to `path` so that the file is there whole or not at all.
///
/// # Errors
/// [`Error::NotRegularFile`] where a folder, a symbolic link or a special file is there; [`Error::Io`] naming the file and what could not be done; `path` keeps what it held.
pub fn write_whole_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |sink| {
        sink.write_all(bytes).map_err(|source| Error::Io {
            file: shown_path(path),
            action: "write",
            source,
        })
    })
}

/// Temporary files are private to their owner; a finished model is readable by all, as any new file would be.
#[cfg(unix)]
fn set_default_mode(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn set_default_mode(_file: &File) -> io::Result<()> {
    Ok(())
}

/// Brings the names in a folder to the disk, where the system has a way to: a renamed file keeps its new name after that.
///
/// # Errors
/// Those of the system.
#[cfg(unix)]
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Brings the names in a folder to the disk, where the system has a way to: nothing here.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// A file without its data: what stands in front, and where each tensor begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Everything in front of the data.
    pub header: Vec<u8>,
    /// Where each tensor's data begins in the file, in bytes.
    pub offsets: Vec<u64>,
    /// The file's length in bytes.
    pub len: u64,
}

/// A sink that takes exactly as many bytes as a tensor has.
pub(crate) struct Exact<'a> {
    sink: &'a mut dyn Write,
    left: u64,
    overfull: bool,
}

impl<'a> Exact<'a> {
    /// Lets `supply` write the data of one tensor, `extent` = (offset in the file, bytes).
    pub(crate) fn fill(
        file: &str,
        tensor: &str,
        extent: (u64, u64),
        sink: &'a mut dyn Write,
        supply: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<()> {
        let (offset, nbytes) = extent;
        let mut exact = Self { sink, left: nbytes, overfull: false };
        let supplied = supply(&mut exact);
        let problem = if exact.overfull {
            format!("more than its {nbytes} bytes were supplied")
        } else {
            supplied.map_err(|source| Error::io(file, "write", source))?;
            if exact.left == 0 {
                return Ok(());
            }
            format!("{} of its {nbytes} bytes were not supplied", exact.left)
        };
        Err(Error::tensor(file, tensor, "data", offset, problem))
    }
}

impl Write for Exact<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            self.overfull = true;
            return Err(io::Error::other("more bytes were supplied for a tensor than it has"));
        }
        let written = self.sink.write(bytes)?;
        self.left -= written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn links_and_folders_are_not_replaced() {
        let work = tempfile::tempdir().unwrap();
        let (file, link) = (work.path().join("file"), work.path().join("link"));
        write_whole_file(&file, b"first").unwrap();
        write_whole_file(&file, b"mine").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&link, Path::new("/dev/null"), work.path()] {
            let refused = write_whole_file(path, b"other");
            assert!(matches!(refused, Err(Error::NotRegularFile { .. })), "{refused:?}");
        }
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"mine");
        assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 2);
    }
}

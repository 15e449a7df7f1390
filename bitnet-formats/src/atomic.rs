//! Atomic file writes: temporary file in the same folder, fsync, rename, fsync of the folder.

use std::fs::{File, Metadata, Permissions};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result, shown_path};

/// Bytes of the buffer. Of what is written in such pieces, at multiples of them, some file systems keep each in a huge
/// page, and map it as one.
pub(crate) const PIECE: usize = 2 << 20;

/// Rejects an existing destination that is not a regular file: a rename would replace a pipe, a device or a
/// symbolic link itself. Returns the metadata of an existing file.
fn require_regular(path: &Path) -> Result<Option<Metadata>> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => return Ok(Some(found)),
        Ok(found) => found.file_type(),
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io(&shown_path(path), "inspect the destination", source));
        }
        Err(_) => return Ok(None),
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

/// Writes `path` through `fill`. `path` is unchanged until `fill` has returned and the data is flushed to disk; on
/// error the temporary file is removed. A replaced file keeps its permissions, a new file gets the default ones. Of
/// several concurrent writers the last one wins.
pub(crate) fn write_atomically(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&File>) -> Result<()>,
) -> Result<()> {
    let replaced = require_regular(path)?;
    write_over(path, replaced.map(|found| found.permissions()), true, fill)
}

/// Like [`write_atomically`], with the permissions of the `replaced` file. A file that appears meanwhile is replaced
/// only if `overwrite` is set.
fn write_over(
    path: &Path,
    replaced: Option<Permissions>,
    overwrite: bool,
    fill: impl FnOnce(&mut BufWriter<&File>) -> Result<()>,
) -> Result<()> {
    let name = shown_path(path);
    let fail = |action| move |source| Error::Io { file: name.clone(), action, source };
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".bitnet-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(replaced.clone().unwrap_or_else(new_permissions));
    let temporary = builder
        .tempfile_in(folder)
        .map_err(fail.clone()("create a temporary file in its folder"))?;
    {
        let mut sink = BufWriter::with_capacity(PIECE, temporary.as_file());
        fill(&mut sink)?;
        sink.flush().map_err(fail.clone()("write"))?;
    }
    temporary.as_file().sync_all().map_err(fail.clone()("flush the data to disk"))?;
    let renamed = match replaced {
        Some(permissions) => {
            // The temporary file already has the default permissions, masked by the umask.
            if cfg!(unix) {
                let set = temporary.as_file().set_permissions(permissions);
                set.map_err(fail.clone()("set its permissions"))?;
            }
            temporary.persist(path).map(drop)
        }
        None if overwrite => temporary.persist(path).map(drop),
        None => match temporary.persist_noclobber(path) {
            // Not every file system supports a rename that never replaces.
            Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => {
                if require_regular(path)?.is_some() {
                    return Err(fail("create")(io::ErrorKind::AlreadyExists.into()));
                }
                error.file.persist(path).map(drop)
            }
            renamed => renamed.map(drop),
        },
    };
    renamed.map_err(|error| fail.clone()("rename the finished file")(error.error))?;
    sync_folder(folder).map_err(fail("flush the folder to disk"))
}

/// Writes `bytes` to `path` atomically.
///
/// # Errors
/// [`Error::NotRegularFile`] if `path` is a folder, a symbolic link or a special file; [`Error::Io`] with the file and
/// the failed action. `path` is unchanged on error.
pub fn write_whole_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |sink| write_all(path, sink, bytes))
}

/// Writes `bytes` atomically to `path`, which must not exist.
///
/// # Errors
/// [`Error::Io`] with the file and the failed action, of kind [`io::ErrorKind::AlreadyExists`] if `path` exists.
pub fn write_new_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_over(path, None, false, |sink| write_all(path, sink, bytes))
}

fn write_all(path: &Path, sink: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    sink.write_all(bytes).map_err(|source| Error::io(&shown_path(path), "write", source))
}

/// Returns the permissions requested for new files, before the umask applies.
#[cfg(unix)]
fn new_permissions() -> Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

/// Flushes a folder's entries to disk where the OS supports it, so that a rename survives a crash.
///
/// # Errors
/// Returns errors of the operating system.
#[cfg(unix)]
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Does nothing: this OS has no way to flush a folder's entries.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

/// The layout of a file: its header and the offset of each tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// All bytes before the data.
    pub header: Vec<u8>,
    /// The offset of each tensor's data in the file, in bytes.
    pub offsets: Vec<u64>,
    /// The file's length in bytes.
    pub len: u64,
}

/// A sink that accepts exactly the bytes of one tensor.
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
    #[test]
    fn new_file_takes_no_place_of_another() {
        let work = tempfile::tempdir().unwrap();
        let file = work.path().join("file");
        write_new_file(&file, b"first").unwrap();
        assert!(matches!(write_new_file(&file, b"second"), Err(Error::Io { .. })));
        // A file that appears while the bytes are written.
        let late = work.path().join("late");
        let refused = write_over(&late, None, false, |sink| {
            std::fs::write(&late, b"mine").unwrap();
            write_all(&late, sink, b"other")
        });
        assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
        assert_eq!(std::fs::read(&file).unwrap(), b"first");
        assert_eq!(std::fs::read(&late).unwrap(), b"mine");
        assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 2, "no temporary file is left");
    }

    #[cfg(unix)]
    fn mode(path: &Path) -> u32 {
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path).unwrap()) & 0o777
    }

    #[cfg(unix)]
    #[test]
    fn replaced_file_keeps_its_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let work = tempfile::tempdir().unwrap();
        let file = work.path().join("file");
        write_whole_file(&file, b"first").unwrap();
        for permissions in [0o600, 0o440, 0o666] {
            std::fs::set_permissions(&file, Permissions::from_mode(permissions)).unwrap();
            write_whole_file(&file, b"second").unwrap();
            assert_eq!(mode(&file), permissions);
        }
    }

    /// The umask is a property of the process, so the test runs itself in a child process with another umask.
    #[cfg(unix)]
    #[test]
    fn new_files_respect_the_umask() {
        const PATH: &str = "BITNET_TEST_NEW_FILE";
        if let Some(path) = std::env::var_os(PATH) {
            return write_whole_file(Path::new(&path), b"private").unwrap();
        }
        let work = tempfile::tempdir().unwrap();
        for (umask, permissions) in [("077", 0o600), ("022", 0o644), ("002", 0o664)] {
            let file = work.path().join(umask);
            let name = std::any::type_name_of_val(&new_files_respect_the_umask);
            let (_, name) = name.split_once("::").unwrap();
            let run = std::process::Command::new("sh")
                .args(["-c", &format!("umask {umask}; exec \"$0\" --exact {name}")])
                .arg(std::env::current_exe().unwrap())
                .env(PATH, &file)
                .output()
                .unwrap();
            assert!(run.status.success(), "{run:?}");
            assert_eq!(mode(&file), permissions, "umask {umask}");
        }
    }
}

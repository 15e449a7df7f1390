//! The system's own objects of shared memory: named ones, and nameless ones that are reached through a process.

use std::fs::File;
use std::io;

#[cfg(unix)]
use std::ffi::CString;
#[cfg(unix)]
use std::os::fd::{FromRawFd, OwnedFd};

/// The prefix of all names of objects of this program.
pub(super) const PREFIX: &str = "bitnet-";

/// Creates an object of `bytes` zero bytes under a name, for this user alone. Fails if the name is in use.
#[cfg(unix)]
pub(super) fn create(name: &str, bytes: u64) -> io::Result<File> {
    let file = open_object(name, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL)?;
    reserve(&file, bytes).inspect_err(|_| unlink(name))?;
    Ok(file)
}

#[cfg(unix)]
pub(super) fn open(name: &str) -> io::Result<File> {
    open_object(name, libc::O_RDWR)
}

/// Removes an object's name; the object lives until it is unmapped everywhere.
#[cfg(unix)]
pub(super) fn unlink(name: &str) {
    let Ok(path) = CString::new(format!("/{PREFIX}{name}")) else { return };
    // SAFETY: `path` is a C string that lives through the call.
    let _absent = unsafe { libc::shm_unlink(path.as_ptr()) };
}

/// The type of the mode that `shm_open` takes: on Apple's systems it is a variadic argument, so the promoted one.
#[cfg(target_vendor = "apple")]
type Mode = libc::c_uint;
#[cfg(all(unix, not(target_vendor = "apple")))]
type Mode = libc::mode_t;

#[cfg(unix)]
fn open_object(name: &str, flags: libc::c_int) -> io::Result<File> {
    let path = CString::new(format!("/{PREFIX}{name}"))?;
    // SAFETY: `path` is a C string that lives through the call.
    let fd = unsafe { libc::shm_open(path.as_ptr(), flags, 0o600 as Mode) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system has just returned this descriptor, and nothing else owns it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Creates a nameless object of `bytes` zero bytes whose length can't be changed.
#[cfg(target_os = "linux")]
pub(super) fn create_nameless(bytes: u64) -> io::Result<File> {
    // SAFETY: the name is a C string.
    let fd = unsafe {
        libc::memfd_create(c"bitnet".as_ptr(), libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system has just returned this descriptor, and nothing else owns it.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    reserve(&file, bytes)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: the descriptor is open, and the argument of this request is an integer.
    if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn create_nameless(_bytes: u64) -> io::Result<File> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// Sets the length of an object and allocates its memory: writing to a page without memory would raise SIGBUS.
#[cfg(target_os = "linux")]
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let len = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open; the arguments are integers.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    file.set_len(bytes)
}

/// Returns the names of all objects of this program; none where the system does not list them.
pub(super) fn names() -> Vec<String> {
    if !cfg!(target_os = "linux") {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir("/dev/shm") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| Some(name.strip_prefix(PREFIX)?.to_owned())).collect()
}

#[cfg(not(unix))]
pub(super) fn create(_name: &str, _bytes: u64) -> io::Result<File> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(not(unix))]
pub(super) fn open(_name: &str) -> io::Result<File> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(not(unix))]
pub(super) fn unlink(_name: &str) {}

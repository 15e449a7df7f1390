//! Memory that several processes share, with a lock that survives the death of its holder.
//!
//! ```text
//! 0     magic, version, bytes of data, checksum of these three, creator: five u64
//! 40    lock: finished writes, interrupted writer, writer, 64 readers: u64 each
//! 4096  data
//! ```
//!
//! Processes are identified by number and start time. A process that ends while it holds the lock loses it; if it was
//! writing, every lock fails with [`Error::PeerDied`] until the data have been [written
//! anew](SharedMemory::write_anew). Only processes of one user, on one machine, in one PID namespace share memory this
//! way, and all of them use the lock: it can't stop a program that maps the object by other means.

mod lock;
mod object;
mod peer;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use memmap2::{MmapOptions, MmapRaw};

use self::lock::{Lock, Refused};
use self::peer::Peer;
use super::mapped::fault;
use super::tensor::ExternalBytes;
use crate::{Error, Result};

const MAGIC: u64 = u64::from_be_bytes(*b"BITNETSH");
const VERSION: u64 = 1;
/// The offset of the data, in bytes.
const DATA: usize = 4096;
/// The longest name that every system accepts together with the prefix.
const LONGEST_NAME: usize = 20;

/// The beginning of the object. All of it is atomic: other processes write to it at any time.
#[repr(C)]
struct Header {
    magic: AtomicU64,
    version: AtomicU64,
    len: AtomicU64,
    checksum: AtomicU64,
    creator: AtomicU64,
    lock: Lock,
}

const _: () = assert!(size_of::<Header>() <= DATA);

/// Memory that other processes can open. Clones are the same memory; its name is removed when the last clone in the
/// creating process is dropped.
#[derive(Clone)]
pub struct SharedMemory {
    object: Arc<Object>,
}

struct Object {
    // Declared before `map`, so that it is dropped first: the address is
    // removed from the registry before it is unmapped.
    guard: fault::Guard,
    map: MmapRaw,
    file: File,
    shown: String,
    /// The name to remove, and its creator: a forked child must not remove it.
    owned: Option<(String, Peer)>,
    len: usize,
}

impl SharedMemory {
    /// Creates memory of `len` zero bytes under a name of letters, digits, `-`, `_` and `.`, at most 20 of them. The
    /// name of a dead process is reused.
    ///
    /// # Errors
    /// [`Error::SharedMemory`] for a bad name, one in use, and where the
    /// system has no shared memory left or none at all.
    pub fn create(name: &str, len: usize) -> Result<Self> {
        require_name(name)?;
        let total = total(name, len)?;
        let file = object::create(name, total).or_else(|error| {
            // Mappings of the old object remain.
            if error.kind() != std::io::ErrorKind::AlreadyExists || !reclaim(name) {
                return Err(error);
            }
            object::create(name, total)
        });
        let file = file.map_err(|error| refused(name, &error))?;
        let owned = Some((name.to_owned(), Peer::current()));
        Self::begin(file, name.to_owned(), owned, len).inspect_err(|_| object::unlink(name))
    }

    /// Opens the memory that another process, or this one, created under that name.
    ///
    /// # Errors
    /// [`Error::SharedMemory`] if there is none, or if it was not made by [`SharedMemory::create`].
    pub fn open(name: &str) -> Result<Self> {
        require_name(name)?;
        let file = object::open(name).map_err(|error| refused(name, &error))?;
        Self::join(file, name.to_owned())
    }

    /// Creates memory of `len` zero bytes without a name (Linux). Processes open it by [`SharedMemory::path`]; its
    /// length can't be changed, and it is freed when the last process has ended.
    ///
    /// # Errors
    /// [`Error::SharedMemory`] where the system has no shared memory left or none at all.
    pub fn nameless(len: usize) -> Result<Self> {
        let name = "nameless";
        let file = object::create_nameless(total(name, len)?);
        Self::begin(file.map_err(|error| refused(name, &error))?, name.to_owned(), None, len)
    }

    /// The path for [`SharedMemory::open_path`] in other processes
    /// of this user, valid while this memory is open (Linux).
    pub fn path(&self) -> Option<PathBuf> {
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd;
            let (pid, fd) = (std::process::id(), self.object.file.as_raw_fd());
            Some(PathBuf::from(format!("/proc/{pid}/fd/{fd}")))
        }
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// Opens the memory at the [path](SharedMemory::path) of another process.
    ///
    /// # Errors
    /// As [`SharedMemory::open`].
    pub fn open_path(path: &Path) -> Result<Self> {
        let shown = path.to_string_lossy().escape_debug().to_string();
        let found = std::fs::metadata(path).map_err(|error| refused(&shown, &error))?;
        if !found.is_file() {
            return Err(bad(&shown, "it is not a shared memory object"));
        }
        let file = File::options().read(true).write(true).open(path);
        Self::join(file.map_err(|error| refused(&shown, &error))?, shown)
    }

    /// Removes the names that crashed processes left behind. Returns their number.
    pub fn reclaim_names() -> usize {
        object::names().iter().filter(|name| require_name(name).is_ok() && reclaim(name)).count()
    }

    fn begin(file: File, shown: String, owned: Option<(String, Peer)>, len: usize) -> Result<Self> {
        let object = Object::map(file, shown, owned, len)?;
        let header = object.header();
        header.version.store(VERSION, SeqCst);
        header.len.store(len as u64, SeqCst);
        header.creator.store(Peer::current().to_bits(), SeqCst);
        header.checksum.store(header.sum(MAGIC), SeqCst);
        // Last, because an object without the magic is rejected.
        header.magic.store(MAGIC, SeqCst);
        Ok(Self { object: Arc::new(object) })
    }

    fn join(file: File, shown: String) -> Result<Self> {
        let found = file.metadata().map_err(|error| refused(&shown, &error))?.len();
        let len = usize::try_from(found).ok().and_then(|found| found.checked_sub(DATA));
        let Some(most) = len else {
            return Err(bad(&shown, "it is too short, or still being created"));
        };
        let mut object = Object::map(file, shown, None, most)?;
        let header = object.header();
        if header.magic.load(SeqCst) != MAGIC || header.version.load(SeqCst) != VERSION {
            return Err(bad(
                &object.shown,
                "it is not memory of this program and version, or not finished",
            ));
        }
        if header.checksum.load(SeqCst) != header.sum(MAGIC) {
            return Err(bad(&object.shown, "the checksum of its header does not match"));
        }
        // Systems may round the length up to whole pages.
        let len = header.len.load(SeqCst);
        if len > most as u64 || most as u64 - len >= 1 << 16 {
            return Err(bad(&object.shown, "its length differs from that in its header"));
        }
        object.len = len as usize;
        Ok(Self { object: Arc::new(object) })
    }

    /// Bytes of data.
    pub fn len(&self) -> usize {
        self.object.len
    }

    /// Whether there are no bytes of data.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of writes finished since the memory was created. Takes no lock.
    pub fn generation(&self) -> u64 {
        self.object.header().lock.generation()
    }

    /// Locks the data for reading, together with other readers
    /// of any process; waits for a writer for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::LockTimedOut`]; [`Error::PeerDied`] if the last writer ended in the middle of a write;
    /// [`Error::FileTruncated`] if the memory was truncated.
    pub fn read(&self, timeout: Duration) -> Result<ReadLease> {
        let object = Arc::clone(&self.object);
        object.check()?;
        let slot = object.header().lock.read(Peer::current(), timeout);
        let slot = slot.map_err(|refused| object.error(refused, timeout))?;
        Ok(ReadLease { object, slot })
    }

    /// Locks the data for exclusive writing; waits for others for at most `timeout`. A thread that holds a lease of
    /// this memory waits for itself.
    ///
    /// # Errors
    /// As [`SharedMemory::read`].
    pub fn write(&self, timeout: Duration) -> Result<WriteLease> {
        self.write_as(timeout, false)
    }

    /// As [`SharedMemory::write`], to overwrite all data, for instance after [`Error::PeerDied`]: they may be
    /// half-written, and count as consistent once the lease is dropped.
    ///
    /// # Errors
    /// [`Error::LockTimedOut`] or [`Error::FileTruncated`].
    pub fn write_anew(&self, timeout: Duration) -> Result<WriteLease> {
        self.write_as(timeout, true)
    }

    fn write_as(&self, timeout: Duration, anew: bool) -> Result<WriteLease> {
        let object = Arc::clone(&self.object);
        object.check()?;
        let locked = object.header().lock.write(Peer::current(), timeout, anew);
        locked.map_err(|refused| object.error(refused, timeout))?;
        Ok(WriteLease { object })
    }
}

impl Header {
    /// The checksum of the fields that never change.
    fn sum(&self, magic: u64) -> u64 {
        let mut sum = crc32fast::Hasher::new();
        sum.update(&magic.to_ne_bytes());
        for field in [&self.version, &self.len] {
            sum.update(&field.load(SeqCst).to_ne_bytes());
        }
        u64::from(sum.finalize())
    }
}

impl Object {
    fn map(file: File, shown: String, owned: Option<(String, Peer)>, len: usize) -> Result<Self> {
        let map = MmapOptions::new().len(DATA + len).map_raw(&file);
        let map = map.map_err(|error| refused(&shown, &error))?;
        let guard = fault::Guard::register(&shown, map.as_ptr() as usize, map.len(), true)?;
        Ok(Self { guard, map, file, shown, owned, len })
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping begins at a page and is longer than a header, and lives as long as `self`. Every bit
        // pattern is a header, all of which is atomic, so that other processes may write to it.
        unsafe { &*self.map.as_ptr().cast::<Header>() }
    }

    fn data(&self) -> NonNull<[u8]> {
        let start = self.map.as_mut_ptr().wrapping_add(DATA);
        // The mapping does not begin at address 0, so that the data do not either.
        let start = NonNull::new(start).unwrap_or(NonNull::dangling());
        NonNull::slice_from_raw_parts(start, self.len)
    }

    fn check(&self) -> Result<()> {
        let now = self.file.metadata().map_or(0, |found| found.len());
        let mapped = (DATA + self.len) as u64;
        if now < mapped || self.guard.is_damaged() {
            return Err(Error::FileTruncated { file: self.shown.clone(), mapped, now });
        }
        Ok(())
    }

    fn error(&self, refused: Refused, waited: Duration) -> Error {
        let name = self.shown.clone();
        match refused {
            Refused::TimedOut => Error::LockTimedOut { name, waited },
            Refused::PeerDied(peer) => Error::PeerDied { name, pid: peer.pid() },
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        if let Some((name, creator)) = &self.owned
            && *creator == Peer::current()
        {
            object::unlink(name);
        }
    }
}

/// A shared lease to read the data. A tensor over it ([`super::tensor::BitNetTensor::from_external`]) owns the lease.
pub struct ReadLease {
    object: Arc<Object>,
    slot: usize,
}

impl ReadLease {
    /// The data.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the data are inside the mapping, which `object` keeps, and initialised; as long as the lease is held,
        // every process that uses the lock only reads them.
        unsafe { self.object.data().as_ref() }
    }
}

impl ExternalBytes for ReadLease {
    fn bytes(&self) -> &[u8] {
        self.bytes()
    }

    fn check(&self) -> Result<()> {
        self.object.check()
    }
}

impl Drop for ReadLease {
    fn drop(&mut self) {
        self.object.header().lock.end_read(self.slot, Peer::current());
    }
}

/// An exclusive lease to write the data. When it is dropped they count as consistent, unless a panic drops it.
pub struct WriteLease {
    object: Arc<Object>,
}

impl WriteLease {
    /// The data.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the data are inside the mapping, which `object` keeps, and initialised; as long as the lease is held,
        // no other process that uses the lock accesses them, and `&self` excludes writes by this one.
        unsafe { self.object.data().as_ref() }
    }

    /// The data, for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes this the only access.
        unsafe { self.object.data().as_mut() }
    }
}

impl ExternalBytes for WriteLease {
    fn bytes(&self) -> &[u8] {
        self.bytes()
    }

    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        Some(self.bytes_mut())
    }

    fn check(&self) -> Result<()> {
        self.object.check()
    }
}

impl Drop for WriteLease {
    fn drop(&mut self) {
        let lock = &self.object.header().lock;
        if std::thread::panicking() {
            lock.abandon_write(Peer::current());
        } else {
            lock.end_write(Peer::current());
        }
    }
}

/// Removes a name if its creator has ended. Returns whether it did.
fn reclaim(name: &str) -> bool {
    // An object that can't be opened or is unfinished may be another program's, or about to be finished.
    let Ok(found) = SharedMemory::open(name) else { return false };
    let creator = &found.object.header().creator;
    let bits = creator.load(SeqCst);
    if Peer::from_bits(bits).is_some_and(Peer::is_alive) {
        return false;
    }
    // Only the process that stores itself as the creator unlinks: by then the name may be another object's.
    let ours = creator.compare_exchange(bits, Peer::current().to_bits(), SeqCst, SeqCst).is_ok();
    if ours {
        object::unlink(name);
    }
    ours
}

fn require_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(good) {
        let shown: String = name.chars().take(40).flat_map(char::escape_debug).collect();
        return Err(bad(&shown, "a name has 1 to 20 letters, digits, `-`, `_` or `.`"));
    }
    Ok(())
}

/// Bytes of the object: header and data.
fn total(name: &str, len: usize) -> Result<u64> {
    let total = len.checked_add(DATA).filter(|&total| isize::try_from(total).is_ok());
    total.map(|total| total as u64).ok_or_else(|| bad(name, "so much memory can't be mapped"))
}

fn refused(name: &str, error: &std::io::Error) -> Error {
    bad(name, &error.to_string())
}

fn bad(name: &str, problem: &str) -> Error {
    Error::SharedMemory { name: name.to_owned(), problem: problem.to_owned() }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedMemory({}, {} bytes)", self.object.shown, self.len())
    }
}

impl fmt::Debug for ReadLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadLease({}, {} bytes)", self.object.shown, self.object.len)
    }
}

impl fmt::Debug for WriteLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteLease({}, {} bytes)", self.object.shown, self.object.len)
    }
}

//! The identity of processes that share memory, and whether they are alive.
//!
//! A process is identified by its number and its start time, because numbers are reused.

#[cfg(target_os = "linux")]
use std::fs;
#[cfg(unix)]
use std::io;
#[cfg(unix)]
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of a process's number; the rest is its start time in ticks since boot (0 where that is unknown).
const PID_BITS: u32 = 22;

/// A process; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer(u64);

impl Peer {
    /// The process of these bits; `None` for 0.
    pub(super) fn from_bits(bits: u64) -> Option<Self> {
        (bits != 0).then_some(Self(bits))
    }

    /// Its number and start time as bits.
    pub(super) fn to_bits(self) -> u64 {
        self.0
    }

    pub(super) fn pid(self) -> u32 {
        (self.0 & ((1 << PID_BITS) - 1)) as u32
    }
}

#[cfg(unix)]
impl Peer {
    pub(super) fn current() -> Self {
        static CACHED: AtomicU64 = AtomicU64::new(0);
        let pid = std::process::id();
        // A fork changes the number.
        if let Some(cached) =
            Self::from_bits(CACHED.load(Ordering::Relaxed)).filter(|one| one.pid() == pid)
        {
            return cached;
        }
        let started = started(pid).ok().flatten().unwrap_or(0);
        let current = Self(started << PID_BITS | u64::from(pid));
        CACHED.store(current.0, Ordering::Relaxed);
        current
    }

    /// Whether the process is alive; a zombie is not. Where its start time is unknown, its number alone identifies it.
    pub(super) fn is_alive(self) -> bool {
        let since = self.0 >> PID_BITS;
        if since != 0
            && let Ok(started) = started(self.pid())
        {
            return started == Some(since);
        }
        // SAFETY: signal 0 is not delivered: the call only checks whether the process exists.
        let answer = unsafe { libc::kill(self.pid() as libc::pid_t, 0) };
        let refused = io::Error::last_os_error().raw_os_error();
        answer == 0 || refused == Some(libc::EPERM)
    }
}

#[cfg(not(unix))]
impl Peer {
    pub(super) fn current() -> Self {
        Self(u64::from(std::process::id()).max(1))
    }

    pub(super) fn is_alive(self) -> bool {
        true
    }
}

/// Returns the start time of a live process, in ticks; `None` if there is none of that number.
///
/// # Errors
/// That of reading its entry in `/proc`, for instance when no more files can be opened.
#[cfg(target_os = "linux")]
fn started(pid: u32) -> io::Result<Option<u64>> {
    let stat = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        // It ended before the file was opened, or while it was read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    let stat = String::from_utf8_lossy(&stat);
    let unreadable = || io::Error::from(io::ErrorKind::InvalidData);
    // The name in parentheses may contain anything, parentheses included.
    let (_, fields) = stat.rsplit_once(')').ok_or_else(unreadable)?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next().ok_or_else(unreadable)?;
    if matches!(state, "Z" | "X" | "x") {
        return Ok(None);
    }
    // Field 22 of the line; the state is field 3.
    let started = fields.nth(18).and_then(|ticks| ticks.parse().ok());
    started.map(Some).ok_or_else(unreadable)
}

#[cfg(all(unix, not(target_os = "linux")))]
fn started(_pid: u32) -> io::Result<Option<u64>> {
    Ok(None)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn live_and_ended_processes_are_distinguished() {
        let me = Peer::current();
        assert_eq!((me.pid(), me.is_alive()), (std::process::id(), true));
        let other_time = Peer(me.0 ^ 1 << PID_BITS);
        assert!(!other_time.is_alive(), "the number is reused");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let born = Peer(1 << PID_BITS | u64::from(child.id()));
        assert!(!born.is_alive());
        while started(child.id()).unwrap().is_some() {
            std::thread::yield_now();
        }
        // A zombie: it has ended, and its number is still in use.
        child.wait().unwrap();
        assert_eq!(Peer::from_bits(0), None);
    }
}

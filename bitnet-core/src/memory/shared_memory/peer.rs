//! Processes that share memory: who one is, and whether it is still there.
//!
//! A process is its number and the time at which it started, since numbers are used again.

#[cfg(target_os = "linux")]
use std::fs;
#[cfg(unix)]
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of a process's number; the rest is when it started, in ticks since the machine did (0 where that is not known).
const PID_BITS: u32 = 22;

/// A process, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer(u64);

impl Peer {
    /// The process that a word names; `None` for 0.
    pub(super) fn of(word: u64) -> Option<Self> {
        (word != 0).then_some(Self(word))
    }

    /// The word that names the process.
    pub(super) fn word(self) -> u64 {
        self.0
    }

    /// Its number.
    pub(super) fn pid(self) -> u32 {
        (self.0 & ((1 << PID_BITS) - 1)) as u32
    }
}

#[cfg(unix)]
impl Peer {
    /// This process.
    pub(super) fn current() -> Self {
        static KNOWN: AtomicU64 = AtomicU64::new(0);
        let pid = std::process::id();
        // After a fork the number is another one.
        if let Some(known) = Self::of(KNOWN.load(Ordering::Relaxed)).filter(|one| one.pid() == pid)
        {
            return known;
        }
        let started = started(pid).unwrap_or(0);
        let current = Self(started << PID_BITS | u64::from(pid));
        KNOWN.store(current.0, Ordering::Relaxed);
        current
    }

    /// Whether the process is still there and has not ended, even if nobody has asked for its result yet.
    pub(super) fn is_alive(self) -> bool {
        let since = self.0 >> PID_BITS;
        if since != 0 {
            return started(self.pid()) == Some(since);
        }
        // SAFETY: signal 0 is not delivered: the call only asks whether the process is there.
        let answer = unsafe { libc::kill(self.pid() as libc::pid_t, 0) };
        let refused = std::io::Error::last_os_error().raw_os_error();
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

/// When a process that has not ended was started, in ticks; `None` if there is none of that number.
#[cfg(target_os = "linux")]
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses among it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    // Field 22 of the line; the state is field 3.
    fields.nth(18)?.parse().ok()
}

#[cfg(all(unix, not(target_os = "linux")))]
fn started(_pid: u32) -> Option<u64> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_an_ended_one_does_not() {
        let me = Peer::current();
        assert_eq!((me.pid(), me.is_alive()), (std::process::id(), true));
        let other_time = Peer(me.0 ^ 1 << PID_BITS);
        assert!(!other_time.is_alive(), "the number is used again");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let born = Peer(1 << PID_BITS | u64::from(child.id()));
        assert!(!born.is_alive());
        while started(child.id()).is_some() {
            std::thread::yield_now();
        }
        // It has ended, and its number is still taken: nobody has asked for its result.
        child.wait().unwrap();
        assert_eq!(Peer::of(0), None);
    }
}

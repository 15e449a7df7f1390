//! A robust lock for one writer or many readers, over words that processes share: a dead process loses it.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::peer::Peer;

/// Readers at a time.
const READERS: usize = 64;

/// The words. All zero is a free lock.
#[repr(C)]
pub(super) struct Lock {
    /// The number of finished writes.
    generation: AtomicU64,
    /// The process that ended while it wrote, until everything has been written anew.
    torn: AtomicU64,
    writer: AtomicU64,
    readers: [AtomicU64; READERS],
}

/// Why a lock was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Others held it until the timeout.
    TimedOut,
    /// The data may be half-written: this process ended while it wrote.
    PeerDied(Peer),
}

impl Lock {
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// Waits for the lock as one of many readers. Returns the index of the reader.
    pub(super) fn read(&self, me: Peer, timeout: Duration) -> Result<usize, Refused> {
        let mut wait = Wait::new(timeout);
        loop {
            if self.writer_at_work() {
                wait.step()?;
                continue;
            }
            self.require_whole()?;
            let Some(place) = self.enter(me) else {
                wait.step()?;
                continue;
            };
            // A writer that took the lock meanwhile sees this reader, or this reader sees it.
            if self.writer.load(SeqCst) == 0 && self.torn.load(SeqCst) == 0 {
                return Ok(place);
            }
            self.end_read(place, me);
        }
    }

    /// Releases the lock of a reader, if it is this process's: a forked child has copies of its parent's leases, but not their
    /// locks.
    pub(super) fn end_read(&self, place: usize, me: Peer) {
        let _ = self.readers[place].compare_exchange(me.word(), 0, SeqCst, SeqCst);
    }

    /// Waits for the lock as the writer. With `anew` the data may be half-written, because the caller will write everything.
    pub(super) fn write(&self, me: Peer, timeout: Duration, anew: bool) -> Result<(), Refused> {
        let mut wait = Wait::new(timeout);
        loop {
            if !self.writer_at_work()
                && self.writer.compare_exchange(0, me.word(), SeqCst, SeqCst).is_ok()
            {
                break;
            }
            wait.step()?;
        }
        let held = self
            .readers_gone(&mut wait)
            .and_then(|()| if anew { Ok(()) } else { self.require_whole() });
        if held.is_err() {
            self.writer.store(0, SeqCst);
        }
        held
    }

    /// Releases the lock after a finished write, if this process has it.
    pub(super) fn end_write(&self, me: Peer) {
        if self.writer.load(SeqCst) == me.word() {
            self.torn.store(0, SeqCst);
            self.generation.fetch_add(1, SeqCst);
            self.writer.store(0, SeqCst);
        }
    }

    /// Releases the lock in the middle of a write, if this process has it.
    pub(super) fn abandon_write(&self, me: Peer) {
        if self.writer.load(SeqCst) == me.word() {
            self.torn.store(me.word(), SeqCst);
            self.writer.store(0, SeqCst);
        }
    }

    /// Whether a living process holds the lock as the writer. A dead one loses it, and the data count as inconsistent.
    fn writer_at_work(&self) -> bool {
        let word = self.writer.load(SeqCst);
        let Some(holder) = Peer::of(word) else { return false };
        if holder.is_alive() {
            return true;
        }
        // Marked inconsistent first: no process may find the lock free and the data consistent. Only the first loss is recorded.
        let _ = self.torn.compare_exchange(0, word, SeqCst, SeqCst);
        // Another process may have been faster.
        let _ = self.writer.compare_exchange(word, 0, SeqCst, SeqCst);
        self.writer.load(SeqCst) != 0
    }

    fn require_whole(&self) -> Result<(), Refused> {
        Peer::of(self.torn.load(SeqCst)).map_or(Ok(()), |peer| Err(Refused::PeerDied(peer)))
    }

    /// Takes a reader's slot; slots of dead processes are free.
    fn enter(&self, me: Peer) -> Option<usize> {
        let take = |from: u64, slot: &AtomicU64| {
            slot.compare_exchange(from, me.word(), SeqCst, SeqCst).is_ok()
        };
        let free = self.readers.iter().position(|slot| take(0, slot));
        free.or_else(|| {
            self.readers.iter().position(|slot| {
                let word = slot.load(SeqCst);
                Peer::of(word).is_none_or(|peer| !peer.is_alive()) && take(word, slot)
            })
        })
    }

    fn readers_gone(&self, wait: &mut Wait) -> Result<(), Refused> {
        for slot in &self.readers {
            while let Some(reader) = Peer::of(slot.load(SeqCst)) {
                if reader.is_alive() {
                    wait.step()?;
                } else {
                    let _ = slot.compare_exchange(reader.word(), 0, SeqCst, SeqCst);
                }
            }
        }
        Ok(())
    }
}

/// Waits: first spinning, then asleep for growing times, at most a millisecond.
struct Wait {
    start: Instant,
    timeout: Duration,
    steps: u32,
}

impl Wait {
    fn new(timeout: Duration) -> Self {
        Self { start: Instant::now(), timeout, steps: 0 }
    }

    fn step(&mut self) -> Result<(), Refused> {
        self.steps += 1;
        if self.start.elapsed() >= self.timeout {
            return Err(Refused::TimedOut);
        }
        match self.steps {
            0..16 => std::hint::spin_loop(),
            16..64 => std::thread::yield_now(),
            _ => std::thread::sleep(Duration::from_micros(u64::from(self.steps.min(1000)))),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> Box<Lock> {
        Box::new(Lock {
            generation: AtomicU64::new(0),
            torn: AtomicU64::new(0),
            writer: AtomicU64::new(0),
            readers: [const { AtomicU64::new(0) }; READERS],
        })
    }

    const AT_ONCE: Duration = Duration::ZERO;

    #[test]
    fn one_writer_excludes_readers() {
        let (lock, me) = (lock(), Peer::current());
        let places: Vec<_> = (0..READERS).map(|_| lock.read(me, AT_ONCE).unwrap()).collect();
        assert_eq!(lock.read(me, AT_ONCE), Err(Refused::TimedOut), "every place is taken");
        assert_eq!(lock.write(me, AT_ONCE, false), Err(Refused::TimedOut));
        places.into_iter().for_each(|place| lock.end_read(place, me));
        lock.write(me, AT_ONCE, false).unwrap();
        assert_eq!(lock.read(me, AT_ONCE), Err(Refused::TimedOut));
        assert_eq!(lock.write(me, AT_ONCE, true), Err(Refused::TimedOut));
        lock.end_write(me);
        assert_eq!((lock.generation(), lock.read(me, AT_ONCE)), (1, Ok(0)));
    }

    #[test]
    fn a_process_releases_only_its_own_locks() {
        let (lock, me) = (lock(), Peer::current());
        let other = Peer::of(me.word() ^ 1).unwrap();
        let place = lock.read(me, AT_ONCE).unwrap();
        lock.end_read(place, other);
        assert_eq!(lock.write(me, AT_ONCE, false), Err(Refused::TimedOut), "the reader is there");
        lock.end_read(place, me);
        lock.write(me, AT_ONCE, false).unwrap();
        lock.end_write(other);
        lock.abandon_write(other);
        assert_eq!(lock.generation(), 0);
        assert_eq!(lock.read(me, AT_ONCE), Err(Refused::TimedOut), "the writer is there");
        lock.end_write(me);
        assert!(lock.read(me, AT_ONCE).is_ok());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn dead_processes_lose_their_locks() {
        let (lock, me) = (lock(), Peer::current());
        // The same number with another start time: a process that has ended.
        let dead = Peer::of(me.word() ^ 1 << 22).unwrap();
        (0..READERS).for_each(|_| assert!(lock.read(dead, AT_ONCE).is_ok()));
        lock.end_read(lock.read(me, AT_ONCE).unwrap(), me);
        lock.write(me, AT_ONCE, false).unwrap();
        lock.end_write(me);

        lock.write(dead, AT_ONCE, false).unwrap();
        assert_eq!(lock.read(me, AT_ONCE), Err(Refused::PeerDied(dead)));
        assert_eq!(lock.write(me, AT_ONCE, false), Err(Refused::PeerDied(dead)));
        lock.write(me, AT_ONCE, true).unwrap();
        lock.end_write(me);
        assert!(lock.read(me, AT_ONCE).is_ok());
    }
}

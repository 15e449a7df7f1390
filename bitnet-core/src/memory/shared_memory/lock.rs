//! A robust lock for one writer or many readers in shared memory: a dead process loses it.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::peer::Peer;

/// Readers at a time.
const READERS: usize = 64;

/// The state of the lock. All zero is a free lock.
#[repr(C)]
pub(super) struct Lock {
    /// The number of finished writes.
    generation: AtomicU64,
    /// The process that ended while it wrote, until all data have been written anew.
    torn: AtomicU64,
    writer: AtomicU64,
    readers: [AtomicU64; READERS],
}

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
            if self.has_live_writer() {
                wait.step()?;
                continue;
            }
            self.require_consistent()?;
            let Some(slot) = self.claim_slot(me) else {
                wait.step()?;
                continue;
            };
            // A writer that took the lock in the meantime sees this reader, or this reader sees it.
            if self.writer.load(SeqCst) == 0 && self.torn.load(SeqCst) == 0 {
                return Ok(slot);
            }
            self.end_read(slot, me);
        }
    }

    /// Releases the lock of a reader, if it is this process's: a forked child has copies of its parent's leases, but
    /// not their locks.
    pub(super) fn end_read(&self, slot: usize, me: Peer) {
        let _ = self.readers[slot].compare_exchange(me.to_bits(), 0, SeqCst, SeqCst);
    }

    /// Waits for the lock as the writer. With `anew` the data may be half-written, because the caller overwrites them.
    pub(super) fn write(&self, me: Peer, timeout: Duration, anew: bool) -> Result<(), Refused> {
        let mut wait = Wait::new(timeout);
        loop {
            if !self.has_live_writer()
                && self.writer.compare_exchange(0, me.to_bits(), SeqCst, SeqCst).is_ok()
            {
                break;
            }
            wait.step()?;
        }
        let outcome = self
            .await_readers(&mut wait)
            .and_then(|()| if anew { Ok(()) } else { self.require_consistent() });
        if outcome.is_err() {
            self.writer.store(0, SeqCst);
        }
        outcome
    }

    /// Releases the lock after a finished write, if this process has it.
    pub(super) fn end_write(&self, me: Peer) {
        if self.writer.load(SeqCst) == me.to_bits() {
            self.torn.store(0, SeqCst);
            self.generation.fetch_add(1, SeqCst);
            self.writer.store(0, SeqCst);
        }
    }

    /// Releases the lock in the middle of a write, if this process has it.
    pub(super) fn abandon_write(&self, me: Peer) {
        if self.writer.load(SeqCst) == me.to_bits() {
            self.torn.store(me.to_bits(), SeqCst);
            self.writer.store(0, SeqCst);
        }
    }

    /// Whether a live process holds the lock as the writer. A dead one loses it, and the data count as inconsistent.
    fn has_live_writer(&self) -> bool {
        let bits = self.writer.load(SeqCst);
        let Some(holder) = Peer::from_bits(bits) else { return false };
        if holder.is_alive() {
            return true;
        }
        // Recorded first, so that no process finds the lock free
        // and the data consistent. Only the first loss is recorded.
        let _ = self.torn.compare_exchange(0, bits, SeqCst, SeqCst);
        // Another process may have been faster.
        let _ = self.writer.compare_exchange(bits, 0, SeqCst, SeqCst);
        self.writer.load(SeqCst) != 0
    }

    fn require_consistent(&self) -> Result<(), Refused> {
        Peer::from_bits(self.torn.load(SeqCst)).map_or(Ok(()), |peer| Err(Refused::PeerDied(peer)))
    }

    /// Claims a reader's slot; slots of dead processes are free.
    fn claim_slot(&self, me: Peer) -> Option<usize> {
        let take = |from: u64, slot: &AtomicU64| {
            slot.compare_exchange(from, me.to_bits(), SeqCst, SeqCst).is_ok()
        };
        let free = self.readers.iter().position(|slot| take(0, slot));
        free.or_else(|| {
            self.readers.iter().position(|slot| {
                let bits = slot.load(SeqCst);
                Peer::from_bits(bits).is_none_or(|peer| !peer.is_alive()) && take(bits, slot)
            })
        })
    }

    fn await_readers(&self, wait: &mut Wait) -> Result<(), Refused> {
        for slot in &self.readers {
            while let Some(reader) = Peer::from_bits(slot.load(SeqCst)) {
                if reader.is_alive() {
                    wait.step()?;
                } else {
                    let _ = slot.compare_exchange(reader.to_bits(), 0, SeqCst, SeqCst);
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
        let slots: Vec<_> = (0..READERS).map(|_| lock.read(me, AT_ONCE).unwrap()).collect();
        assert_eq!(lock.read(me, AT_ONCE), Err(Refused::TimedOut), "every slot is in use");
        assert_eq!(lock.write(me, AT_ONCE, false), Err(Refused::TimedOut));
        slots.into_iter().for_each(|slot| lock.end_read(slot, me));
        lock.write(me, AT_ONCE, false).unwrap();
        assert_eq!(lock.read(me, AT_ONCE), Err(Refused::TimedOut));
        assert_eq!(lock.write(me, AT_ONCE, true), Err(Refused::TimedOut));
        lock.end_write(me);
        assert_eq!((lock.generation(), lock.read(me, AT_ONCE)), (1, Ok(0)));
    }

    #[test]
    fn a_process_releases_only_its_own_locks() {
        let (lock, me) = (lock(), Peer::current());
        let other = Peer::from_bits(me.to_bits() ^ 1).unwrap();
        let slot = lock.read(me, AT_ONCE).unwrap();
        lock.end_read(slot, other);
        assert_eq!(lock.write(me, AT_ONCE, false), Err(Refused::TimedOut), "the reader holds it");
        lock.end_read(slot, me);
        lock.write(me, AT_ONCE, false).unwrap();
        lock.end_write(other);
        lock.abandon_write(other);
        assert_eq!(lock.generation(), 0);
        assert_eq!(lock.read(me, AT_ONCE), Err(Refused::TimedOut), "the writer holds it");
        lock.end_write(me);
        assert!(lock.read(me, AT_ONCE).is_ok());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn dead_processes_lose_their_locks() {
        let (lock, me) = (lock(), Peer::current());
        // The same number with another start time: a process that has ended.
        let dead = Peer::from_bits(me.to_bits() ^ 1 << 22).unwrap();
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

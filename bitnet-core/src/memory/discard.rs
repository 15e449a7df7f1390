//! Giving the pages of memory that nobody uses back to the system, piece by piece, with a question between the pieces.

use std::time::Instant;

use super::MemoryHandle;
use super::system::Pages;

/// The bytes whose pages are given back at once: what comes between two looks at the clock.
const PIECE: usize = 2 << 20;

/// Blocks of more bytes may have a mapping of their own, which leaves memory as a whole when the block is dropped.
const WHOLE: usize = 32 << 20;

/// Whether the time has come.
pub(super) fn past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// Gives the pages of a part of a mapping back, piece by piece until the deadline; the bytes that left memory, and whether all
/// pieces are done.
///
/// # Safety
/// As [`Pages::discard`].
pub(super) unsafe fn discard(
    address: usize,
    bytes: usize,
    pages: &Pages,
    deadline: Option<Instant>,
) -> (usize, bool) {
    // SAFETY: the caller's promise is the one that is asked for.
    unsafe { discard_while(address, bytes, pages, &|| !past(deadline)) }
}

/// As [`discard`], as long as `more` says so, which is asked before each piece.
///
/// # Safety
/// As [`Pages::discard`].
pub(super) unsafe fn discard_while(
    address: usize,
    bytes: usize,
    pages: &Pages,
    more: &dyn Fn() -> bool,
) -> (usize, bool) {
    let mut gone = 0;
    let mut at = address;
    while at < address + bytes {
        if !more() {
            return (gone, false);
        }
        // Pieces end where huge pages do.
        let next = ((at / PIECE + 1) * PIECE).min(address + bytes);
        let before = pages.resident(at, next - at);
        // SAFETY: a part of what the caller's promise covers.
        if before != Some(0) && unsafe { pages.discard(at, next - at) } {
            let after = pages.resident(at, next - at);
            gone += before.unwrap_or(0).saturating_sub(after.unwrap_or(0));
        }
        at = next;
    }
    (gone, true)
}

/// Gives the pages of a block back, if dropping it could give back more at once than belongs between two looks at the clock; the
/// bytes that left memory, and whether the block can be dropped. Its bytes are of no use to anybody any more.
pub(super) fn empty_while(block: &mut MemoryHandle, more: &dyn Fn() -> bool) -> (usize, bool) {
    if block.size() <= WHOLE {
        return (0, true);
    }
    // SAFETY: the block is alive, so the state that it came from is.
    let core = unsafe { block.core().as_ref() };
    let (address, bytes) = (block.address(), block.size());
    // SAFETY: the range is the block's, which nobody else reads or writes while it is borrowed for writing.
    unsafe { discard_while(address, bytes, &core.pages, more) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::Device;
    use crate::memory::{HandClock, HybridMemoryPool, MemoryPoolConfig};

    #[cfg(target_os = "linux")]
    #[test]
    fn the_clock_is_looked_at_between_pieces() {
        let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).unwrap();
        let mut block = pool.allocate(WHOLE + PIECE, 64, &Device::Cpu).unwrap();
        block.bytes_mut().fill(7);
        let hand = HandClock::new();
        let clock = hand.clock();
        let second = Duration::from_secs(1);
        let more = || {
            hand.advance(second);
            clock.now() <= 5 * second
        };
        assert_eq!(empty_while(&mut block, &more), (5 * PIECE, false));
        assert!(block.bytes()[5 * PIECE..].iter().all(|&byte| byte == 7), "it is as it was");
        assert_eq!(empty_while(&mut block, &|| true), (WHOLE - 4 * PIECE, true));
        let mut small = pool.allocate(WHOLE, 64, &Device::Cpu).unwrap();
        assert_eq!(
            empty_while(&mut small, &|| false),
            (0, true),
            "it is kept for the next request"
        );
    }
}

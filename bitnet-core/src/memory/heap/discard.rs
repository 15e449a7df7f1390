//! Returning the pages of unused memory to the system in pieces, with a check between them.

use std::time::Instant;

use crate::os::pages::Pages;

/// The bytes whose pages are returned between two checks of the clock.
pub(super) const PIECE: usize = 2 << 20;

pub(in crate::memory) fn past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// Returns the pages of a part of a mapping to the system, piece by piece, as long as `more`, which is called before
/// each piece, returns true. Returns the resident bytes released,
/// as reported by the OS, and whether all pieces are done.
///
/// # Safety
/// As [`Pages::discard`].
pub(super) unsafe fn discard_while(
    address: usize,
    bytes: usize,
    pages: &Pages,
    more: &dyn Fn() -> bool,
) -> (usize, bool) {
    let mut released = 0;
    let mut at = address;
    while at < address + bytes {
        if !more() {
            return (released, false);
        }
        // Pieces end where huge pages do.
        let next = ((at / PIECE + 1) * PIECE).min(address + bytes);
        let before = pages.resident(at, next - at);
        // SAFETY: the caller guarantees it for the whole range.
        if before != Some(0) && unsafe { pages.discard(at, next - at) } {
            let after = pages.resident(at, next - at);
            released += before.unwrap_or(0).saturating_sub(after.unwrap_or(0));
        }
        at = next;
    }
    (released, true)
}

//! How a pass takes keys and values: alone or in pairs, with what follows them prefetched.

use crate::isa::{Isa, LANES};
use crate::ops::dot::Stored;

/// Blocks of keys, and columns of values, that are taken together.
pub(super) const fn together<I: Isa>() -> usize {
    if I::PAIRS { 2 } else { 1 }
}

/// Where to prefetch: the next block, or this one if there is none.
/// An address outside all pages costs a page walk a line.
#[inline(always)]
pub(super) fn ahead<T>(next: &[T], this: &[T]) -> *const T {
    if next.is_empty() { this.as_ptr() } else { next.as_ptr() }
}

/// Runs of sixteen numbers in a cache line.
pub(super) const fn per_line<S: Stored>() -> usize {
    64 / (LANES * size_of::<S::Raw>())
}

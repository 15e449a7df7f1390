//! Ranges in pieces, as kernels take rows, tokens and blocks.

use std::ops::Range;

/// `range` in pieces of `len` numbers, of which the last one may have fewer.
#[inline(always)]
pub(super) fn pieces(range: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(len).map(move |start| start..(start + len).min(end))
}

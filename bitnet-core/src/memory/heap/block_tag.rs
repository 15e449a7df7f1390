//! The description of a block in 64 bits, so that a handle passes in two registers.
//!
//! ```text
//! bits    small block                      large block
//! 0       0                                1
//! 1       its end takes the slow path      the same
//! 2..5    purpose                          the same
//! 5..18   number of the pool               the same
//! 18..22  alignment requested, log2 - 6    the same
//! 22..    class, 6 bits                    0, granules in 14 bits, size in 27
//! 28..    lines skipped, 15 bits           or 1, size in 41 bits: the granules are those of the size
//! 44..    size, 20 bits
//! ```

use super::Purpose;
use super::size_class::{LINE, block_bytes};
use crate::os::pages::GRANULE;

/// Numbers that pools can have.
pub(super) const POOLS: usize = 1 << 13;

/// Requests of this many bytes and more are refused.
pub(super) const SIZE_LIMIT: u64 = 1 << 41;

const LARGE: u64 = 1;
const SLOW_END: u64 = 1 << 1;
const PURPOSE: u32 = 2;
const INDEX: u32 = 5;
const ALIGN: u32 = 18;
const KEY_MASK: u32 = (1 << ALIGN) - 1;
const CLASS: u32 = 22;
const SKIP: u32 = 28;
const SMALL_SIZE: u32 = 44;
const WIDE: u64 = 1 << 22;
const GRANULES: u32 = 23;
const LARGE_SIZE: u32 = 37;
const WIDE_SIZE: u32 = 23;
/// The granules of the largest block that is not wide; it is written as 0.
const MOST_GRANULES: usize = 1 << (LARGE_SIZE - GRANULES);

/// Pool and purpose, as in the lowest bits of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::memory) struct Key(pub(super) u32);

impl Key {
    /// The bits of the purpose.
    pub(super) const PURPOSE_MASK: u32 = (1 << INDEX) - (1 << PURPOSE);
    const INDEX_MASK: u32 = (1 << ALIGN) - (1 << INDEX);

    /// `index` is below [`POOLS`].
    pub(super) fn new(index: usize, purpose: Purpose) -> Self {
        Self((index as u32) << INDEX | (purpose.index() as u32) << PURPOSE)
    }

    #[inline(always)]
    pub(super) fn index(self) -> usize {
        ((self.0 & Self::INDEX_MASK) >> INDEX) as usize
    }

    pub(in crate::memory) fn purpose(self) -> Purpose {
        Purpose::ALL[((self.0 & Self::PURPOSE_MASK) >> PURPOSE) as usize % Purpose::ALL.len()]
    }

    /// Whether both are of one pool.
    #[inline(always)]
    pub(super) fn same_pool(self, other: Self) -> bool {
        (self.0 ^ other.0) & Self::INDEX_MASK == 0
    }
}

/// The description of a block besides its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag(u64);

impl Tag {
    /// A small block of `size` bytes that begins where its class does, aligned to a line.
    #[inline(always)]
    pub(super) fn of_line(key: Key, class: usize, size: usize) -> Self {
        Self(u64::from(key.0) | (class as u64) << CLASS | (size as u64) << SMALL_SIZE)
    }

    /// A small block: `size` and `skip`, the bytes left free for `align`, are together below 1 MiB.
    pub(super) fn small(key: Key, class: usize, size: usize, align: usize, skip: usize) -> Self {
        let Self(line) = Self::of_line(key, class, size);
        // Blocks of 0 bytes do not change counters of bytes.
        let slow = if size == 0 { SLOW_END } else { 0 };
        Self(line | slow | align_bits(align) | ((skip / LINE) as u64) << SKIP)
    }

    /// A block of whole granules; `size` is below [`SIZE_LIMIT`].
    /// Above 64 MiB, `granules` is exactly what `size` needs.
    #[inline(always)]
    pub(super) fn large(key: Key, size: usize, align: usize, granules: usize) -> Self {
        let line = u64::from(key.0) | LARGE | align_bits(align);
        let bits = if granules > MOST_GRANULES {
            WIDE | (size as u64) << WIDE_SIZE
        } else {
            ((granules % MOST_GRANULES) as u64) << GRANULES | (size as u64) << LARGE_SIZE
        };
        Self(line | bits)
    }

    /// The same block, whose end takes the slow path.
    pub(super) fn with_slow_end(self) -> Self {
        Self(self.0 | SLOW_END)
    }

    pub(super) fn has_slow_end(self) -> bool {
        self.0 & SLOW_END != 0
    }

    #[inline(always)]
    pub(super) fn is_large(self) -> bool {
        self.0 & LARGE != 0
    }

    /// Equal to the [`Key`] if the block is small and its end may take the fast path.
    #[inline(always)]
    pub(super) fn small_key(self) -> u32 {
        self.0 as u32 & KEY_MASK
    }

    /// As [`Tag::small_key`], if the block is large.
    #[inline(always)]
    pub(super) fn large_key(self) -> u32 {
        self.small_key() ^ LARGE as u32
    }

    #[inline(always)]
    pub(super) fn key(self) -> Key {
        Key(self.0 as u32 & (Key::INDEX_MASK | Key::PURPOSE_MASK))
    }

    /// Bytes requested.
    #[inline(always)]
    pub(super) fn size(self) -> usize {
        let shift = if self.0 & LARGE == 0 {
            SMALL_SIZE
        } else if self.0 & WIDE == 0 {
            LARGE_SIZE
        } else {
            WIDE_SIZE
        };
        (self.0 >> shift) as usize
    }

    /// Bytes requested of a small block.
    #[inline(always)]
    pub(super) fn small_size(self) -> usize {
        (self.0 >> SMALL_SIZE) as usize
    }

    /// The alignment requested, at least a line.
    pub(super) fn align(self) -> usize {
        LINE << (self.0 >> ALIGN & 0xf)
    }

    /// The class of a small block.
    #[inline(always)]
    pub(super) fn class(self) -> usize {
        (self.0 >> CLASS & 0x3f) as usize
    }

    /// Where the block of a small allocation at `address` begins.
    #[inline(always)]
    pub(super) fn block_address(self, address: usize) -> usize {
        address - (self.0 >> SKIP & 0x7fff) as usize * LINE
    }

    /// The granules of a large block.
    #[inline(always)]
    pub(super) fn granules(self) -> usize {
        if self.0 & WIDE != 0 {
            return self.size().div_ceil(GRANULE);
        }
        let granules = (self.0 >> GRANULES) as usize % MOST_GRANULES;
        if granules == 0 { MOST_GRANULES } else { granules }
    }

    pub(super) fn occupied(self) -> usize {
        if self.is_large() { self.granules() * GRANULE } else { block_bytes(self.class()) }
    }
}

/// `align` is a power of two of a line to 2 MiB.
#[inline(always)]
fn align_bits(align: usize) -> u64 {
    u64::from(align.trailing_zeros() - LINE.trailing_zeros()) << ALIGN
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::heap::size_class::{SMALL_LIMIT, class_of};

    proptest! {
        #[test]
        fn small_tags_round_trip(
            index in 1..POOLS, purpose in 0..Purpose::ALL.len(), size in 0..SMALL_LIMIT / 2,
            align_log in 6u32..20, lines in 0usize..8192,
        ) {
            let (align, purpose) = (1usize << align_log, Purpose::ALL[purpose]);
            let skip = lines * LINE % align;
            let class = class_of((size + skip).min(SMALL_LIMIT - 1));
            let key = Key::new(index, purpose);
            let tag = Tag::small(key, class, size, align, skip);
            prop_assert!(!tag.is_large());
            prop_assert_eq!((tag.size(), tag.small_size()), (size, size));
            prop_assert_eq!((tag.align(), tag.class()), (align, class));
            prop_assert_eq!(tag.block_address(1 << 30), (1 << 30) - skip);
            prop_assert_eq!((tag.key(), key.index(), key.purpose()), (key, index, purpose));
            prop_assert_eq!(tag.has_slow_end(), size == 0);
            prop_assert_eq!(tag.small_key() == key.0, size > 0);
            prop_assert!(tag.large_key() != key.0);
            prop_assert!(tag.with_slow_end().small_key() != key.0);
            prop_assert_eq!(tag.occupied(), block_bytes(class));
        }

        #[test]
        fn large_tags_round_trip(
            index in 1..POOLS, size in 0..SIZE_LIMIT as usize, shift in 0u32..32, more in 0usize..4000,
            align_log in 6u32..22,
        ) {
            let (size, align) = (size >> shift, 1usize << align_log);
            let fitting = size.max(1).div_ceil(GRANULE);
            let granules = if fitting < MOST_GRANULES {
                (fitting + more).min(MOST_GRANULES)
            } else {
                fitting
            };
            let key = Key::new(index, Purpose::KvCache);
            let tag = Tag::large(key, size, align, granules);
            prop_assert!(tag.is_large());
            prop_assert_eq!((tag.size(), tag.granules(), tag.align()), (size, granules, align));
            prop_assert_eq!((tag.key(), tag.large_key()), (key, key.0));
            prop_assert!(tag.small_key() != key.0 && tag.with_slow_end().large_key() != key.0);
            prop_assert_eq!(tag.occupied(), granules * GRANULE);
        }
    }
}

//! The owning handle of a block.

use std::mem::ManuallyDrop;
use std::ptr::{NonNull, with_exposed_provenance_mut};

use super::Purpose;
use super::block_tag::{Key, Tag};
use super::discard::discard_while;
use super::fast_path;
use super::size_class::SMALL_LIMIT;
use super::slow_path::Block;
use super::state::{PoolInner, pool_of};

/// Blocks of more bytes may have a mapping of their own, which is unmapped at once when the block is dropped.
const WHOLE: usize = 32 << 20;

/// A block of a pool, owned: it can't be duplicated, so it can't be freed twice. Dropping it frees it.
#[derive(Debug)]
pub struct MemoryHandle {
    start: NonNull<u8>,
    tag: Tag,
}

// SAFETY: a handle owns its bytes, and any thread may free them.
unsafe impl Send for MemoryHandle {}
// SAFETY: shared access yields `&[u8]` only; writing requires `&mut MemoryHandle`.
unsafe impl Sync for MemoryHandle {}

impl MemoryHandle {
    /// Takes a block aligned to a line from the fast path; `None` if the slow path has to allocate. `fast_below` is
    /// that of [`PoolInner::fast_below`].
    #[inline(always)]
    pub(in crate::memory) fn take(
        inner: &PoolInner,
        key: Key,
        fast_below: usize,
        size: usize,
    ) -> Option<Self> {
        // 0 bytes wrap around, to the slow path.
        let (address, tag) = if size.wrapping_sub(1) < fast_below - 1 {
            fast_path::allocate_small(key, size)?
        } else if size >= SMALL_LIMIT && fast_below >= SMALL_LIMIT {
            fast_path::allocate_large(inner, key, size)?
        } else {
            return None;
        };
        // SAFETY: the block was free, holds `size` bytes, and was counted.
        Some(unsafe { Self::new(address, tag) })
    }

    /// # Safety
    /// The pool that `tag` names has just allocated and counted the block that `tag` describes.
    #[inline(always)]
    unsafe fn new(address: usize, tag: Tag) -> Self {
        let start = with_exposed_provenance_mut(address);
        // SAFETY: blocks are in mappings, which are never at address 0.
        let start = unsafe { NonNull::new_unchecked(start) };
        Self { start, tag }
    }

    /// # Safety
    /// As [`MemoryHandle::new`].
    pub(in crate::memory) unsafe fn of_block(block: Block) -> Self {
        // SAFETY: the caller guarantees the same.
        unsafe { Self::new(block.address, block.tag) }
    }

    /// The bytes requested.
    #[inline]
    pub fn size(&self) -> usize {
        self.tag.size()
    }

    /// The alignment requested, at least a cache line.
    pub fn align(&self) -> usize {
        self.tag.align()
    }

    /// The bytes that the block occupies in its pool.
    pub fn occupied(&self) -> usize {
        self.tag.occupied()
    }

    /// What the block is used for.
    pub fn purpose(&self) -> Purpose {
        self.tag.key().purpose()
    }

    /// The bytes. They are initialised: zero, or the content of an earlier block.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the block has `size` bytes, mapped and so initialised, that are this handle's until it is dropped.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size()) }
    }

    /// The bytes, for writing.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size()) }
    }

    /// Whether the pool of `key` made it.
    #[inline(always)]
    pub(in crate::memory) fn is_of(&self, key: Key) -> bool {
        self.tag.key().same_pool(key)
    }

    /// Makes its end take the slow path, which reports it to the observer.
    pub(in crate::memory) fn report_end(&mut self) {
        self.tag = self.tag.with_slow_end();
    }

    /// Frees the block past the bins of this thread.
    pub(in crate::memory) fn return_to_slab(self) {
        let handle = ManuallyDrop::new(self);
        let (address, tag) = (handle.address(), handle.tag);
        // SAFETY: the block that this handle owns is alive, so its pool is.
        let inner = unsafe { pool_of(tag) };
        // SAFETY: the block came from this pool, and its handle is consumed.
        unsafe { PoolInner::free_past_caches(inner, address, tag) };
    }

    pub(in crate::memory) fn is_draining(&self) -> bool {
        // SAFETY: the block that this handle owns is alive, so its pool is.
        let inner = unsafe { pool_of(self.tag) };
        // SAFETY: as above.
        unsafe { inner.as_ref() }.is_draining(self.address(), self.tag)
    }

    /// Discards the pages of the block, if dropping it could unmap more at once than fits between two checks of the
    /// clock: `more` is called before each piece. Returns the resident bytes released, as reported by the OS, and
    /// whether the block can be dropped. The content is lost.
    pub(in crate::memory) fn discard_while(&mut self, more: &dyn Fn() -> bool) -> (usize, bool) {
        if self.size() <= WHOLE {
            return (0, true);
        }
        // SAFETY: the block is alive, so its pool is.
        let inner = unsafe { pool_of(self.tag) };
        // SAFETY: as above.
        let pages = unsafe { &inner.as_ref().pages };
        // SAFETY: the range is the block's, which `&mut self` borrows exclusively.
        unsafe { discard_while(self.address(), self.size(), pages, more) }
    }

    pub(in crate::memory) fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }
}

impl Drop for MemoryHandle {
    #[inline]
    fn drop(&mut self) {
        let (address, tag) = (self.address(), self.tag);
        // SAFETY: the block came from the pool that its tag names, and the handle is being dropped.
        if !unsafe { fast_path::free(address, tag) } {
            // SAFETY: as above.
            unsafe { PoolInner::free(address, tag) };
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::Device;
    use crate::memory::heap::discard::PIECE;
    use crate::memory::{HybridMemoryPool, ManualClock, MemoryPoolConfig};

    #[test]
    fn discarding_a_block_checks_the_clock_between_pieces() {
        let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded()).unwrap();
        let mut block = pool.allocate(WHOLE + PIECE, 64, &Device::Cpu).unwrap();
        block.bytes_mut().fill(7);
        let manual = ManualClock::new();
        let clock = manual.clock();
        let second = Duration::from_secs(1);
        let more = || {
            manual.advance(second);
            clock.now() <= 5 * second
        };
        assert_eq!(block.discard_while(&more), (5 * PIECE, false));
        assert!(block.bytes()[5 * PIECE..].iter().all(|&byte| byte == 7), "the rest is intact");
        assert_eq!(block.discard_while(&|| true), (WHOLE - 4 * PIECE, true));
        let mut small = pool.allocate(WHOLE, 64, &Device::Cpu).unwrap();
        assert_eq!(small.discard_while(&|| false), (0, true), "cached for the next request");
    }
}

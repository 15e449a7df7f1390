//! What a user of a pool holds: a block that is theirs alone.

use std::mem::ManuallyDrop;
use std::ptr::{NonNull, with_exposed_provenance_mut};

use super::Purpose;
use super::core::{Block, Core, current, give_recent};
use super::directory;
use super::tag::{Key, Tag};

/// A block of a pool, owned: it can't be duplicated, so it can't be freed twice. Dropping it gives it back.
#[derive(Debug)]
pub struct MemoryHandle {
    start: NonNull<u8>,
    tag: Tag,
}

// SAFETY: a handle owns its bytes alone, and `Core` takes blocks back from any thread.
unsafe impl Send for MemoryHandle {}
// SAFETY: shared access hands out `&[u8]` only; writing needs `&mut MemoryHandle`.
unsafe impl Sync for MemoryHandle {}

impl MemoryHandle {
    /// # Safety
    /// The pool that `tag` names has just handed out the block that it describes, and counted it.
    #[inline(always)]
    pub(super) unsafe fn new(address: usize, tag: Tag) -> Self {
        let start = with_exposed_provenance_mut(address);
        // SAFETY: blocks lie in mappings, which are never at address 0.
        let start = unsafe { NonNull::new_unchecked(start) };
        Self { start, tag }
    }

    /// # Safety
    /// As [`MemoryHandle::new`].
    pub(super) unsafe fn of_block(block: Block) -> Self {
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { Self::new(block.address, block.tag) }
    }

    /// The bytes asked for.
    #[inline]
    pub fn size(&self) -> usize {
        self.tag.size()
    }

    /// The alignment asked for, at least a cache line.
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

    /// The bytes. They are initialised: zero, or what an earlier user of the pool left.
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
    pub(super) fn is_of(&self, key: Key) -> bool {
        self.tag.key().same_pool(key)
    }

    /// The state of the pool that made it, which is alive as long as this block is.
    pub(super) fn core(&self) -> NonNull<Core> {
        // SAFETY: the block that this handle owns is alive, so its pool is.
        unsafe { directory::state_of(self.tag.key().index()) }
    }

    pub(super) fn tag(&self) -> Tag {
        self.tag
    }

    /// The end of this block is to be told to the tracker.
    pub(super) fn tell_of_end(&mut self) {
        self.tag = self.tag.with_slow_end();
    }

    /// Gives the block back to where it came from, past what threads keep for themselves.
    pub(super) fn return_to_slab(self) {
        let handle = ManuallyDrop::new(self);
        // SAFETY: the handle came from this state and is gone after this.
        unsafe { Core::free_past_caches(handle.core(), handle.address(), handle.tag) };
    }

    pub(super) fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }
}

impl Drop for MemoryHandle {
    #[inline]
    fn drop(&mut self) {
        let (address, tag) = (self.address(), self.tag);
        // SAFETY: nothing is attached while it is used.
        let cache = unsafe { current() };
        let state = cache.state();
        if tag.small_key() == state {
            let block = tag.block_address(address);
            if cache.put_counted(tag.class(), block, tag.small_size()) {
                return;
            }
        } else if tag.large_key() == state {
            // SAFETY: the handle is going, and its pool is that of the cache.
            if unsafe { give_recent(address, tag) } {
                return;
            }
        }
        // SAFETY: the handle came from the pool that its tag names, and is going.
        unsafe { Core::free(address, tag) };
    }
}

//! What a user of a pool holds: a block that is theirs alone.

use std::mem::ManuallyDrop;
use std::ptr::{NonNull, with_exposed_provenance_mut};

use super::Purpose;
use super::core::{Block, Core, occupied_by};
use super::size_class::LINE;

/// How a block is found again: its class, and what it is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    /// A size class, or [`Tag::LARGE`].
    pub(super) class: u8,
    pub(super) purpose: Purpose,
    /// The alignment asked for, as a power of two.
    pub(super) align_log: u8,
    pub(super) extent: Extent,
}

/// Of a small block: the cache lines skipped for its alignment. Of a large one: its granules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent(u32);

impl Extent {
    pub(super) const NONE: Self = Self(0);

    /// `bytes` are below 2 MiB and a multiple of a line.
    pub(super) fn skip(bytes: usize) -> Self {
        Self((bytes / LINE) as u32)
    }

    /// A block has fewer than 2^32 granules (16 TiB): no system maps more for a process.
    pub(super) fn granules(granules: usize) -> Self {
        Self(u32::try_from(granules).unwrap_or(u32::MAX))
    }

    pub(super) fn as_granules(self) -> usize {
        self.0 as usize
    }
}

impl Tag {
    /// The class of all large blocks.
    pub(super) const LARGE: u8 = u8::MAX;

    /// Where the block of a small allocation begins.
    #[inline(always)]
    pub(super) fn block_address(self, address: usize) -> usize {
        address - self.extent.0 as usize * LINE
    }
}

/// A block of a pool, owned: it can't be duplicated, so it can't be freed twice. Dropping it gives it back.
#[derive(Debug)]
pub struct MemoryHandle {
    start: NonNull<u8>,
    size: usize,
    core: NonNull<Core>,
    tag: Tag,
}

// SAFETY: a handle owns its bytes alone, and `Core` takes blocks back from any thread.
unsafe impl Send for MemoryHandle {}
// SAFETY: shared access hands out `&[u8]` only; writing needs `&mut MemoryHandle`.
unsafe impl Sync for MemoryHandle {}

impl MemoryHandle {
    /// # Safety
    /// `core` has just handed out the block, of which at least `size` bytes are the caller's, and counted it.
    #[inline(always)]
    pub(super) unsafe fn new(core: NonNull<Core>, address: usize, size: usize, tag: Tag) -> Self {
        let start = with_exposed_provenance_mut(address);
        // SAFETY: blocks lie in mappings, which are never at address 0.
        let start = unsafe { NonNull::new_unchecked(start) };
        Self { start, size, core, tag }
    }

    /// # Safety
    /// As [`MemoryHandle::new`].
    pub(super) unsafe fn of_block(core: NonNull<Core>, size: usize, block: Block) -> Self {
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { Self::new(core, block.address, size, block.tag) }
    }

    /// The bytes asked for.
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The alignment asked for, at least a cache line.
    pub fn align(&self) -> usize {
        1 << self.tag.align_log
    }

    /// The bytes that the block occupies in its pool.
    pub fn occupied(&self) -> usize {
        occupied_by(self.tag)
    }

    /// What the block is used for.
    pub fn purpose(&self) -> Purpose {
        self.tag.purpose
    }

    /// The bytes. They are initialised: zero, or what an earlier user of the pool left.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the block has `size` bytes, mapped and so initialised, that are this handle's until it is dropped.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }

    /// The bytes, for writing.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes this the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }

    pub(super) fn core(&self) -> NonNull<Core> {
        self.core
    }

    pub(super) fn tag(&self) -> Tag {
        self.tag
    }

    /// Gives the block back to where it came from, past what threads keep for themselves.
    pub(super) fn return_to_slab(self) {
        let handle = ManuallyDrop::new(self);
        // SAFETY: the handle came from this state and is gone after this.
        unsafe { Core::free_past_caches(handle.core, handle.address(), handle.size, handle.tag) };
    }

    pub(super) fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }
}

impl Drop for MemoryHandle {
    #[inline]
    fn drop(&mut self) {
        let (address, tag) = (self.address(), self.tag);
        // SAFETY: the block that this handle owns is alive, so its state is.
        let core = unsafe { self.core.as_ref() };
        if let Some(cache) = core.ready_cache() {
            if tag.class == Tag::LARGE {
                if core.keep_recent(cache, address, self.size, tag) {
                    return;
                }
            } else if cache.put(tag.class as usize, tag.block_address(address)) {
                if cache.count_bytes_back(self.size, tag.purpose) {
                    core.report(cache);
                }
                return cache.count_deallocation();
            }
        }
        // SAFETY: the handle came from this state and is going.
        unsafe { Core::free(self.core, address, self.size, tag) };
    }
}

//! Keys and values of a sequence, in pages that sequences can share, and the state of recurrent layers beside them.
//!
//! ```text
//! page   64 positions of every layer and key-value head, in one block of memory
//! head   [layer][head] of a page: its keys, then its values
//! block  16 positions; width = head_dim rounded up to a multiple of 16
//! K      [block][component < width][position % 16]
//! V      [block][component / 16][position % 16][component % 16]
//! scale  [layer][head]: 64 of the keys, then 64 of the values, with int8 alone: value = integer * scale
//! tile   256 positions, four pages: attention sums over a tile before it adds tiles up
//! ```
//!
//! Sixteen neighbours in memory are sixteen scores, or sixteen components of one value, so no kernel adds up lanes.

mod page;
mod recurrent;
mod shape;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use self::page::{Memory, Page};
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::DeviceBytes;
use crate::{Error, Result};

pub use page::KvPages;
pub use recurrent::{
    LayerChunk, LayerState, RecurrentShape, RecurrentState, STATE_CHUNK, StateNumbers, StateSpan,
    chunk_start,
};
pub use shape::{KV_BLOCK, KV_PAGE, KV_TILE, KvShape, KvType};

/// Keys (after RoPE) and values of one sequence in every layer.
///
/// Memory is allocated page by page as positions are [reserved](KvCache::reserve). A [fork](KvCache::fork) shares pages
/// with its origin; a shared page is copied before it is written.
#[derive(Debug)]
pub struct KvCache {
    shape: KvShape,
    capacity: usize,
    len: usize,
    pages: Vec<Arc<Page>>,
    memory: Memory,
    recurrent: Option<RecurrentState>,
}

/// Keys and values of one head in one page.
#[derive(Debug, Clone, Copy, Default)]
pub struct KvHead<'a> {
    /// Keys, in the cache's element type.
    pub k: &'a [u8],
    /// Values, in the cache's element type.
    pub v: &'a [u8],
    /// Scales of the keys, `[64]`; empty unless int8.
    pub k_scales: &'a [f32],
    /// Scales of the values, `[64]`; empty unless int8.
    pub v_scales: &'a [f32],
}

/// Keys and values of one head in one page, for writing.
#[derive(Debug)]
pub struct KvHeadMut<'a> {
    /// Keys, in the cache's element type.
    pub k: &'a mut [u8],
    /// Values, in the cache's element type.
    pub v: &'a mut [u8],
    /// Scales of the keys, `[64]`; empty unless int8.
    pub k_scales: &'a mut [f32],
    /// Scales of the values, `[64]`; empty unless int8.
    pub v_scales: &'a mut [f32],
}

/// Tokens of one sequence in one layer: they stand at `first..first + tokens` of its cache.
#[derive(Debug, Clone, Copy)]
pub struct KvSpan<'a> {
    /// The sequence's keys and values; those of `tokens` are in it.
    pub cache: &'a KvCache,
    /// The layer.
    pub layer: usize,
    /// Position of the first token.
    pub first: usize,
    /// Number of tokens.
    pub tokens: usize,
}

impl KvSpan<'_> {
    /// Returns the bytes of keys and values that its tokens see, each counted once.
    pub fn bytes(&self) -> usize {
        let positions = self.first.saturating_add(self.tokens);
        positions.saturating_mul(self.cache.layer_bytes_per_position())
    }

    /// Returns [`KvSpan::bytes`] where tokens see at most so many positions, their own included.
    pub fn bytes_within(&self, window: Option<usize>) -> usize {
        let hidden = window.map_or(0, |window| (self.first + 1).saturating_sub(window));
        self.bytes().saturating_sub(hidden * self.cache.layer_bytes_per_position())
    }
}

impl KvCache {
    /// Returns an empty cache for at most `capacity` positions. Allocates nothing in `pool` yet.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn new(shape: KvShape, capacity: usize, pool: &HybridMemoryPool) -> Result<Self> {
        Self::in_memory(shape, capacity, Memory::Pool(pool.clone()))
    }

    /// Returns an empty cache for at most `capacity` positions whose pages a device makes and holds. [`KvCache::head`]
    /// does not reach them: the device's back end finds them with [`KvCache::device_page`].
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn on_device(shape: KvShape, capacity: usize, pages: Arc<dyn KvPages>) -> Result<Self> {
        Self::in_memory(shape, capacity, Memory::Device(pages))
    }

    fn in_memory(shape: KvShape, capacity: usize, memory: Memory) -> Result<Self> {
        let bytes = shape.page_bytes().and_then(|b| b.checked_mul(capacity.div_ceil(KV_PAGE)));
        if bytes.is_none_or(|bytes| isize::try_from(bytes).is_err()) {
            return Err(Error::SizeOverflow { what: "key-value cache" });
        }
        Ok(Self { shape, capacity, len: 0, pages: Vec::new(), memory, recurrent: None })
    }

    /// Gives an empty cache the state of recurrent layers, in `pool`.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] for sizes that no model has.
    pub fn with_recurrent_state(
        self,
        shape: RecurrentShape,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        Ok(Self { recurrent: Some(RecurrentState::new(shape, pool)?), ..self })
    }

    /// Returns the state of recurrent layers, if the model has such layers.
    pub fn recurrent_state(&self) -> Option<&RecurrentState> {
        self.recurrent.as_ref()
    }

    /// Returns the state of recurrent layers for writing.
    pub fn recurrent_state_mut(&mut self) -> Option<&mut RecurrentState> {
        self.recurrent.as_mut()
    }

    /// Returns how numbers are stored.
    pub fn kind(&self) -> KvType {
        self.shape.kind
    }

    /// Returns the number of layers.
    pub fn layers(&self) -> usize {
        self.shape.layers
    }

    /// Returns the number of key-value heads.
    pub fn kv_heads(&self) -> usize {
        self.shape.kv_heads
    }

    /// Returns the components of a head.
    pub fn head_dim(&self) -> usize {
        self.shape.head_dim
    }

    /// Returns the stored components of a head: `head_dim` rounded up to a multiple of 16.
    pub fn width(&self) -> usize {
        self.shape.width()
    }

    /// Returns the most positions that the cache may hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns the number of filled positions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether no position is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the positions for which there are pages, at most the capacity.
    pub fn reserved(&self) -> usize {
        (self.pages.len() * KV_PAGE).min(self.capacity)
    }

    /// Returns a number for each page that differs from those of all other live pages: caches that share a page have the
    /// same one.
    pub fn page_ids(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.pages.iter().map(|page| Arc::as_ptr(page).addr())
    }

    /// Returns the pages that [`reserve`](KvCache::reserve) of `tokens` positions allocates: those missing, and a copy
    /// of one that is shared.
    pub fn pages_to_reserve(&self, tokens: usize) -> usize {
        let Range { start, end } = self.pages_of_next(tokens);
        let existing = &self.pages[start..end.clamp(start, self.pages.len())];
        let shared = existing.iter().filter(|page| Arc::strong_count(page) > 1).count();
        end.saturating_sub(self.pages.len()) + shared
    }

    /// Returns the pages that hold the next `tokens` positions, existing and missing ones.
    fn pages_of_next(&self, tokens: usize) -> Range<usize> {
        let start = (self.len / KV_PAGE).min(self.pages.len());
        start..self.len.saturating_add(tokens).div_ceil(KV_PAGE)
    }

    /// Returns the bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.shape.page_bytes().unwrap_or(usize::MAX)
    }

    /// Returns the bytes of a position in one layer.
    pub fn layer_bytes_per_position(&self) -> usize {
        self.shape.kv_heads * self.shape.kind.bytes_per_position(self.width())
    }

    /// Returns the bytes of a position in all layers.
    pub fn bytes_per_position(&self) -> usize {
        self.shape.layers * self.layer_bytes_per_position()
    }

    /// Makes the next `tokens` positions writable: allocates missing pages and copies a page that is shared.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] beyond the capacity, [`Error::OutOfMemory`]. Filled positions are unchanged then.
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        let end = self.len.saturating_add(tokens);
        if end > self.capacity {
            return Err(Error::OutOfRange { op: "reserve", index: end - 1, len: self.capacity });
        }
        let Range { start: first, end: last } = self.pages_of_next(tokens);
        for page in self.pages.iter_mut().take(last).skip(first) {
            if Arc::get_mut(page).is_none() {
                *page = Arc::new(self.memory.copy(page)?);
            }
        }
        while self.pages.len() < last {
            self.pages.push(Arc::new(self.memory.page(&self.shape)?));
        }
        match &mut self.recurrent {
            Some(recurrent) => recurrent.reserve(self.len, tokens),
            None => Ok(()),
        }
    }

    /// Marks `tokens` more positions as filled.
    ///
    /// # Panics
    /// If they were not [reserved](KvCache::reserve).
    pub fn advance(&mut self, tokens: usize) {
        assert!(self.len + tokens <= self.reserved(), "positions must be reserved first");
        if let Some(recurrent) = &mut self.recurrent {
            recurrent.advance(self.len, tokens);
        }
        self.len += tokens;
    }

    /// Keeps the recurrent state at the present length, so that [`truncate`](KvCache::truncate) can return to it and to
    /// the position before it. The last four such lengths are kept; keys and values need no such care.
    pub fn checkpoint(&mut self) {
        if let Some(recurrent) = &mut self.recurrent {
            recurrent.checkpoint(self.len);
        }
    }

    /// Forgets everything from position `len` on and frees the pages behind it. Returns the positions that remain:
    /// `len`, or fewer where the recurrent state at `len` is not known any more. It is known for at least the last 16
    /// positions and at [checkpoints](KvCache::checkpoint).
    pub fn truncate(&mut self, len: usize) -> usize {
        self.len = self.len.min(len);
        if let Some(recurrent) = &mut self.recurrent {
            self.len = recurrent.truncate(self.len);
        }
        self.pages.truncate(self.len.div_ceil(KV_PAGE));
        self.len
    }

    /// Returns a cache with the first `len` positions of this one, or all if there are fewer, or fewer where
    /// [`truncate`](KvCache::truncate) says so. Both share their pages.
    #[must_use]
    pub fn fork(&self, len: usize) -> Self {
        let len = len.min(self.len);
        let pages = self.pages[..len.div_ceil(KV_PAGE)].to_vec();
        let recurrent = self.recurrent.as_ref().map(RecurrentState::fork);
        let mut fork = Self { len, pages, memory: self.memory.clone(), recurrent, ..*self };
        fork.truncate(len);
        fork
    }

    /// Returns one head of page `page`; `None` if there is no such page, layer or head, or the page is on a device.
    #[inline]
    pub fn head(&self, layer: usize, head: usize, page: usize) -> Option<KvHead<'_>> {
        let Page::Pool { numbers, scales } = &**self.pages.get(page)? else { return None };
        let (index, bytes) = (self.head_index(layer, head)?, self.shape.head_bytes());
        let (k, v) = numbers.get(index * 2 * bytes..)?.get(..2 * bytes)?.split_at(bytes);
        let Some(scales) = scales else {
            return Some(KvHead { k, v, ..KvHead::default() });
        };
        let scales = scales.get(index * 2 * KV_PAGE..)?.get(..2 * KV_PAGE)?;
        let (k_scales, v_scales) = scales.split_at(KV_PAGE);
        Some(KvHead { k, v, k_scales, v_scales })
    }

    /// Returns one head of page `page` for writing.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if there is no such page, layer or head, [`Error::NotWritable`] if the page is shared,
    /// [`Error::NotOnHost`] if it is on a device.
    #[inline]
    pub fn head_mut(&mut self, layer: usize, head: usize, page: usize) -> Result<KvHeadMut<'_>> {
        const OP: &str = "store";
        let missing = Error::OutOfRange { op: OP, index: page, len: self.pages.len() };
        let Some(index) = self.head_index(layer, head) else {
            return Err(Error::OutOfRange { op: OP, index: layer, len: self.shape.layers });
        };
        let bytes = self.shape.head_bytes();
        let Some(page) = self.pages.get_mut(page) else { return Err(missing) };
        let page = Arc::get_mut(page).ok_or(Error::NotWritable { op: OP })?;
        let Page::Pool { numbers, scales } = page else { return Err(Error::NotOnHost { op: OP }) };
        let numbers = &mut numbers[index * 2 * bytes..][..2 * bytes];
        let (k, v) = numbers.split_at_mut(bytes);
        let scales: &mut [f32] = match scales {
            Some(scales) => &mut scales[index * 2 * KV_PAGE..][..2 * KV_PAGE],
            None => &mut [],
        };
        let (k_scales, v_scales) = scales.split_at_mut(scales.len() / 2);
        Ok(KvHeadMut { k, v, k_scales, v_scales })
    }

    /// Returns page `page` of a cache on a device; `None` if there is no such page, or it is in memory of the host.
    pub fn device_page(&self, page: usize) -> Option<&dyn DeviceBytes> {
        match &**self.pages.get(page)? {
            Page::Pool { .. } => None,
            Page::Device(page) => Some(&**page),
        }
    }

    /// Returns page `page` of a cache on a device for writing.
    ///
    /// # Errors
    /// [`Error::NotWritable`] if the page is shared.
    pub fn device_page_mut(&mut self, page: usize) -> Result<Option<&mut dyn DeviceBytes>> {
        let Some(page) = self.pages.get_mut(page) else { return Ok(None) };
        match Arc::get_mut(page).ok_or(Error::NotWritable { op: "store" })? {
            Page::Pool { .. } => Ok(None),
            Page::Device(page) => Ok(Some(&mut **page)),
        }
    }

    /// Returns the type and the sizes of its pages.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    #[inline]
    fn head_index(&self, layer: usize, head: usize) -> Option<usize> {
        let inside = layer < self.shape.layers && head < self.shape.kv_heads;
        inside.then(|| layer * self.shape.kv_heads + head)
    }

    /// Returns the index of a component of a key in [`KvHead::k`] of its page, in elements.
    #[inline]
    pub fn k_index(&self, position: usize, component: usize) -> usize {
        let slot = position % KV_PAGE;
        slot / KV_BLOCK * KV_BLOCK * self.width() + component * KV_BLOCK + slot % KV_BLOCK
    }

    /// Returns the index of a component of a value in [`KvHead::v`] of its page, in elements.
    #[inline]
    pub fn v_index(&self, position: usize, component: usize) -> usize {
        let slot = position % KV_PAGE;
        slot / KV_BLOCK * KV_BLOCK * self.width()
            + (component / KV_BLOCK * KV_BLOCK + slot % KV_BLOCK) * KV_BLOCK
            + component % KV_BLOCK
    }
}

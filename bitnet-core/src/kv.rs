//! Keys and values of a sequence, in pages that sequences can share.
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

use std::sync::Arc;

use crate::memory::{HybridMemoryPool, PoolBuffer};
use crate::{Error, Result};

/// How a cache stores numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvType {
    /// As they are.
    F32,
    /// Rounded to half precision, ties to even; finite numbers beyond ±65504 to ±65504.
    #[default]
    F16,
    /// 8-bit integers with one f32 scale for each position and head, of keys and of values:
    /// `scale = max|x| / 127`, `q = round_half_even(x * (127 / max|x|))`. The scale is NaN where a component is not finite.
    Int8,
}

impl KvType {
    /// Bytes of an element.
    pub fn element_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Int8 => 1,
        }
    }

    /// Bytes that a position of one head takes in keys and values together, without padding.
    pub fn bytes_per_position(self, head_dim: usize) -> usize {
        let scale = if self == Self::Int8 { size_of::<f32>() } else { 0 };
        2 * (head_dim * self.element_bytes() + scale)
    }
}

impl std::fmt::Display for KvType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        })
    }
}

/// Positions of a block.
pub const KV_BLOCK: usize = 16;

/// Positions of a page.
pub const KV_PAGE: usize = 64;

/// Positions of a tile, the unit of attention's arithmetic. Pages do not change results.
pub const KV_TILE: usize = 256;

/// Keys (after RoPE) and values of one sequence in every layer.
///
/// Memory is allocated page by page as positions are [reserved](KvCache::reserve). A [fork](KvCache::fork) shares pages with
/// its origin; a shared page is copied before it is written.
#[derive(Debug)]
pub struct KvCache {
    shape: Shape,
    capacity: usize,
    len: usize,
    pages: Vec<Arc<Page>>,
    pool: HybridMemoryPool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    kind: KvType,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Shape {
    fn width(&self) -> usize {
        self.head_dim.next_multiple_of(KV_BLOCK)
    }

    /// Bytes of the keys of a head in one page, and of its values.
    fn head_bytes(&self) -> usize {
        KV_PAGE * self.width() * self.kind.element_bytes()
    }

    /// Number of (layer, head) pairs.
    fn heads(&self) -> usize {
        self.layers * self.kv_heads
    }

    fn scales(&self) -> usize {
        if self.kind == KvType::Int8 { self.heads() * 2 * KV_PAGE } else { 0 }
    }

    /// Bytes of a page, `None` if they overflow.
    fn page_bytes(&self) -> Option<usize> {
        let width = self.head_dim.checked_next_multiple_of(KV_BLOCK)?;
        let heads = self.layers.checked_mul(self.kv_heads)?;
        let scale = if self.kind == KvType::Int8 { size_of::<f32>() } else { 0 };
        let position = width.checked_mul(self.kind.element_bytes())?.checked_add(scale)?;
        heads.checked_mul(2 * KV_PAGE)?.checked_mul(position)
    }
}

/// 64 positions of every layer and head.
#[derive(Debug)]
struct Page {
    numbers: PoolBuffer<u8>,
    scales: Option<PoolBuffer<f32>>,
}

impl Page {
    /// A page to be written before it is read.
    fn new(shape: &Shape, pool: &HybridMemoryPool) -> Result<Self> {
        let numbers = PoolBuffer::scratch(shape.heads() * 2 * shape.head_bytes(), pool)?;
        let scales = match shape.scales() {
            0 => None,
            len => Some(PoolBuffer::scratch(len, pool)?),
        };
        Ok(Self { numbers, scales })
    }

    fn copy_of(page: &Self, pool: &HybridMemoryPool) -> Result<Self> {
        let scales = page.scales.as_ref().map(|scales| PoolBuffer::from_slice(scales, pool));
        let numbers = PoolBuffer::from_slice(&page.numbers, pool)?;
        Ok(Self { numbers, scales: scales.transpose()? })
    }
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
}

impl KvCache {
    /// Returns an empty cache for at most `capacity` positions of `layers` layers with `kv_heads` heads of `head_dim`
    /// components. Allocates nothing in `pool` yet.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn new(
        kind: KvType,
        layers: usize,
        capacity: usize,
        kv_heads: usize,
        head_dim: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let shape = Shape { kind, layers, kv_heads, head_dim };
        let bytes = shape.page_bytes().and_then(|b| b.checked_mul(capacity.div_ceil(KV_PAGE)));
        if bytes.is_none_or(|bytes| isize::try_from(bytes).is_err()) {
            return Err(Error::SizeOverflow { what: "key-value cache" });
        }
        Ok(Self { shape, capacity, len: 0, pages: Vec::new(), pool: pool.clone() })
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
        let first = (self.len / KV_PAGE).min(self.pages.len());
        let last = end.div_ceil(KV_PAGE);
        for page in self.pages.iter_mut().take(last).skip(first) {
            if Arc::get_mut(page).is_none() {
                *page = Arc::new(Page::copy_of(page, &self.pool)?);
            }
        }
        while self.pages.len() < last {
            self.pages.push(Arc::new(Page::new(&self.shape, &self.pool)?));
        }
        Ok(())
    }

    /// Marks `tokens` more positions as filled.
    ///
    /// # Panics
    /// If they were not [reserved](KvCache::reserve).
    pub fn advance(&mut self, tokens: usize) {
        assert!(self.len + tokens <= self.reserved(), "positions must be reserved first");
        self.len += tokens;
    }

    /// Forgets everything from position `len` on and frees the pages behind it.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.pages.truncate(self.len.div_ceil(KV_PAGE));
    }

    /// Returns a cache with the first `len` positions of this one, or all if there are fewer. Both share their pages.
    #[must_use]
    pub fn fork(&self, len: usize) -> Self {
        let len = len.min(self.len);
        let pages = self.pages[..len.div_ceil(KV_PAGE)].to_vec();
        Self { len, pages, pool: self.pool.clone(), ..*self }
    }

    /// Returns one head of page `page`; `None` if there is no such page, layer or head.
    #[inline]
    pub fn head(&self, layer: usize, head: usize, page: usize) -> Option<KvHead<'_>> {
        let page = self.pages.get(page)?;
        let (index, bytes) = (self.head_index(layer, head)?, self.shape.head_bytes());
        let (k, v) = page.numbers.get(index * 2 * bytes..)?.get(..2 * bytes)?.split_at(bytes);
        let Some(scales) = &page.scales else {
            return Some(KvHead { k, v, ..KvHead::default() });
        };
        let scales = scales.get(index * 2 * KV_PAGE..)?.get(..2 * KV_PAGE)?;
        let (k_scales, v_scales) = scales.split_at(KV_PAGE);
        Some(KvHead { k, v, k_scales, v_scales })
    }

    /// Returns one head of page `page` for writing.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if there is no such page, layer or head, [`Error::NotWritable`] if the page is shared.
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
        let numbers = &mut page.numbers[index * 2 * bytes..][..2 * bytes];
        let (k, v) = numbers.split_at_mut(bytes);
        let scales: &mut [f32] = match &mut page.scales {
            Some(scales) => &mut scales[index * 2 * KV_PAGE..][..2 * KV_PAGE],
            None => &mut [],
        };
        let (k_scales, v_scales) = scales.split_at_mut(scales.len() / 2);
        Ok(KvHeadMut { k, v, k_scales, v_scales })
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn filled(kind: KvType, capacity: usize, len: usize) -> KvCache {
        let pool = HybridMemoryPool::new().unwrap();
        let mut cache = KvCache::new(kind, 3, capacity, 2, 20, &pool).unwrap();
        cache.reserve(len).unwrap();
        cache.advance(len);
        cache
    }

    #[test]
    fn components_of_a_head_have_distinct_places_inside_it() {
        let cache = filled(KvType::Int8, 300, 300);
        let (mut k, mut v) = (BTreeSet::new(), BTreeSet::new());
        for position in 64..128 {
            for component in 0..20 {
                assert!(k.insert(cache.k_index(position, component)));
                assert!(v.insert(cache.v_index(position, component)));
            }
        }
        let head = cache.head(2, 1, 4).unwrap();
        assert!(k.last().unwrap() < &head.k.len() && v.last().unwrap() < &head.v.len());
        assert_eq!((head.k_scales.len(), head.v_scales.len()), (64, 64));
        assert_eq!(cache.k_index(17, 3), 16 * 32 + 3 * 16 + 1);
        assert_eq!(cache.v_index(257, 17), 17 * 16 + 1);
        assert!(cache.head(3, 0, 0).is_none() && cache.head(0, 2, 0).is_none());
        assert!(cache.head(0, 0, 5).is_none());
    }

    #[test]
    fn heads_of_a_page_do_not_overlap() {
        let mut cache = filled(KvType::Int8, 64, 64);
        for layer in 0..3 {
            for head in 0..2 {
                let place = cache.head_mut(layer, head, 0).unwrap();
                place.k.fill((layer * 2 + head) as u8);
                place.v.fill((100 + layer * 2 + head) as u8);
                place.k_scales.fill((layer * 2 + head) as f32);
            }
        }
        for layer in 0..3 {
            for head in 0..2 {
                let found = cache.head(layer, head, 0).unwrap();
                assert!(found.k.iter().all(|&x| usize::from(x) == layer * 2 + head));
                assert!(found.v.iter().all(|&x| usize::from(x) == 100 + layer * 2 + head));
                assert!(found.k_scales.iter().all(|&x| x == (layer * 2 + head) as f32));
            }
        }
    }

    #[test]
    fn position_takes_the_documented_bytes() {
        let heads = 2 * 30 * 5;
        for (kind, bytes) in [(KvType::F32, 153_600), (KvType::F16, 76_800), (KvType::Int8, 39_600)]
        {
            assert_eq!(heads / 2 * kind.bytes_per_position(128), bytes, "{kind}");
            let pool = HybridMemoryPool::new().unwrap();
            let cache = KvCache::new(kind, 30, 4096, 5, 128, &pool).unwrap();
            assert_eq!((cache.bytes_per_position(), cache.page_bytes()), (bytes, 64 * bytes));
            assert_eq!(pool.get_metrics().total_allocated, 0);
        }
    }

    #[test]
    fn impossible_sizes_are_errors() {
        let pool = HybridMemoryPool::new().unwrap();
        assert!(KvCache::new(KvType::F16, 1, usize::MAX, 5, 128, &pool).is_err());
        assert!(KvCache::new(KvType::F16, usize::MAX, 1, 5, 128, &pool).is_err());
        assert!(KvCache::new(KvType::F16, 1, 1, 5, usize::MAX, &pool).is_err());
        let mut cache = KvCache::new(KvType::F16, 1, 10, 1, 16, &pool).unwrap();
        assert!(matches!(cache.reserve(11), Err(Error::OutOfRange { index: 10, len: 10, .. })));
        assert!(matches!(cache.reserve(usize::MAX), Err(Error::OutOfRange { .. })));
    }

    #[test]
    fn pages_follow_the_length_and_return_to_the_pool() {
        let pool = HybridMemoryPool::new().unwrap();
        let live = || pool.get_metrics().total_allocated as usize;
        let mut cache = KvCache::new(KvType::F16, 2, 1000, 2, 32, &pool).unwrap();
        cache.reserve(1).unwrap();
        assert_eq!((cache.reserved(), live()), (64, cache.page_bytes()));
        cache.advance(1);
        cache.reserve(200).unwrap();
        cache.advance(200);
        assert_eq!(live(), 4 * cache.page_bytes());
        cache.truncate(64);
        assert_eq!((cache.len(), live()), (64, cache.page_bytes()));
        cache.truncate(0);
        assert_eq!(live(), 0);
    }

    #[test]
    fn shared_pages_are_copied_before_they_are_written() {
        for kind in [KvType::F32, KvType::Int8] {
            let mut first = filled(kind, 500, 100);
            for page in 0..2 {
                let head = first.head_mut(2, 1, page).unwrap();
                head.k.fill(7);
                head.v_scales.fill(7.0);
            }
            let mut second = first.fork(80);
            assert_eq!(second.len(), 80);
            assert!(matches!(second.head_mut(2, 1, 1), Err(Error::NotWritable { .. })));
            second.reserve(1).unwrap();
            let copy = second.head_mut(2, 1, 1).unwrap();
            assert!(copy.k.iter().all(|&x| x == 7), "{kind}");
            copy.k.fill(9);
            assert!(first.head(2, 1, 1).unwrap().k.iter().all(|&x| x == 7), "{kind}");
            // The full page stays shared.
            assert!(matches!(second.head_mut(2, 1, 0), Err(Error::NotWritable { .. })));
            drop(first);
            assert!(second.head_mut(2, 1, 0).is_ok());
        }
    }
}

//! The types and sizes of caches.

/// How a cache stores numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvType {
    /// As they are.
    F32,
    /// Rounded to half precision, ties to even; finite numbers beyond ±65504 to ±65504.
    #[default]
    F16,
    /// 8-bit integers with one f32 scale for each position and head, of keys and of values:
    /// `scale = max|x| / 127`, `q = round_half_even(x * (127 / max|x|))`.
    /// The scale is NaN where a component is not finite.
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

/// The type and the sizes of the pages of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    /// How numbers are stored.
    pub kind: KvType,
    /// The number of layers.
    pub layers: usize,
    /// Key-value heads of a layer.
    pub kv_heads: usize,
    /// Components of a head.
    pub head_dim: usize,
}

impl KvShape {
    pub(super) fn width(&self) -> usize {
        self.head_dim.next_multiple_of(KV_BLOCK)
    }

    /// Bytes of the keys of a head in one page, and of its values.
    pub(super) fn head_bytes(&self) -> usize {
        KV_PAGE * self.width() * self.kind.element_bytes()
    }

    /// Number of (layer, head) pairs.
    pub(super) fn heads(&self) -> usize {
        self.layers * self.kv_heads
    }

    /// Number of scales in a page.
    pub(super) fn scales(&self) -> usize {
        if self.kind == KvType::Int8 { self.heads() * 2 * KV_PAGE } else { 0 }
    }

    /// Bytes of a page, `None` if they overflow.
    pub(super) fn page_bytes(&self) -> Option<usize> {
        let width = self.head_dim.checked_next_multiple_of(KV_BLOCK)?;
        let heads = self.layers.checked_mul(self.kv_heads)?;
        let scale = if self.kind == KvType::Int8 { size_of::<f32>() } else { 0 };
        let position = width.checked_mul(self.kind.element_bytes())?.checked_add(scale)?;
        heads.checked_mul(2 * KV_PAGE)?.checked_mul(position)
    }
}

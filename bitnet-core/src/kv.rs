//! Keys and values of one layer of one sequence, stored so that attention reads them in order.
//!
//! ```text
//! tile   256 positions of one key-value head; tiles are ordered [position / 256][head]
//! block  16 positions of a tile; width = head_dim rounded up to a multiple of 16
//! K      [tile][block][component < width][position % 16]
//! V      [tile][block][component / 16][position % 16][component % 16]
//! scale  [tile][position % 256], with int8 alone: value = integer * scale
//! ```
//!
//! Sixteen neighbours in memory are sixteen scores, or sixteen components of one value: no kernel adds lanes up.

use crate::device::Device;
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::{BitNetDType, BitNetTensor, TensorMetadata};
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
    /// The element type of the integers or floats.
    pub fn dtype(self) -> BitNetDType {
        match self {
            Self::F32 => BitNetDType::F32,
            Self::F16 => BitNetDType::F16,
            Self::Int8 => BitNetDType::I8,
        }
    }

    /// Bytes that a position of one head takes in keys and values together, without padding.
    pub fn bytes_per_position(self, head_dim: usize) -> usize {
        match self {
            Self::F32 => 8 * head_dim,
            Self::F16 => 4 * head_dim,
            Self::Int8 => 2 * (head_dim + size_of::<f32>()),
        }
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

/// Positions that stand together.
pub const KV_BLOCK: usize = 16;

/// Positions of one head that stand together, in blocks. Attention sums over a tile before it adds tiles up.
pub const KV_TILE: usize = 256;

/// Keys (after RoPE) and values of one layer.
///
/// Memory is reserved for the whole capacity, but touched only as positions are filled.
#[derive(Debug)]
pub struct KvLayer {
    kind: KvType,
    capacity: usize,
    kv_heads: usize,
    head_dim: usize,
    k: BitNetTensor,
    v: BitNetTensor,
    scales: Option<[BitNetTensor; 2]>,
}

/// The contents of a [`KvLayer`], for writing: bytes in the layer's element type, and scales (empty unless int8).
#[derive(Debug)]
pub struct KvParts<'a> {
    /// Keys.
    pub k: &'a mut [u8],
    /// Values.
    pub v: &'a mut [u8],
    /// Scales of keys.
    pub k_scales: &'a mut [f32],
    /// Scales of values.
    pub v_scales: &'a mut [f32],
}

/// Tokens that one sequence reads now: they stand at `first..first + tokens` of its cache.
#[derive(Debug, Clone, Copy)]
pub struct KvSpan<'a> {
    /// The sequence's keys and values of one layer; those of `tokens` are in it.
    pub cache: &'a KvLayer,
    /// Position of the first token.
    pub first: usize,
    /// Number of tokens.
    pub tokens: usize,
}

impl KvSpan<'_> {
    /// Bytes of keys and values that its tokens see, each counted once.
    pub fn bytes(&self) -> usize {
        self.first.saturating_add(self.tokens).saturating_mul(self.cache.bytes_per_position())
    }
}

impl KvLayer {
    /// An empty layer for `capacity` positions of `kv_heads` heads of `head_dim` components.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] or [`Error::OutOfMemory`].
    pub fn new(
        kind: KvType,
        capacity: usize,
        kv_heads: usize,
        head_dim: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let overflow = Error::SizeOverflow { what: "key-value cache" };
        let positions = capacity.checked_next_multiple_of(KV_TILE);
        let width = head_dim.checked_next_multiple_of(KV_BLOCK);
        let (Some(positions), Some(width)) = (positions, width) else { return Err(overflow) };
        let Some(rows) = positions.checked_mul(kv_heads) else { return Err(overflow) };
        let tensor = |dtype, width| {
            BitNetTensor::new(TensorMetadata::new(vec![rows, width], dtype, Device::Cpu), pool)
        };
        let scales = match kind {
            KvType::Int8 => Some([tensor(BitNetDType::F32, 1)?, tensor(BitNetDType::F32, 1)?]),
            KvType::F32 | KvType::F16 => None,
        };
        let (k, v) = (tensor(kind.dtype(), width)?, tensor(kind.dtype(), width)?);
        Ok(Self { kind, capacity, kv_heads, head_dim, k, v, scales })
    }

    /// How numbers are stored.
    pub fn kind(&self) -> KvType {
        self.kind
    }

    /// Positions that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Components of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Components of a head as it is stored: rounded up to a multiple of 16.
    pub fn width(&self) -> usize {
        self.head_dim.next_multiple_of(KV_BLOCK)
    }

    /// Bytes that one position takes.
    pub fn bytes_per_position(&self) -> usize {
        self.kv_heads * self.kind.bytes_per_position(self.width())
    }

    /// Keys, in the layer's element type.
    ///
    /// # Errors
    /// None for a layer that was made by [`KvLayer::new`].
    pub fn k(&self) -> Result<&[u8]> {
        self.k.bytes()
    }

    /// Values, in the layer's element type.
    ///
    /// # Errors
    /// As [`KvLayer::k`].
    pub fn v(&self) -> Result<&[u8]> {
        self.v.bytes()
    }

    /// Scales of keys and of values; empty unless int8.
    ///
    /// # Errors
    /// As [`KvLayer::k`].
    pub fn scales(&self) -> Result<[&[f32]; 2]> {
        match &self.scales {
            Some([k, v]) => Ok([k.f32()?, v.f32()?]),
            None => Ok([&[], &[]]),
        }
    }

    /// Everything, for writing.
    ///
    /// # Errors
    /// As [`KvLayer::k`].
    pub fn parts_mut(&mut self) -> Result<KvParts<'_>> {
        let (k, v) = (self.k.bytes_mut()?, self.v.bytes_mut()?);
        let (k_scales, v_scales) = match &mut self.scales {
            Some([k, v]) => (k.f32_mut()?, v.f32_mut()?),
            None => (&mut [][..], &mut [][..]),
        };
        Ok(KvParts { k, v, k_scales, v_scales })
    }

    /// Where the scale of a position stands, and the row of the tile order that its numbers share.
    pub fn scale_index(&self, head: usize, position: usize) -> usize {
        (position / KV_TILE * self.kv_heads + head) * KV_TILE + position % KV_TILE
    }

    /// Index of the first element of the block that holds a position.
    fn block(&self, head: usize, position: usize) -> usize {
        self.scale_index(head, position) / KV_BLOCK * KV_BLOCK * self.width()
    }

    /// Where a component of a key stands, in elements.
    pub fn k_index(&self, head: usize, position: usize, component: usize) -> usize {
        self.block(head, position) + component * KV_BLOCK + position % KV_BLOCK
    }

    /// Where a component of a value stands, in elements.
    pub fn v_index(&self, head: usize, position: usize, component: usize) -> usize {
        self.block(head, position)
            + (component / KV_BLOCK * KV_BLOCK + position % KV_BLOCK) * KV_BLOCK
            + component % KV_BLOCK
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_component_has_a_place_of_its_own_inside() {
        let pool = HybridMemoryPool::new().unwrap();
        let layer = KvLayer::new(KvType::Int8, 300, 2, 20, &pool).unwrap();
        let (mut k, mut v, mut scales) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for head in 0..2 {
            for position in 0..300 {
                assert!(scales.insert(layer.scale_index(head, position)));
                for component in 0..20 {
                    assert!(k.insert(layer.k_index(head, position, component)));
                    assert!(v.insert(layer.v_index(head, position, component)));
                }
            }
        }
        assert!(k.last() < Some(&layer.k().unwrap().len()));
        assert!(v.last() < Some(&layer.v().unwrap().len()));
        assert!(scales.last() < Some(&layer.scales().unwrap()[0].len()));
        assert_eq!(layer.k_index(1, 17, 3), 256 * 32 + 16 * 32 + 3 * 16 + 1);
        assert_eq!(layer.v_index(0, 257, 17), 2 * 256 * 32 + 17 * 16 + 1);
    }

    #[test]
    fn a_position_takes_what_the_formats_say() {
        let heads = 2 * 30 * 5;
        for (kind, bytes) in [(KvType::F32, 153_600), (KvType::F16, 76_800), (KvType::Int8, 39_600)]
        {
            assert_eq!(heads / 2 * kind.bytes_per_position(128), bytes, "{kind}");
        }
        let pool = HybridMemoryPool::new().unwrap();
        assert!(KvLayer::new(KvType::F16, usize::MAX, 5, 128, &pool).is_err());
    }
}

//! Pages of a cache: blocks of a pool, or memory of a device.

use std::fmt::Debug;
use std::sync::Arc;

use super::{KV_BLOCK, KV_PAGE, KvType};
use crate::Result;
use crate::memory::tensor::DeviceBytes;
use crate::memory::{HybridMemoryPool, PoolBuffer};

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
    fn heads(&self) -> usize {
        self.layers * self.kv_heads
    }

    fn scales(&self) -> usize {
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

/// Memory of a device for the pages of caches. The layout inside a page is the device's own.
pub trait KvPages: Debug + Send + Sync {
    /// Returns a page for 64 positions of every layer and head, to be written before it is read.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    fn page(&self, shape: &KvShape) -> Result<Box<dyn DeviceBytes>>;

    /// Returns a copy of a page that [`KvPages::page`] returned.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    fn copy(&self, page: &dyn DeviceBytes) -> Result<Box<dyn DeviceBytes>>;
}

/// Where the pages of a cache are allocated.
#[derive(Debug, Clone)]
pub(super) enum Memory {
    Pool(HybridMemoryPool),
    Device(Arc<dyn KvPages>),
}

/// 64 positions of every layer and head.
#[derive(Debug)]
pub(super) enum Page {
    Pool { numbers: PoolBuffer<u8>, scales: Option<PoolBuffer<f32>> },
    Device(Box<dyn DeviceBytes>),
}

impl Memory {
    /// Returns a page to be written before it is read.
    pub(super) fn page(&self, shape: &KvShape) -> Result<Page> {
        let pool = match self {
            Self::Pool(pool) => pool,
            Self::Device(pages) => return Ok(Page::Device(pages.page(shape)?)),
        };
        let numbers = PoolBuffer::scratch(shape.heads() * 2 * shape.head_bytes(), pool)?;
        let scales = match shape.scales() {
            0 => None,
            len => Some(PoolBuffer::scratch(len, pool)?),
        };
        Ok(Page::Pool { numbers, scales })
    }

    pub(super) fn copy(&self, page: &Page) -> Result<Page> {
        Ok(match (self, page) {
            (Self::Pool(pool), Page::Pool { numbers, scales }) => {
                let scales = scales.as_ref().map(|scales| PoolBuffer::from_slice(scales, pool));
                let numbers = PoolBuffer::from_slice(numbers, pool)?;
                Page::Pool { numbers, scales: scales.transpose()? }
            }
            (Self::Device(pages), Page::Device(page)) => Page::Device(pages.copy(&**page)?),
            // A cache has pages of one memory.
            _ => return Err(crate::Error::NotOnHost { op: "copy of a page" }),
        })
    }
}

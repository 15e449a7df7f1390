//! Pages of a cache: blocks of a pool, or memory of a device.

use std::fmt::Debug;
use std::sync::Arc;

use super::shape::KvShape;
use crate::Result;
use crate::memory::tensor::DeviceBytes;
use crate::memory::{HybridMemoryPool, PoolBuffer};

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

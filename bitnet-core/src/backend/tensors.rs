//! Tensors and caches in the memory of a back end.

use super::shape_check::expect_shape;
use crate::Result;
use crate::kv::{KvCache, KvShape};
use crate::memory::HybridMemoryPool;
use crate::memory::tensor::BitNetTensor;

/// Memory for results, weights and caches. The default methods use memory of the host, from the caller's pool; a back
/// end of a device overrides all of them.
///
/// Operands of [`Operations`](super::Operations) may be on the host as well:
/// a back end of a device copies them there and back.
pub trait Tensors {
    /// Returns an f32 tensor of this shape, to be written before it is read.
    ///
    /// # Errors
    /// [`crate::Error::SizeOverflow`], [`crate::Error::OutOfMemory`].
    fn tensor(&self, shape: &[usize], pool: &HybridMemoryPool) -> Result<BitNetTensor> {
        BitNetTensor::scratch(shape, pool)
    }

    /// Returns the numbers of a contiguous f32 tensor on the host as a tensor of this back end.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], and those of [`BitNetTensor::f32`].
    fn to_device(&self, x: BitNetTensor) -> Result<BitNetTensor> {
        Ok(x)
    }

    /// Returns the numbers of a tensor of this back end as a tensor on the host.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], [`crate::Error::NotContiguous`].
    fn to_host(&self, x: BitNetTensor, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
        let _ = pool;
        Ok(x)
    }

    /// Copies rows of tensors `[rows, cols]`, each named by its tensor and index, in this order; a row may be copied
    /// several times.
    ///
    /// # Errors
    /// [`crate::Error::OutOfRange`] for a row that is not there, [`crate::Error::ShapeMismatch`] for rows of several
    /// widths, [`crate::Error::OutOfMemory`].
    fn rows(
        &self,
        rows: &[(&BitNetTensor, usize)],
        pool: &HybridMemoryPool,
    ) -> Result<BitNetTensor> {
        let cols =
            rows.first().map_or(Ok(0), |(x, _)| x.dims2("rows", "x").map(|(_, cols)| cols))?;
        for &(x, index) in rows {
            let (len, _) = x.dims2("rows", "x")?;
            expect_shape("rows", "x", x, len, cols)?;
            if index >= len {
                return Err(crate::Error::OutOfRange { op: "rows", index, len });
            }
        }
        let mut out = BitNetTensor::scratch(&[rows.len(), cols], pool)?;
        for (out, (x, row)) in out.f32_mut()?.chunks_exact_mut(cols.max(1)).zip(rows) {
            out.copy_from_slice(&x.f32()?[row * cols..][..cols]);
        }
        Ok(out)
    }

    /// Returns an empty cache for at most `capacity` positions.
    ///
    /// # Errors
    /// [`crate::Error::SizeOverflow`].
    fn kv_cache(
        &self,
        shape: KvShape,
        capacity: usize,
        pool: &HybridMemoryPool,
    ) -> Result<KvCache> {
        KvCache::new(shape, capacity, pool)
    }
}

//! Rotary position embedding: the order of components and the table of angles.

use crate::Result;
use crate::memory::{HybridMemoryPool, PoolBuffer, Shared};

/// Which components of a head RoPE rotates together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeOrder {
    /// Components `j` and `j + d/2` ("NEOX", rotate-half).
    Halves,
    /// Components `2j` and `2j + 1` ("NORM", interleaved).
    Interleaved,
}

/// Cosines and sines of every position, `[positions, head_dim / 2]` each.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// Components rotated in each head; an even number.
    pub dim: usize,
    /// `cos(position * frequency_j)`.
    pub cos: Shared<f32>,
    /// `sin(position * frequency_j)`.
    pub sin: Shared<f32>,
}

impl RopeTable {
    /// The table for `positions` positions with the given inverse frequencies (`[dim / 2]`). Angles are computed
    /// in f32, as the reference implementations do.
    pub fn new(inverse_frequencies: &[f32], positions: usize) -> Self {
        let len = positions * inverse_frequencies.len();
        let (mut cos, mut sin) = (vec![0.0; len], vec![0.0; len]);
        Self::fill(inverse_frequencies, 1.0, &mut cos, &mut sin);
        Self { dim: 2 * inverse_frequencies.len(), cos: cos.into(), sin: sin.into() }
    }

    /// As [`RopeTable::new`], with cosines and sines multiplied by `magnitude`, in `pool`.
    ///
    /// # Errors
    /// [`crate::Error::SizeOverflow`] or [`crate::Error::OutOfMemory`].
    pub fn in_pool(
        inverse_frequencies: &[f32],
        magnitude: f32,
        positions: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let len = positions.checked_mul(inverse_frequencies.len());
        let len = len.ok_or(crate::Error::SizeOverflow { what: "rotation table" })?;
        let (mut cos, mut sin) = (PoolBuffer::scratch(len, pool)?, PoolBuffer::scratch(len, pool)?);
        Self::fill(inverse_frequencies, magnitude, &mut cos, &mut sin);
        let (cos, sin) = (Shared::new(cos), Shared::new(sin));
        Ok(Self { dim: 2 * inverse_frequencies.len(), cos, sin })
    }

    fn fill(inverse_frequencies: &[f32], magnitude: f32, cos: &mut [f32], sin: &mut [f32]) {
        let half = inverse_frequencies.len().max(1);
        let rows = cos.chunks_exact_mut(half).zip(sin.chunks_exact_mut(half));
        for (position, (cos, sin)) in rows.enumerate() {
            for ((cos, sin), &frequency) in cos.iter_mut().zip(sin).zip(inverse_frequencies) {
                let angle = f64::from(position as f32 * frequency);
                (*cos, *sin) = (angle.cos() as f32 * magnitude, angle.sin() as f32 * magnitude);
            }
        }
    }

    /// Number of positions in the table.
    pub fn positions(&self) -> usize {
        if self.dim == 0 { 0 } else { self.cos.len() / (self.dim / 2) }
    }
}

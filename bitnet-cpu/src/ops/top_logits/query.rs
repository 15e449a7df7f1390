//! A hidden state in 16 bits, with the bound on the error of an approximate logit.
//!
//! In the terms of `int4_planes.rs`, with `q_j = round(x'_j / t)` and `S = Σ first_j q_j`, the first plane says
//!
//! ```text
//! logit ≈ s t / 65536 · (65536 S - Σ (7 · 65536 + u_j) q_j)
//! ```
//!
//! whose bracket is computed exactly. In units of the row's scale `s`, the logit of the kernel of `linear` differs by
//! at most the sum of
//!
//! - what the codes leave over, times `x'`. These are independent uniform numbers of width `h` (1, or 1/16 after both
//!   planes) times `x'_j`, so by their moment generating function the sum exceeds `z h |x'| / √12` with a
//!   probability below `exp(-z²/2)`; `z` is such that all rows and both levels together stay below 2⁻⁶⁴. Or, where it
//!   must be certain: the largest norm of what any row leaves over, times `|x'|`;
//! - the rounding to the grid and its means that are not quite zero: 2 steps of the grid times `Σ |x'_j|`;
//! - the rounding of `x'` to 16 bits: `8 Σ |x'_j - t q_j|`, since approximations of `w'` are at most 8 scales;
//! - the rounding of the kernel, twice its bound: `2 (n/16 + 8) 2⁻²⁴ · 7.5 Σ |x'_j|`;
//! - the roundings of an approximate logit and of its comparison in f32: `8 Σ |x'_j| · 2⁻²¹`.
//!
//! Where numbers are so small that f32 rounds them by more than their share, [`QuantizedState::underflow`] is added.
//!
//! The sum is enlarged by 2⁻¹⁶ of itself for the roundings in f64 that it is made with.

use super::int4_planes::{GRID, Int4Planes, REACH};
use crate::isa::{NIBBLES, WideBlock};
use bitnet_core::Result;
use bitnet_core::backend::top_logits::Guarantee;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};

/// The largest `q`.
const MOST: f64 = 32639.0;

/// The planes that an approximation uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    First,
    Both,
}

/// A hidden state in 16 bits.
#[derive(Debug)]
pub(super) struct QuantizedState {
    pub(super) blocks: PoolBuffer<WideBlock>,
    /// `t / 65536`.
    pub(super) unit: f64,
    /// `Σ (7 · 65536 + u_j) q_j`.
    pub(super) centre: i64,
    /// `Σ q_j`.
    pub(super) sum: i64,
    guarantee: Guarantee,
    /// `Σ |x'_j|`.
    one_norm: f64,
    /// `|x'|`.
    two_norm: f64,
    /// `Σ |x'_j - t q_j|`.
    left_over: f64,
}

impl QuantizedState {
    /// Makes the query for `x` (`[cols]`); `None` if `x`, or any logit, may not be finite.
    ///
    /// # Errors
    /// [`bitnet_core::Error::OutOfMemory`].
    pub(super) fn new(
        x: &[f32],
        planes: &Int4Planes,
        guarantee: Guarantee,
        pool: &HybridMemoryPool,
    ) -> Result<Option<Self>> {
        if !x.iter().all(|x| x.is_finite()) {
            return Ok(None);
        }
        let mut scaled = PoolBuffer::scratch(x.len(), pool)?;
        for ((scaled, &x), column) in scaled.iter_mut().zip(x).zip(planes.columns()) {
            *scaled = f64::from(x) * f64::from(column.exponent).exp2();
        }
        let mut blocks = PoolBuffer::scratch(planes.blocks(), pool)?;
        blocks.fill(WideBlock::ZERO);
        let largest = scaled.iter().fold(0f64, |largest: f64, x: &f64| largest.max(x.abs()));
        let step = if largest > 0.0 { largest / MOST } else { 1.0 };
        let mut query = Self {
            blocks,
            unit: step / GRID,
            centre: 0,
            sum: 0,
            guarantee,
            one_norm: 0.0,
            two_norm: 0.0,
            left_over: 0.0,
        };
        for (index, (&x, column)) in scaled.iter().zip(planes.columns()).enumerate() {
            let q = (x / step).round().clamp(-MOST, MOST);
            query.left_over += (x - step * q).abs();
            query.one_norm += x.abs();
            query.two_norm += x * x;
            let q = q as i32;
            query.centre += i64::from(7 * GRID as i32 + column.dither) * i64::from(q);
            query.sum += i64::from(q);
            query.blocks[index / NIBBLES].set(index % NIBBLES, q);
        }
        query.two_norm = query.two_norm.sqrt();
        let most = f64::from(planes.largest_scale()) * 16.0 * query.one_norm;
        Ok((most < f64::from(f32::MAX)).then_some(query))
    }

    /// Returns how much rounding to subnormal numbers may add to any logit and its approximation.
    pub(super) fn underflow(&self) -> f32 {
        (self.blocks.len() * NIBBLES + 64) as f32 * f32::from_bits(1)
    }

    /// Returns how many scales of its row a logit may lie above its approximation, rounded up.
    pub(super) fn margin(&self, planes: &Int4Planes, level: Level) -> f32 {
        let width = if level == Level::First { 1.0 } else { 1.0 / 16.0 };
        let codes = match self.guarantee {
            Guarantee::Probabilistic => deviations(planes.rows()) * width / 12f64.sqrt(),
            Guarantee::Exact => planes.worst()[usize::from(level == Level::Both)],
        };
        let n = (planes.blocks() * NIBBLES) as f64;
        let ulp = f64::from(f32::EPSILON) / 2.0;
        let kernel = 2.0 * (n / 16.0 + 8.0) * ulp * f64::from(REACH);
        let of_sum = 2.0 / GRID + kernel + 8.0 * 8.0 * ulp;
        let margin = codes * self.two_norm + 8.0 * self.left_over + of_sum * self.one_norm;
        ((margin * (1.0 + 1.0 / GRID)) as f32).next_up()
    }
}

/// Returns `z` with `2 · rows · exp(-z²/2) = 2⁻⁶⁴`.
fn deviations(rows: usize) -> f64 {
    (2.0 * (64.0 * 2f64.ln() + (2.0 * rows as f64).ln())).sqrt()
}

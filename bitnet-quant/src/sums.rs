//! Sums that are identical on every processor.

use crate::stored::Stored;

/// The number of accumulators; number `i` of a run goes to accumulator `i % LANES` on every instruction set.
pub(crate) const LANES: usize = 8;
/// The block size of decoding: a multiple of [`LANES`] that stays in the L1 cache.
pub(crate) const BLOCK: usize = 256;

/// Sums of a function of numbers, in f64.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lanes([f64; LANES]);

impl Lanes {
    /// Adds `of` of numbers; the number of earlier ones is a multiple of [`LANES`].
    #[inline(always)]
    pub(crate) fn add(self, values: &[f32], of: impl Fn(f32) -> f64) -> Self {
        let (chunks, rest) = values.as_chunks::<LANES>();
        let mut lanes = self.0;
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += of(x);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane += of(x);
        }
        Self(lanes)
    }

    /// Returns the sum of all accumulators, added sequentially so that the main loop keeps whole vectors.
    #[inline(always)]
    pub(crate) fn total(self) -> f64 {
        self.0.iter().sum()
    }
}

/// Iterates over the numbers of a run in blocks; all but the last are a multiple of [`LANES`].
pub(crate) struct Blocks<'a, S: Stored> {
    left: &'a [S::Raw],
    room: [f32; BLOCK],
}

impl<'a, S: Stored> Blocks<'a, S> {
    #[inline(always)]
    pub(crate) fn new(values: &'a [S::Raw]) -> Self {
        Self { left: values, room: [0.0; BLOCK] }
    }

    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<&[f32]> {
        if self.left.is_empty() {
            return None;
        }
        let (block, left) = self.left.split_at(self.left.len().min(BLOCK));
        self.left = left;
        let floats = &mut self.room[..block.len()];
        for (float, &raw) in floats.iter_mut().zip(block) {
            *float = S::value(raw);
        }
        Some(floats)
    }
}

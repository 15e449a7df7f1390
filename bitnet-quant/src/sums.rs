//! Sums of many numbers, the same on every processor.

use crate::stored::Stored;

/// Accumulators of a sum; number `i` of a run goes to accumulator `i % LANES`, whatever the instruction set.
pub(crate) const LANES: usize = 8;
/// Numbers that are decoded together: a multiple of the accumulators that stays in the nearest cache.
pub(crate) const BLOCK: usize = 256;

/// Sums of what becomes of numbers, in f64.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lanes([f64; LANES]);

impl Lanes {
    /// Takes in what `of` makes of numbers whose count before these was a multiple of [`LANES`].
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

    /// All of them; one after the other, which lets the loop before keep whole vectors.
    #[inline(always)]
    pub(crate) fn total(self) -> f64 {
        self.0.iter().sum()
    }
}

/// The numbers of a run, block after block; each but the last holds a multiple of [`LANES`].
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

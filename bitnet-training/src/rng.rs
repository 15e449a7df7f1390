//! The random numbers of the trainer, reproducible on every machine.

use bitnet_core::rng::SplitMix64;

/// A random generator for stories and weights.
#[derive(Debug, Clone)]
pub(crate) struct Rng(SplitMix64);

impl Rng {
    /// Creates a generator from `seed`.
    #[must_use]
    pub(crate) fn new(seed: u64) -> Self {
        // The start state is fixed, so that seeds keep their stories.
        Self(SplitMix64::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D))
    }

    /// Returns a uniform number in `[0, 1)` with 53 bits.
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0.unit()
    }

    /// Returns a uniform integer in `0..n`; 0 if `n` is 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0.below(n)
    }

    /// Returns true with probability `p`.
    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Returns one element of `items`.
    ///
    /// # Panics
    /// If `items` is empty.
    pub(crate) fn pick<'a, T: ?Sized>(&mut self, items: &[&'a T]) -> &'a T {
        items[self.below(items.len())]
    }

    /// Returns a sample of the standard normal distribution.
    pub(crate) fn normal(&mut self) -> f32 {
        self.0.normal_pair()[0] as f32
    }
}

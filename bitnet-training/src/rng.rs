//! What the trainer draws at random: the same for the same seed on every machine.

use bitnet_core::rng::SplitMix64;

/// A generator with the choices that stories and weights need.
#[derive(Debug, Clone)]
pub(crate) struct Rng(SplitMix64);

impl Rng {
    /// Creates a generator whose whole sequence depends on `seed` alone.
    #[must_use]
    pub(crate) fn new(seed: u64) -> Self {
        // Another beginning would tell other stories: seeds keep their meaning.
        Self(SplitMix64::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D))
    }

    /// Uniform in `[0, 1)` with 53 bits.
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0.unit()
    }

    /// Uniform in `0..n`; 0 if `n` is 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0.below(n)
    }

    /// True with probability `p`.
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

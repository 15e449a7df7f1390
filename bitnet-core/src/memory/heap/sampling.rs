//! Which allocations are sampled: every large one, and one in so many bytes of the others.
//!
//! A thread counts down the bytes that it allocates to a random distance, exponentially distributed with mean [`MEAN`].
//! The allocation that crosses it is recorded. An allocation of s bytes is thus recorded with probability 1 - exp(-s /
//! [`MEAN`]), independent of earlier ones, and represents s divided by that probability: sums over recorded allocations
//! are unbiased estimates of sums over all.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Bytes of allocations, on average, from one recorded one to the next: a page. From this size on each is recorded, so
/// that no leaked page is missed.
pub(super) const MEAN: usize = 4 << 10;
/// As [`MEAN`]: below it, an allocation may go unrecorded.
pub(super) const SAMPLED_BELOW: usize = MEAN;

/// The distance of a thread from the next allocation of a pool that is recorded. Only that thread changes it.
#[derive(Debug)]
pub(super) struct Sampler {
    /// The allocation that crosses this many bytes, counted from an origin that the caller moves, is recorded.
    at: AtomicI64,
    seed: AtomicU64,
}

impl Sampler {
    /// Records nothing.
    pub(super) const fn none() -> Self {
        Self { at: AtomicI64::new(i64::MAX), seed: AtomicU64::new(0) }
    }

    /// One for the calling thread.
    pub(super) fn of_this_thread() -> Self {
        let seed = AtomicU64::new(first_seed());
        let sampler = Self { at: AtomicI64::new(0), seed };
        sampler.draw(0);
        sampler
    }

    /// Whether an allocation of `bytes` bytes after `before` bytes is recorded.
    pub(super) fn picks(&self, before: u32, bytes: usize) -> bool {
        let end = i64::from(before).saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        let crossed = end > self.at.load(Ordering::Relaxed);
        if crossed {
            self.draw(end);
        }
        crossed || bytes >= MEAN
    }

    /// The number of bytes from which on an allocation may be recorded.
    pub(super) fn slow_path_at(&self) -> u32 {
        let at = self.at.load(Ordering::Relaxed).saturating_add(1);
        at.clamp(0, i64::from(u32::MAX)) as u32
    }

    /// Moves the origin by `bytes`.
    pub(super) fn pass(&self, bytes: u32) {
        let at = self.at.load(Ordering::Relaxed);
        if at < i64::MAX {
            self.at.store(at.saturating_sub(i64::from(bytes)), Ordering::Relaxed);
        }
    }

    fn draw(&self, from: i64) {
        let mut seed = self.seed.load(Ordering::Relaxed);
        self.at.store(from.saturating_add(distance(&mut seed)), Ordering::Relaxed);
        self.seed.store(seed, Ordering::Relaxed);
    }
}

/// Whether an allocation of `bytes` bytes by this thread, which has no [`Sampler`], is recorded: at random, with the
/// same probability.
pub(in crate::memory) fn picks(bytes: usize) -> bool {
    bytes >= MEAN || uniform(next_random()) < probability(bytes)
}

/// True once in `number` times, at random; `number` is a power of two.
#[inline]
pub(in crate::memory) fn one_in(number: u64) -> bool {
    (next_random() >> 32) & (number - 1) == 0
}

/// The next state of the generator of this thread.
#[inline]
fn next_random() -> u64 {
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0) });
    let mut state = STATE.get();
    if state == 0 {
        state = first_seed();
    }
    step(&mut state);
    STATE.set(state);
    state
}

/// A seed that no earlier call returned, not 0.
fn first_seed() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    0x9e37_79b9_7f4a_7c15u64.wrapping_mul(number.wrapping_mul(2) | 1)
}

/// The next state of Marsaglia's xorshift64; never 0 after one that is not.
fn step(state: &mut u64) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
}

/// A distance in bytes, exponentially distributed with mean [`MEAN`].
fn distance(seed: &mut u64) -> i64 {
    step(seed);
    (-uniform(*seed).ln() * MEAN as f64) as i64
}

/// A uniform number in (0, 1): 53 random bits, shifted by a half so that the logarithm is finite.
fn uniform(state: u64) -> f64 {
    ((state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// The probability that an allocation of `bytes` bytes, less than [`MEAN`], is recorded.
fn probability(bytes: usize) -> f64 {
    -(-(bytes.max(1) as f64) / MEAN as f64).exp_m1()
}

/// The bytes that a recorded allocation of `bytes` bytes represents.
pub(in crate::memory) fn represented_bytes(bytes: usize) -> u64 {
    if bytes >= MEAN { bytes as u64 } else { (bytes as f64 / probability(bytes)).round() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_unbiased_and_large_blocks_always_picked() {
        std::thread::spawn(|| {
            for size in [16usize, 64, 1000, 4000] {
                let count = (25 << 20) / size;
                let recorded = (0..count).filter(|_| picks(size)).count();
                let estimate = recorded as u64 * represented_bytes(size);
                let true_bytes = (count * size) as f64;
                // About 6400 are recorded: the standard deviation is 1.3 %
                // of the sum, and 6 % is more than four of them.
                assert!((estimate as f64 / true_bytes - 1.0).abs() < 0.06, "{size}: {estimate}");
            }
            assert!((0..1000).all(|_| picks(MEAN)));
            assert_eq!(represented_bytes(MEAN), MEAN as u64);
            assert_eq!(represented_bytes(0), 0);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn samplers_are_unbiased_and_stop_the_fast_path_in_time() {
        for size in [16usize, 300, 2500] {
            let sampler = Sampler::of_this_thread();
            let (mut before, mut recorded, count) = (0u32, 0, (25 << 20) / size);
            for at in 0..count {
                let due = before + size as u32 >= sampler.slow_path_at();
                // A large one in between is recorded and changes no probability.
                if at % 1000 == 0 {
                    assert!(sampler.picks(before, MEAN));
                    before += MEAN as u32;
                }
                if due || before + size as u32 >= sampler.slow_path_at() {
                    recorded += u64::from(sampler.picks(before, size));
                } else {
                    assert!(!sampler.picks(before, size), "recorded before its threshold");
                }
                before += size as u32;
                if before > 1 << 20 {
                    sampler.pass(before);
                    before = 0;
                }
            }
            let (estimate, bytes) = (recorded * represented_bytes(size), (count * size) as f64);
            assert!((estimate as f64 / bytes - 1.0).abs() < 0.06, "{size}: {estimate}");
        }
        let none = Sampler::none();
        assert!(!none.picks(u32::MAX, 64) && none.slow_path_at() == u32::MAX);
    }

    #[test]
    fn one_in_n_has_probability_1_over_n() {
        for number in [1u64, 8, 32] {
            let chosen = (0..32_000).filter(|_| one_in(number)).count() as f64;
            let expected = 32_000.0 / number as f64;
            // Six standard deviations.
            assert!((chosen - expected).abs() <= 6.0 * expected.sqrt(), "{chosen} of {expected}");
        }
    }
}

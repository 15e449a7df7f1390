//! Which allocations are recorded at level Standard: every large one, and one in so many bytes of the others.
//!
//! A thread counts down the bytes that it allocates to a random distance, exponentially distributed with mean [`MEAN`].
//! The allocation that crosses it is recorded. An allocation of s bytes is thus recorded with probability
//! 1 - exp(-s / [`MEAN`]), whatever was allocated before it, and stands for s divided by that probability: sums over what
//! is recorded are unbiased estimates of sums over everything.

use std::cell::Cell;

use super::threads;

/// Bytes of allocations, on average, from one recorded one to the next; from this size on each is recorded.
pub(super) const MEAN: usize = 64 << 10;

thread_local! {
    static LEFT: Cell<i64> = const { Cell::new(0) };
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Whether an allocation of `bytes` bytes by this thread is recorded.
#[inline]
pub(super) fn chosen(bytes: usize) -> bool {
    if bytes >= MEAN {
        return true;
    }
    LEFT.with(|left| {
        let rest = left.get() - bytes.max(1) as i64;
        left.set(rest);
        rest < 0 && crossed(left)
    })
}

/// Draws the next distance. On the first call of a thread none has been drawn yet, so the count goes on from there.
#[cold]
fn crossed(left: &Cell<i64>) -> bool {
    SEED.with(|seed| {
        if seed.get() == 0 {
            seed.set(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(u64::from(threads::number()) * 2 + 1));
            left.set(left.get() + distance(seed));
            if left.get() >= 0 {
                return false;
            }
        }
        left.set(distance(seed));
        true
    })
}

/// A distance in bytes, exponentially distributed with mean [`MEAN`].
fn distance(seed: &Cell<u64>) -> i64 {
    let mut state = seed.get();
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    seed.set(state);
    // 53 random bits, shifted by a half so that the logarithm is finite.
    let uniform =
        ((state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    (-uniform.ln() * MEAN as f64) as i64
}

/// The bytes that a recorded allocation of `bytes` bytes stands for.
pub(super) fn stands_for(bytes: usize) -> u64 {
    if bytes >= MEAN {
        return bytes as u64;
    }
    let size = bytes.max(1) as f64;
    let chance = -(-size / MEAN as f64).exp_m1();
    (bytes as f64 / chance).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_unbiased_and_large_ones_never_missed() {
        std::thread::spawn(|| {
            for size in [64usize, 1000, 4096, 40_000] {
                let count = (400 << 20) / size;
                let recorded = (0..count).filter(|_| chosen(size)).count();
                let estimate = recorded as u64 * stands_for(size);
                let true_bytes = (count * size) as f64;
                // About 6400 are recorded: the standard deviation is 1.3 % of the sum, and 6 % is more than four of them.
                assert!((estimate as f64 / true_bytes - 1.0).abs() < 0.06, "{size}: {estimate}");
            }
            assert!((0..1000).all(|_| chosen(MEAN)));
            assert_eq!(stands_for(MEAN), MEAN as u64);
            assert_eq!(stands_for(0), 0);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_first_allocation_of_a_thread_is_not_special() {
        let recorded: usize =
            (0..200).map(|_| usize::from(std::thread::spawn(|| chosen(64)).join().unwrap())).sum();
        assert!(
            recorded < 10,
            "64 bytes are recorded once in a thousand times, not {recorded} in 200"
        );
    }
}

//! Time stamps that are cheap enough for every allocation.
//!
//! Reading the clock costs as much as an allocation. A thread therefore reuses its last reading until the processor's
//! counter has advanced by [`NEAR`] ticks: stamps are late by at most that, 2 us.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Instant;

use crate::simd::ticks;

/// Ticks of the processor's counter for which a reading of the clock is reused.
const NEAR: u64 = 2000;

thread_local! {
    /// The counter and the clock when this thread last read the clock.
    static LAST: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Nanoseconds since the first reading of this process.
pub(crate) fn precise() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// As [`precise`], late by at most [`NEAR`] ticks.
#[inline]
pub(crate) fn stamp() -> u64 {
    let Some(tick) = ticks() else { return precise() };
    LAST.with(|last| {
        let (seen, nanoseconds) = last.get();
        if tick.wrapping_sub(seen) < NEAR {
            return nanoseconds;
        }
        let now = precise();
        last.set((tick, now));
        now
    })
}

/// Nanoseconds of the kernel's coarse monotonic clock, from some start; never 0.
#[cfg(target_os = "linux")]
pub(crate) fn coarse() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that lives through the call; this function guarantees it.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    if failed != 0 {
        return precise().max(1);
    }
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64).max(1)
}

/// Nanoseconds of the precise clock, where the system has no coarse one.
#[cfg(not(target_os = "linux"))]
pub(crate) fn coarse() -> u64 {
    precise().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_monotonic_and_follow_the_clock() {
        let start = precise();
        let mut last = 0;
        for _ in 0..10_000 {
            let now = stamp();
            assert!(now >= last && now <= precise());
            last = now;
        }
        // Ten times as long as a reading is reused on the slowest counter.
        let then = precise();
        while precise() < then + 20_000 {
            std::hint::spin_loop();
        }
        assert!(stamp() > then && then > start);
    }

    #[test]
    fn both_clocks_advance() {
        let (fine, rough) = (precise(), coarse());
        while coarse() == rough {
            std::hint::spin_loop();
        }
        assert!(coarse() > rough && precise() > fine);
    }
}

//! Time stamps that are cheap enough for every allocation.
//!
//! Reading the precise clock costs as much as an allocation. A thread therefore reads it on every [`SHARED`]th event, and
//! whenever the kernel's coarse clock has ticked since its last reading; in between it counts single nanoseconds on.
//! A stamp is thus late by the duration of at most [`SHARED`] events of its thread, and by no more than a tick.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Instant;

/// Events of a thread that may share one reading of the precise clock.
const SHARED: u32 = 8;

/// What a thread read last.
#[derive(Clone, Copy)]
struct Reading {
    tick: u64,
    nanoseconds: u64,
    left: u32,
}

thread_local! {
    static LAST: Cell<Reading> = const { Cell::new(Reading { tick: 0, nanoseconds: 0, left: 0 }) };
}

/// Nanoseconds since the first reading of this process.
pub(super) fn precise() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// As [`precise`], late by at most [`SHARED`] events of this thread and one tick of the coarse clock.
pub(super) fn stamp() -> u64 {
    let tick = coarse();
    LAST.with(|last| {
        let Reading { tick: seen, nanoseconds, left } = last.get();
        let next = if tick == seen && left > 0 {
            Reading { tick, nanoseconds: nanoseconds + 1, left: left - 1 }
        } else {
            Reading { tick, nanoseconds: precise(), left: SHARED - 1 }
        };
        last.set(next);
        next.nanoseconds
    })
}

/// Nanoseconds of the kernel's coarse monotonic clock, from some start; never 0 and never going back.
#[cfg(target_os = "linux")]
pub(super) fn coarse() -> u64 {
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
pub(super) fn coarse() -> u64 {
    precise().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_of_a_thread_never_go_back_and_stay_near_the_precise_clock() {
        let mut last = 0;
        for _ in 0..10_000 {
            let now = stamp();
            assert!(now >= last);
            assert!(now <= precise() + u64::from(SHARED));
            last = now;
        }
    }

    #[test]
    fn both_clocks_go_on() {
        let (fine, rough) = (precise(), coarse());
        while coarse() == rough {
            std::hint::spin_loop();
        }
        assert!(coarse() > rough && precise() > fine);
    }
}

//! The time-stamp counter, cheaper than a clock.

/// The time-stamp counter of this processor, which counts at a constant rate of 1 GHz or more; `None` on other than
/// x86-64 processors. Counters of two cores may differ.
#[inline]
pub(crate) fn ticks() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 processor has the instruction, and it touches no memory.
        Some(unsafe { std::arch::x86_64::_rdtsc() })
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

//! The counter that a processor offers for telling that time has passed, cheaper than a clock.

/// The time-stamp counter of this processor, which counts at a constant rate of 1 GHz or more; `None` on processors whose counter is
/// not known here. Counters of two cores may differ.
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

//! Detection of AMX. Tiles are 8 KiB of state for each thread, so Linux has every process ask for them.

use std::arch::x86_64::__cpuid_count;

/// Whether a processor with AVX-512 multiplies tiles of 8-bit integers and the system lets this process do so.
pub(super) fn is_available() -> bool {
    /// AMX-TILE and AMX-INT8 in EDX of leaf 7.
    const FEATURES: u32 = (1 << 24) | (1 << 25);
    /// `ARCH_REQ_XCOMP_PERM` of `arch_prctl`: permission to use a component of the extended state.
    const REQUEST_PERMISSION: libc::c_long = 0x1023;
    /// The component that holds the tiles.
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: this request takes two integers and touches no memory of the caller. A kernel that does not know it, a
    // system without the state and a thread whose signal stack is too small for it are answered with an error.
    let ask = || unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) };
    __cpuid_count(7, 0).edx & FEATURES == FEATURES && ask() == 0
}

//! Detection of AMX, which needs the processor and the system: tiles are 8 KiB of state for each thread, so Linux wants every process
//! to ask for them once.

/// Whether the processor multiplies tiles of 8-bit integers and the system lets this process do so. The first call asks.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) fn is_available() -> bool {
    use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};
    use std::sync::OnceLock;

    /// AMX-TILE and AMX-INT8 in EDX of leaf 7.
    const FEATURES: u32 = (1 << 24) | (1 << 25);
    /// `ARCH_REQ_XCOMP_PERM` of `arch_prctl`: permission to use a component of the extended state.
    const REQUEST_PERMISSION: libc::c_long = 0x1023;
    /// The component that holds the tiles.
    const TILE_DATA: libc::c_long = 18;

    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        if __get_cpuid_max(0).0 < 7 || __cpuid_count(7, 0).edx & FEATURES != FEATURES {
            return false;
        }
        // SAFETY: this request takes two integers and touches no memory of the caller. A kernel that does not know it, a system
        // without the state and a thread whose signal stack is too small for it are answered with an error.
        let answer = unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) };
        answer == 0
    })
}

/// Other systems have other requests, or none.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) fn is_available() -> bool {
    false
}

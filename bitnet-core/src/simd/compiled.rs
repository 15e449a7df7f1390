//! One loop in plain Rust, compiled for every instruction set level.

use std::sync::OnceLock;

use super::IsaLevel;
use crate::Result;

/// A computation whose loops are plain Rust, to be compiled once for each instruction set.
///
/// `run` and everything that it calls in a loop must be `#[inline(always)]`: a function that is not inlined is compiled for
/// the oldest processor. Rust neither joins a product and a sum nor reorders them, so every level gives the same bits.
pub(crate) trait Kernel {
    /// The result.
    type Output;

    /// Computes it.
    fn run(self) -> Self::Output;
}

/// Runs a kernel with the instructions of `level`, or with fewer if this processor lacks them.
pub(crate) fn run<K: Kernel>(level: IsaLevel, kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if level >= IsaLevel::Avx512Vnni && IsaLevel::Avx512Vnni.is_detected() {
            // SAFETY: the processor has just reported AVX-512 F, BW and VL, AVX2 and FMA.
            return unsafe { run_avx512(kernel) };
        }
        if level >= IsaLevel::Avx2 && IsaLevel::Avx2.is_detected() {
            // SAFETY: the processor has just reported AVX2 and FMA.
            return unsafe { run_avx2(kernel) };
        }
    }
    // Advanced SIMD is part of every 64-bit Arm that Rust compiles for.
    let _ = level;
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

/// The level for plain loops: what [`IsaLevel::selected`] says when it is first asked.
///
/// # Errors
/// Those of [`IsaLevel::selected`].
pub(crate) fn active() -> Result<IsaLevel> {
    static ACTIVE: OnceLock<Result<IsaLevel>> = OnceLock::new();
    ACTIVE.get_or_init(IsaLevel::selected).clone()
}

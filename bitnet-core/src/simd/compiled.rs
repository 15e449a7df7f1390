//! One loop in plain Rust, compiled for every instruction set level.

use std::sync::OnceLock;

use super::IsaLevel;
use crate::{Error, Result};

/// A computation whose loops are plain Rust, to be compiled once for each instruction set.
///
/// `run` and every function that it calls in a loop must be `#[inline(always)]`: others are compiled for the oldest
/// processor. Rust neither fuses nor reorders floating-point operations, so every level computes the same bits.
///
/// ```
/// use bitnet_core::simd::{self, IsaLevel, Kernel};
///
/// /// The sum of the squares, in eight accumulators.
/// struct Squares<'a>(&'a [f32]);
///
/// impl Kernel for Squares<'_> {
///     type Output = f32;
///
///     #[inline(always)]
///     fn run(self) -> f32 {
///         let (chunks, rest) = self.0.as_chunks::<8>();
///         let mut lanes = [0f32; 8];
///         for chunk in chunks {
///             for (lane, x) in lanes.iter_mut().zip(chunk) {
///                 *lane += x * x;
///             }
///         }
///         lanes.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>()
///     }
/// }
///
/// let numbers: Vec<f32> = (0..100u8).map(|i| f32::from(i) * 0.1).collect();
/// let sum = simd::run(simd::active()?, Squares(&numbers));
/// assert_eq!(sum, simd::run(IsaLevel::Scalar, Squares(&numbers)));
/// # Ok::<(), bitnet_core::Error>(())
/// ```
pub trait Kernel {
    /// The result.
    type Output;

    /// Computes it.
    fn run(self) -> Self::Output;
}

/// Runs a kernel with the instructions of `level`, or with fewer if this processor lacks them. A call costs a few
/// nanoseconds, so a kernel does a row or more.
pub fn run<K: Kernel>(level: IsaLevel, kernel: K) -> K::Output {
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

/// The level for plain loops: that of the first call of [`IsaLevel::selected`], if it passes its self-test.
///
/// # Errors
/// Those of [`IsaLevel::selected`], and [`Error::IsaBroken`].
pub fn active() -> Result<IsaLevel> {
    static ACTIVE: OnceLock<Result<IsaLevel>> = OnceLock::new();
    ACTIVE.get_or_init(|| IsaLevel::selected().and_then(proven)).clone()
}

/// The level, if it computes the same as the scalar one.
fn proven(level: IsaLevel) -> Result<IsaLevel> {
    let questions: Vec<f32> = (0..200i16).map(|i| f32::from(i) * 0.37 - 31.0).collect();
    if run(level, Question(&questions)) == Question(&questions).run() {
        Ok(level)
    } else {
        Err(Error::IsaBroken { name: level.name() })
    }
}

/// Products, quotients, roots, conversions and shifts of some numbers, combined into 64 bits.
struct Question<'a>(&'a [f32]);

impl Kernel for Question<'_> {
    type Output = u64;

    #[inline(always)]
    fn run(self) -> u64 {
        let mut lanes = [0u64; 8];
        for chunk in self.0.as_chunks::<8>().0 {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                let wide = f64::from(x) * 1.1 + 1.0 / f64::from(x * x + 1.0).sqrt();
                let narrow = u64::from((wide as f32).to_bits());
                *lane = lane.wrapping_add(wide.to_bits() >> 7).rotate_left(5) ^ narrow;
            }
        }
        lanes.into_iter().fold(0, |sum, lane| sum.rotate_left(9).wrapping_add(lane))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_that_is_there_proves_itself() {
        for level in IsaLevel::available() {
            assert_eq!(proven(level), Ok(level));
        }
        assert!(active().is_ok());
    }
}

//! Advanced SIMD: 16 bytes of codes at a time, products of 16 bits added in pairs to 32 bits.
//!
//! Codes are at most 2 and |x| at most 128, so a product is at most 256 and the four planes of a byte sum to at
//! most 1024 in 16 bits, after which they are widened.

use std::arch::aarch64::*;

use super::{ActivationBlock, CodeBlock, Isa, Op};
use bitnet_core::simd::IsaLevel;

/// Advanced SIMD.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon(());

impl Isa for Neon {
    type Codes = [[int8x16_t; 4]; 2];
    type Run = [int32x4_t; 2];
    type Sums = [int32x4_t; 2];
    const RUN: usize = usize::MAX;

    fn detect() -> Option<Self> {
        IsaLevel::Neon.is_detected().then_some(Self(()))
    }

    fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "neon")]
        fn enter<O: Op>(isa: Neon, op: O) -> O::Output {
            op.eval(isa)
        }
        // SAFETY: a value of `Neon` exists only where `detect` found the feature.
        unsafe { enter(self, op) }
    }

    #[inline(always)]
    fn start(self) -> Self::Run {
        self.zero()
    }

    #[inline(always)]
    fn unpack(self, codes: &CodeBlock) -> Self::Codes {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { unpack(codes) }
    }

    #[inline(always)]
    fn multiply_add(self, run: Self::Run, codes: Self::Codes, x: &ActivationBlock) -> Self::Run {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { multiply_add(run, codes, x) }
    }

    #[inline(always)]
    fn zero(self) -> Self::Sums {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { zero() }
    }

    #[inline(always)]
    fn widen(self, sums: Self::Sums, run: Self::Run) -> Self::Sums {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { add(sums, run) }
    }

    #[inline(always)]
    fn halves(self, sums: Self::Sums) -> [i32; 2] {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { halves(sums) }
    }

    #[inline(always)]
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> [int32x4_t; 2] {
    [vdupq_n_s32(0); 2]
}

#[inline]
#[target_feature(enable = "neon")]
fn add(a: [int32x4_t; 2], b: [int32x4_t; 2]) -> [int32x4_t; 2] {
    [vaddq_s32(a[0], b[0]), vaddq_s32(a[1], b[1])]
}

#[inline]
#[target_feature(enable = "neon")]
fn halves(sums: [int32x4_t; 2]) -> [i32; 2] {
    [vaddvq_s32(sums[0]), vaddvq_s32(sums[1])]
}

/// Planes 0 to 3 of bytes 0..16, then of bytes 16..32.
#[inline]
#[target_feature(enable = "neon")]
fn unpack(codes: &CodeBlock) -> [[int8x16_t; 4]; 2] {
    let (halves, _) = codes.as_chunks::<4>();
    [planes(&halves[0]), planes(&halves[1])]
}

#[inline]
#[target_feature(enable = "neon")]
fn planes(codes: &[u32; 4]) -> [int8x16_t; 4] {
    // SAFETY: the array is 16 bytes long, and the load needs no alignment.
    let bytes = unsafe { vld1q_u8(codes.as_ptr().cast()) };
    let mask = vdupq_n_u8(3);
    [
        vreinterpretq_s8_u8(vandq_u8(bytes, mask)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<2>(bytes), mask)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<4>(bytes), mask)),
        vreinterpretq_s8_u8(vshrq_n_u8::<6>(bytes)),
    ]
}

/// Bytes `16 * half..16 * half + 16` of a plane of the activations.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn plane_half(x: &[i8; 32], half: usize) -> int8x16_t {
    let (halves, _) = x.as_chunks::<16>();
    // SAFETY: the array is 16 bytes long, and the load needs no alignment.
    unsafe { vld1q_s8(halves[half].as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn multiply_add(
    run: [int32x4_t; 2],
    codes: [[int8x16_t; 4]; 2],
    x: &ActivationBlock,
) -> [int32x4_t; 2] {
    let mut run = run;
    for (half, (run, codes)) in run.iter_mut().zip(codes).enumerate() {
        let mut low = vdupq_n_s16(0);
        let mut high = vdupq_n_s16(0);
        for (codes, x) in codes.into_iter().zip(&x.0) {
            let x = plane_half(x, half);
            low = vmlal_s8(low, vget_low_s8(codes), vget_low_s8(x));
            high = vmlal_high_s8(high, codes, x);
        }
        *run = vpadalq_s16(vpadalq_s16(*run, low), high);
    }
    run
}

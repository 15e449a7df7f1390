//! Products of 4-bit codes with Advanced SIMD: products of 16 bits, added in pairs to 32 bits.
//!
//! A product is at most 15 · 128 = 1920 in magnitude and a lane of 16 bits takes four of them before it is widened:
//! 7680.

use std::arch::aarch64::*;

use super::{NibbleBlock, Nibbles, WideBlock};
use crate::isa::neon::{Neon, plane_half};

impl Nibbles for Neon {
    type NibbleRun = [int32x4_t; 2];
    type NibbleSums = [int32x4_t; 2];
    const NIBBLE_RUN: usize = usize::MAX;

    #[inline(always)]
    fn start_nibbles(self) -> Self::NibbleRun {
        self.zero_nibbles()
    }

    #[inline(always)]
    fn add_nibbles(
        self,
        run: Self::NibbleRun,
        codes: &NibbleBlock,
        x: &WideBlock,
    ) -> Self::NibbleRun {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { add(run, codes, x) }
    }

    #[inline(always)]
    fn zero_nibbles(self) -> Self::NibbleSums {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { zero() }
    }

    #[inline(always)]
    fn widen_nibbles(self, sums: Self::NibbleSums, run: Self::NibbleRun) -> Self::NibbleSums {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { widen(sums, run) }
    }

    #[inline(always)]
    fn sum_nibbles(self, sums: Self::NibbleSums) -> [i32; 2] {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { sum(sums) }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> [int32x4_t; 2] {
    [vdupq_n_s32(0); 2]
}

/// The codes of bytes `16 * half..16 * half + 16`, low halves and high halves.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn unpack(codes: &NibbleBlock, half: usize) -> [int8x16_t; 2] {
    let (halves, _) = codes.as_chunks::<16>();
    // SAFETY: the array is 16 bytes long, and the load needs no alignment.
    let bytes = unsafe { vld1q_u8(halves[half].as_ptr()) };
    let low = vandq_u8(bytes, vdupq_n_u8(15));
    [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes))]
}

#[inline]
#[target_feature(enable = "neon")]
fn add(run: [int32x4_t; 2], codes: &NibbleBlock, x: &WideBlock) -> [int32x4_t; 2] {
    let codes = [unpack(codes, 0), unpack(codes, 1)];
    let mut run = run;
    for (run, part) in run.iter_mut().zip([&x.high, &x.low]) {
        let mut products = vdupq_n_s16(0);
        for (half, codes) in codes.iter().enumerate() {
            for (&codes, part) in codes.iter().zip(part) {
                let x = plane_half(part, half);
                products = vmlal_s8(products, vget_low_s8(codes), vget_low_s8(x));
            }
        }
        let mut others = vdupq_n_s16(0);
        for (half, codes) in codes.iter().enumerate() {
            for (&codes, part) in codes.iter().zip(part) {
                others = vmlal_high_s8(others, codes, plane_half(part, half));
            }
        }
        *run = vpadalq_s16(vpadalq_s16(*run, products), others);
    }
    run
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn widen(sums: [int32x4_t; 2], run: [int32x4_t; 2]) -> [int32x4_t; 2] {
    [vaddq_s32(sums[0], run[0]), vaddq_s32(sums[1], run[1])]
}

#[inline]
#[target_feature(enable = "neon")]
fn sum(sums: [int32x4_t; 2]) -> [i32; 2] {
    [vaddvq_s32(sums[0]), vaddvq_s32(sums[1])]
}

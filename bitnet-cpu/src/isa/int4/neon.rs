//! Products of 4-bit codes with Advanced SIMD: products of 16 bits, added in pairs to 32 bits.
//!
//! A product is at most 15 · 128 = 1920 in magnitude and a lane of 16 bits takes four of them before it is widened:
//! 7680.

use std::arch::aarch64::*;

use super::{Int4Dot, NibbleBlock, WideBlock};
use crate::isa::neon::{Neon, plane_half};

impl Int4Dot for Neon {
    type Int4Acc = [int32x4_t; 2];
    type Int4Sums = [int32x4_t; 2];
    const INT4_BLOCKS: usize = usize::MAX;

    #[inline(always)]
    fn zero_int4_acc(self) -> Self::Int4Acc {
        self.zero_int4_sums()
    }

    #[inline(always)]
    fn multiply_add_int4(
        self,
        acc: Self::Int4Acc,
        codes: &NibbleBlock,
        x: &WideBlock,
    ) -> Self::Int4Acc {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { add(acc, codes, x) }
    }

    #[inline(always)]
    fn zero_int4_sums(self) -> Self::Int4Sums {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { zero() }
    }

    #[inline(always)]
    fn flush_int4(self, sums: Self::Int4Sums, acc: Self::Int4Acc) -> Self::Int4Sums {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { flush(sums, acc) }
    }

    #[inline(always)]
    fn reduce_int4(self, sums: Self::Int4Sums) -> [i32; 2] {
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
fn add(mut acc: [int32x4_t; 2], codes: &NibbleBlock, x: &WideBlock) -> [int32x4_t; 2] {
    let codes = [unpack(codes, 0), unpack(codes, 1)];
    for (acc, part) in acc.iter_mut().zip([&x.high, &x.low]) {
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
        *acc = vpadalq_s16(vpadalq_s16(*acc, products), others);
    }
    acc
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn flush(sums: [int32x4_t; 2], acc: [int32x4_t; 2]) -> [int32x4_t; 2] {
    [vaddq_s32(sums[0], acc[0]), vaddq_s32(sums[1], acc[1])]
}

#[inline]
#[target_feature(enable = "neon")]
fn sum(sums: [int32x4_t; 2]) -> [i32; 2] {
    [vaddvq_s32(sums[0]), vaddvq_s32(sums[1])]
}

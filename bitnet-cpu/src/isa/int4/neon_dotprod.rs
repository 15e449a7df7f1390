//! Products of 4-bit codes with `SDOT`: summed in fours, straight into 32 bits.

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::unpack;
use super::{Int4Dot, NibbleBlock, WideBlock};
use crate::isa::neon::{Neon, plane_half};
use crate::isa::neon_dotprod::NeonDotprod;

impl Int4Dot for NeonDotprod {
    type Int4Acc = [int32x4_t; 2];
    type Int4Sums = [int32x4_t; 2];
    const INT4_BLOCKS: usize = usize::MAX;

    #[inline(always)]
    fn zero_int4_acc(self) -> Self::Int4Acc {
        base(self).zero_int4_acc()
    }

    #[inline(always)]
    fn multiply_add_int4(
        self,
        acc: Self::Int4Acc,
        codes: &NibbleBlock,
        x: &WideBlock,
    ) -> Self::Int4Acc {
        // SAFETY: `self` proves Advanced SIMD and `SDOT`.
        unsafe { add(acc, codes, x) }
    }

    #[inline(always)]
    fn zero_int4_sums(self) -> Self::Int4Sums {
        base(self).zero_int4_sums()
    }

    #[inline(always)]
    fn flush_int4(self, sums: Self::Int4Sums, acc: Self::Int4Acc) -> Self::Int4Sums {
        base(self).flush_int4(sums, acc)
    }

    #[inline(always)]
    fn reduce_int4(self, sums: Self::Int4Sums) -> [i32; 2] {
        base(self).reduce_int4(sums)
    }
}

#[inline(always)]
fn base(isa: NeonDotprod) -> Neon {
    isa.0
}

/// `SDOT`, whose intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: the instruction is there, as the feature says, and touches nothing but its three registers.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add(mut acc: [int32x4_t; 2], codes: &NibbleBlock, x: &WideBlock) -> [int32x4_t; 2] {
    for half in 0..2 {
        for (index, codes) in unpack(codes, half).into_iter().enumerate() {
            acc[0] = sdot(acc[0], codes, plane_half(&x.high[index], half));
            acc[1] = sdot(acc[1], codes, plane_half(&x.low[index], half));
        }
    }
    acc
}

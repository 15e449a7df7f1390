//! Products of 4-bit codes with `SDOT`: summed in fours, straight into 32 bits.

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::unpack;
use super::{NibbleBlock, Nibbles, WideBlock};
use crate::isa::neon::{Neon, plane_half};
use crate::isa::neon_dotprod::NeonDotprod;

impl Nibbles for NeonDotprod {
    type NibbleRun = [int32x4_t; 2];
    type NibbleSums = [int32x4_t; 2];
    const NIBBLE_RUN: usize = usize::MAX;

    #[inline(always)]
    fn start_nibbles(self) -> Self::NibbleRun {
        base(self).start_nibbles()
    }

    #[inline(always)]
    fn add_nibbles(
        self,
        run: Self::NibbleRun,
        codes: &NibbleBlock,
        x: &WideBlock,
    ) -> Self::NibbleRun {
        // SAFETY: `self` proves Advanced SIMD and `SDOT`.
        unsafe { add(run, codes, x) }
    }

    #[inline(always)]
    fn zero_nibbles(self) -> Self::NibbleSums {
        base(self).zero_nibbles()
    }

    #[inline(always)]
    fn widen_nibbles(self, sums: Self::NibbleSums, run: Self::NibbleRun) -> Self::NibbleSums {
        base(self).widen_nibbles(sums, run)
    }

    #[inline(always)]
    fn sum_nibbles(self, sums: Self::NibbleSums) -> [i32; 2] {
        base(self).sum_nibbles(sums)
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
fn add(run: [int32x4_t; 2], codes: &NibbleBlock, x: &WideBlock) -> [int32x4_t; 2] {
    let mut run = run;
    for half in 0..2 {
        for (index, codes) in unpack(codes, half).into_iter().enumerate() {
            run[0] = sdot(run[0], codes, plane_half(&x.high[index], half));
            run[1] = sdot(run[1], codes, plane_half(&x.low[index], half));
        }
    }
    run
}

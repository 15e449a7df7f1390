//! Advanced SIMD with `SDOT`: products summed in fours, straight into 32 bits.

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::{Neon, plane_half};
use super::{ActivationBlock, CodeBlock, HalfCodeBlock, Isa, LANES, Op};
use bitnet_core::simd::IsaLevel;

/// `SDOT` on top of Advanced SIMD.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeonDotprod(Neon);

impl Isa for NeonDotprod {
    type Codes = <Neon as Isa>::Codes;
    type Run = [int32x4_t; 2];
    type Sums = [int32x4_t; 2];
    const RUN: usize = usize::MAX;

    fn detect() -> Option<Self> {
        if IsaLevel::NeonDotprod.is_detected() { Neon::detect().map(Self) } else { None }
    }

    fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "neon,dotprod")]
        fn enter<O: Op>(isa: NeonDotprod, op: O) -> O::Output {
            op.eval(isa)
        }
        // SAFETY: a value of `NeonDotprod` exists only where `detect` found both features.
        unsafe { enter(self, op) }
    }

    single_as_run!();

    #[inline(always)]
    fn start(self) -> Self::Run {
        self.0.zero()
    }

    #[inline(always)]
    fn unpack(self, codes: &CodeBlock) -> Self::Codes {
        self.0.unpack(codes)
    }

    #[inline(always)]
    fn multiply_add(self, run: Self::Run, codes: Self::Codes, x: &ActivationBlock) -> Self::Run {
        // SAFETY: `self` proves Advanced SIMD and `SDOT`.
        unsafe { multiply_add(run, codes, x) }
    }

    #[inline(always)]
    fn zero(self) -> Self::Sums {
        self.0.zero()
    }

    #[inline(always)]
    fn widen(self, sums: Self::Sums, run: Self::Run) -> Self::Sums {
        self.0.widen(sums, run)
    }

    #[inline(always)]
    fn halves(self, sums: Self::Sums) -> [i32; 2] {
        self.0.halves(sums)
    }

    floats_of_base!(Neon);
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
fn multiply_add(
    run: [int32x4_t; 2],
    codes: [[int8x16_t; 4]; 2],
    x: &ActivationBlock,
) -> [int32x4_t; 2] {
    let mut run = run;
    for (half, (run, codes)) in run.iter_mut().zip(codes).enumerate() {
        for (codes, x) in codes.into_iter().zip(&x.0) {
            *run = sdot(*run, codes, plane_half(x, half));
        }
    }
    run
}

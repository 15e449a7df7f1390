//! Advanced SIMD with `SDOT`: products summed in fours, straight into 32 bits.
//!
//! For one token, the codes of planes 1 and 2 stay where they stand in their bytes, and count four and sixteen times
//! in lanes of their own. The largest grows by at most 4·32·128 = 2¹⁴ a block: 2¹⁶ blocks fit 32 bits.

use std::arch::aarch64::*;
use std::arch::asm;

use super::neon::Neon;
use super::{ActivationBlock, CodeBlock, Extension, Int8Dot, Isa, Op};
use bitnet_core::simd::IsaLevel;

/// `SDOT` on top of Advanced SIMD.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeonDotprod(pub(super) Neon);

impl Extension for NeonDotprod {
    type Base = Neon;

    #[inline(always)]
    fn base(self) -> Neon {
        self.0
    }
}

impl Isa for NeonDotprod {
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
}

impl Int8Dot for NeonDotprod {
    type Codes = <Neon as Int8Dot>::Codes;
    type Acc16 = [int32x4_t; 2];
    type Acc32 = [int32x4_t; 2];
    const ACC16_BLOCKS: usize = usize::MAX;

    #[inline(always)]
    fn zero_acc16(self) -> Self::Acc16 {
        self.0.zero_acc32()
    }

    #[inline(always)]
    fn zero_acc32(self) -> Self::Acc32 {
        self.0.zero_acc32()
    }

    #[inline(always)]
    fn unpack(self, codes: &CodeBlock) -> Self::Codes {
        self.0.unpack(codes)
    }

    #[inline(always)]
    fn multiply_add(
        self,
        acc: Self::Acc16,
        codes: Self::Codes,
        x: &ActivationBlock,
    ) -> Self::Acc16 {
        // SAFETY: `self` proves Advanced SIMD and `SDOT`.
        unsafe { multiply_add(acc, codes, x) }
    }

    #[inline(always)]
    fn flush_acc(self, sums: Self::Acc32, acc: Self::Acc16) -> Self::Acc32 {
        self.0.flush_acc(sums, acc)
    }

    #[inline(always)]
    fn reduce_add_halves(self, sums: Self::Acc32) -> [i32; 2] {
        self.0.reduce_add_halves(sums)
    }

    #[inline(always)]
    fn reduce_add(self, sums: [Self::Acc32; 4]) -> [i32; 4] {
        self.0.reduce_add(sums)
    }

    #[inline(always)]
    fn reduce_add_halves8(self, sums: [Self::Acc32; 8]) -> [[i32; 8]; 2] {
        self.0.reduce_add_halves8(sums)
    }

    #[inline(always)]
    fn dot_single<const N: usize>(
        self,
        sums: Self::Acc32,
        codes: &[CodeBlock; N],
        x: &[ActivationBlock; N],
    ) -> Self::Acc32 {
        // SAFETY: `self` proves Advanced SIMD and `SDOT`.
        unsafe { dot_single(sums, codes, x) }
    }
}

/// `acc + code · x`. `SDOT` has no stable intrinsic yet; the loads stand between the products because the compiler
/// would hoist those of a whole tile of tokens and run out of registers.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn multiply_add(
    [mut low, mut high]: [int32x4_t; 2],
    [a, b]: [[int8x16_t; 4]; 2],
    x: &ActivationBlock,
) -> [int32x4_t; 2] {
    // SAFETY: the instructions are there, as the features say, and read the 128 bytes of `x` and nothing else.
    unsafe {
        asm!(
            "ldp {x0:q}, {x1:q}, [{x}]",
            "ldp {x2:q}, {x3:q}, [{x}, #32]",
            "sdot {low:v}.4s, {a0:v}.16b, {x0:v}.16b",
            "sdot {high:v}.4s, {b0:v}.16b, {x1:v}.16b",
            "ldp {x0:q}, {x1:q}, [{x}, #64]",
            "sdot {low:v}.4s, {a1:v}.16b, {x2:v}.16b",
            "sdot {high:v}.4s, {b1:v}.16b, {x3:v}.16b",
            "ldp {x2:q}, {x3:q}, [{x}, #96]",
            "sdot {low:v}.4s, {a2:v}.16b, {x0:v}.16b",
            "sdot {high:v}.4s, {b2:v}.16b, {x1:v}.16b",
            "sdot {low:v}.4s, {a3:v}.16b, {x2:v}.16b",
            "sdot {high:v}.4s, {b3:v}.16b, {x3:v}.16b",
            x = in(reg) x,
            low = inout(vreg) low,
            high = inout(vreg) high,
            a0 = in(vreg) a[0],
            a1 = in(vreg) a[1],
            a2 = in(vreg) a[2],
            a3 = in(vreg) a[3],
            b0 = in(vreg) b[0],
            b1 = in(vreg) b[1],
            b2 = in(vreg) b[2],
            b3 = in(vreg) b[3],
            x0 = out(vreg) _,
            x1 = out(vreg) _,
            x2 = out(vreg) _,
            x3 = out(vreg) _,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    [low, high]
}

/// `acc + code · x`: planes 0 and 3 go to the first sum of a half, plane 1 to the second, plane 2 to the third.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_single(
    [low, high]: [[int32x4_t; 3]; 2],
    codes: &CodeBlock,
    x: &ActivationBlock,
) -> [[int32x4_t; 3]; 2] {
    let ([mut l0, mut l1, mut l2], [mut h0, mut h1, mut h2]) = (low, high);
    let (first, second, third) = (vdupq_n_u8(3), vdupq_n_u8(12), vdupq_n_u8(48));
    // SAFETY: the instructions are there, as the features say, and read the 32 bytes of `codes`, the 128 bytes of `x`
    // and nothing else.
    unsafe {
        asm!(
            "ldp {a:q}, {b:q}, [{codes}]",
            "ldp {x0:q}, {x1:q}, [{x}]",
            "ldp {x2:q}, {x3:q}, [{x}, #32]",
            "and {c:v}.16b, {a:v}.16b, {first:v}.16b",
            "and {d:v}.16b, {b:v}.16b, {first:v}.16b",
            "sdot {l0:v}.4s, {c:v}.16b, {x0:v}.16b",
            "sdot {h0:v}.4s, {d:v}.16b, {x1:v}.16b",
            "ldp {x0:q}, {x1:q}, [{x}, #64]",
            "and {c:v}.16b, {a:v}.16b, {second:v}.16b",
            "and {d:v}.16b, {b:v}.16b, {second:v}.16b",
            "sdot {l1:v}.4s, {c:v}.16b, {x2:v}.16b",
            "sdot {h1:v}.4s, {d:v}.16b, {x3:v}.16b",
            "ldp {x2:q}, {x3:q}, [{x}, #96]",
            "and {c:v}.16b, {a:v}.16b, {third:v}.16b",
            "and {d:v}.16b, {b:v}.16b, {third:v}.16b",
            "sdot {l2:v}.4s, {c:v}.16b, {x0:v}.16b",
            "sdot {h2:v}.4s, {d:v}.16b, {x1:v}.16b",
            "ushr {a:v}.16b, {a:v}.16b, #6",
            "ushr {b:v}.16b, {b:v}.16b, #6",
            "sdot {l0:v}.4s, {a:v}.16b, {x2:v}.16b",
            "sdot {h0:v}.4s, {b:v}.16b, {x3:v}.16b",
            codes = in(reg) codes,
            x = in(reg) x,
            first = in(vreg) first,
            second = in(vreg) second,
            third = in(vreg) third,
            l0 = inout(vreg) l0,
            l1 = inout(vreg) l1,
            l2 = inout(vreg) l2,
            h0 = inout(vreg) h0,
            h1 = inout(vreg) h1,
            h2 = inout(vreg) h2,
            a = out(vreg) _,
            b = out(vreg) _,
            c = out(vreg) _,
            d = out(vreg) _,
            x0 = out(vreg) _,
            x1 = out(vreg) _,
            x2 = out(vreg) _,
            x3 = out(vreg) _,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    [[l0, l1, l2], [h0, h1, h2]]
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot_single<const N: usize>(
    mut sums: [int32x4_t; 2],
    codes: &[CodeBlock; N],
    x: &[ActivationBlock; N],
) -> [int32x4_t; 2] {
    let mut acc = [[vdupq_n_s32(0); 3]; 2];
    for (codes, x) in codes.iter().zip(x) {
        acc = add_single(acc, codes, x);
    }
    for (sums, [once, four, sixteen]) in sums.iter_mut().zip(acc) {
        *sums = vaddq_s32(*sums, vsraq_n_s32::<4>(vsraq_n_s32::<2>(once, four), sixteen));
    }
    sums
}

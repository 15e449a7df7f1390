//! AVX2 with the 256-bit `VPDPBUSD` of AVX-VNNI: products summed in fours, straight into 32 bits.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::{
    ActivationBlock, CodeBlock, ColumnPair, ColumnRun, HalfCodeBlock, Isa, LANES, Op, PlaneSums,
};
use bitnet_core::simd::IsaLevel;
use bitnet_core::ternary::ROW_BLOCK;

/// AVX-VNNI on top of AVX2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AvxVnni(Avx2);

impl AvxVnni {
    /// The level without the instructions that this one adds.
    pub(super) fn base(self) -> Avx2 {
        self.0
    }
}

impl Isa for AvxVnni {
    type Codes = [__m256i; 4];
    type Run = __m256i;
    type Sums = __m256i;
    const RUN: usize = usize::MAX;

    fn detect() -> Option<Self> {
        if IsaLevel::AvxVnni.is_detected() { Avx2::detect().map(Self) } else { None }
    }

    fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
        fn enter<O: Op>(isa: AvxVnni, op: O) -> O::Output {
            op.eval(isa)
        }
        // SAFETY: a value of `AvxVnni` exists only where `detect` found AVX-VNNI and what `Avx2` needs.
        unsafe { enter(self, op) }
    }

    single_as_run!();
    tiles_as_runs!();

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
        // SAFETY: `self` proves AVX2 and AVX-VNNI.
        unsafe { multiply_add(run, codes, x) }
    }

    #[inline(always)]
    fn transpose(self, rows: [[i32; 8]; 8]) -> [[i32; 8]; 8] {
        self.0.transpose(rows)
    }

    #[inline(always)]
    fn quantize(self, x: &[f32; ROW_BLOCK], scale: f32) -> ActivationBlock {
        self.0.quantize(x, scale)
    }

    #[inline(always)]
    fn prefetch<X>(self, line: *const X) {
        self.0.prefetch(line);
    }

    #[inline(always)]
    fn add_columns(self, pairs: &[ColumnPair<'_>; 2], block: usize, run: &mut ColumnRun) {
        self.0.add_columns(pairs, block, run);
    }

    #[inline(always)]
    fn widen_columns(self, run: &mut ColumnRun, sums: &mut PlaneSums) {
        self.0.widen_columns(run, sums);
    }

    #[inline(always)]
    fn whole(self, sums: [Self::Sums; 4]) -> [i32; 4] {
        self.0.whole(sums)
    }

    #[inline(always)]
    fn halves_eight(self, sums: [Self::Sums; 8]) -> [[i32; 8]; 2] {
        self.0.halves_eight(sums)
    }

    #[inline(always)]
    fn zero(self) -> Self::Sums {
        self.0.zero()
    }

    #[inline(always)]
    fn widen(self, sums: Self::Sums, run: Self::Run) -> Self::Sums {
        // SAFETY: `self` proves AVX2.
        unsafe { add(sums, run) }
    }

    #[inline(always)]
    fn halves(self, sums: Self::Sums) -> [i32; 2] {
        self.0.halves(sums)
    }

    floats_of_base!(Avx2);
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn multiply_add(run: __m256i, codes: [__m256i; 4], x: &ActivationBlock) -> __m256i {
    let mut run = run;
    for (codes, x) in codes.into_iter().zip(&x.0) {
        // SAFETY: the array is 32 bytes long, and the load needs no alignment.
        let plane = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
        run = _mm256_dpbusd_avx_epi32(run, codes, plane);
    }
    run
}

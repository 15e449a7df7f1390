//! AVX2 with the 256-bit `VPDPBUSD` of AVX-VNNI: products summed in fours, straight into 32 bits.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::int8::SINGLE_BLOCKS;
use super::{
    ActivationBlock, CodeBlock, ColumnAcc16, ColumnPair, Extension, Int8Dot, Isa, Op, PANEL_ROWS,
    PanelHalf, PlaneSums, avxvnni_panel,
};
use bitnet_core::simd::IsaLevel;

/// AVX-VNNI on top of AVX2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AvxVnni(Avx2);

impl Extension for AvxVnni {
    type Base = Avx2;

    #[inline(always)]
    fn base(self) -> Avx2 {
        self.0
    }
}

impl Isa for AvxVnni {
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
}

impl Int8Dot for AvxVnni {
    type Codes = [__m256i; 4];
    type Acc16 = __m256i;
    type Acc32 = __m256i;
    const ACC16_BLOCKS: usize = usize::MAX;
    const PANELS: bool = true;

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
        // SAFETY: `self` proves AVX2 and AVX-VNNI.
        unsafe { multiply_add(acc, codes, x) }
    }

    #[inline(always)]
    fn flush_acc(self, sums: Self::Acc32, acc: Self::Acc16) -> Self::Acc32 {
        // SAFETY: `self` proves AVX2.
        unsafe { add(sums, acc) }
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
        const { assert!(N <= SINGLE_BLOCKS) };
        // SAFETY: `self` proves AVX2 and AVX-VNNI.
        unsafe { dot_single(sums, codes, x) }
    }

    #[inline(always)]
    fn pack_panel(
        self,
        rows: &[CodeBlock],
        width: usize,
        block: usize,
        panel: &mut [PanelHalf; 2],
    ) {
        // SAFETY: `self` proves AVX2.
        unsafe { avxvnni_panel::pack(rows, width, block, panel) }
    }

    #[inline(always)]
    fn panel_dots<const T: usize>(
        self,
        panel: &[PanelHalf],
        first: usize,
        x: &[[ActivationBlock; T]],
        sums: &mut [[i32; PANEL_ROWS]],
    ) {
        // SAFETY: `self` proves AVX2 and AVX-VNNI.
        unsafe { avxvnni_panel::dots(panel, first, x, sums) }
    }

    #[inline(always)]
    fn transpose8(self, rows: [[i32; 8]; 8]) -> [[i32; 8]; 8] {
        self.0.transpose8(rows)
    }

    #[inline(always)]
    fn add_columns(self, pairs: &[ColumnPair<'_>; 2], block: usize, acc: &mut ColumnAcc16) {
        self.0.add_columns(pairs, block, acc);
    }

    #[inline(always)]
    fn flush_columns(self, acc: &mut ColumnAcc16, sums: &mut PlaneSums) {
        self.0.flush_columns(acc, sums);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn multiply_add(mut acc: __m256i, codes: [__m256i; 4], x: &ActivationBlock) -> __m256i {
    for (codes, x) in codes.into_iter().zip(&x.0) {
        // SAFETY: the array is 32 bytes long, and the load needs no alignment.
        let plane = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
        acc = _mm256_dpbusd_avx_epi32(acc, codes, plane);
    }
    acc
}

/// Leaves the codes where they stand in their bytes, so that nothing is shifted but sums: those of planes 1, 2 and 3
/// are 4, 16 and 64 times as large. The products of [`SINGLE_BLOCKS`] blocks fit 32 bits with that.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn dot_single<const N: usize>(
    sums: __m256i,
    codes: &[CodeBlock; N],
    x: &[ActivationBlock; N],
) -> __m256i {
    let masks = [0x03, 0x0c, 0x30, 0xc0u8 as i8].map(|mask| _mm256_set1_epi8(mask));
    let mut accs = [_mm256_setzero_si256(); 4];
    for (codes, x) in codes.iter().zip(x) {
        // SAFETY: the array is 32 bytes long, and the load needs no alignment.
        let bytes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
        for ((acc, mask), x) in accs.iter_mut().zip(masks).zip(&x.0) {
            // SAFETY: the array is 32 bytes long, and the load needs no alignment.
            let plane = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
            *acc = _mm256_dpbusd_avx_epi32(*acc, _mm256_and_si256(bytes, mask), plane);
        }
    }
    let [first, second, third, fourth] = accs;
    let first = add(add(sums, first), _mm256_srai_epi32::<2>(second));
    add(first, add(_mm256_srai_epi32::<4>(third), _mm256_srai_epi32::<6>(fourth)))
}

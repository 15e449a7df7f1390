//! AVX-512 with `VPDPBUSD`: two planes of a block in one vector of 64 bytes.
//!
//! ```text
//! codes    bytes 0..32 | bytes 0..32     shifted right by 0 | 2, and by 4 | 6
//! x        plane 0     | plane 1         and plane 2 | plane 3
//! 128-bit lanes 0 and 2 hold bytes 0..16, lanes 1 and 3 hold bytes 16..32
//! ```

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::{ActivationBlock, CodeBlock, Isa, LANES, Op};
use bitnet_core::simd::IsaLevel;

/// AVX-512 F, BW, VL and VNNI on top of AVX2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512Vnni(Avx2);

impl Isa for Avx512Vnni {
    type Codes = [__m512i; 2];
    type Run = __m512i;
    type Sums = __m512i;
    const RUN: usize = usize::MAX;

    fn detect() -> Option<Self> {
        if IsaLevel::Avx512Vnni.is_detected() { Avx2::detect().map(Self) } else { None }
    }

    fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
        fn enter<O: Op>(isa: Avx512Vnni, op: O) -> O::Output {
            op.eval(isa)
        }
        // SAFETY: a value of `Avx512Vnni` exists only where `detect` found these features.
        unsafe { enter(self, op) }
    }

    #[inline(always)]
    fn start(self) -> Self::Run {
        self.zero()
    }

    #[inline(always)]
    fn unpack(self, codes: &CodeBlock) -> Self::Codes {
        // SAFETY: `self` proves AVX-512 F and BW.
        unsafe { unpack(codes) }
    }

    #[inline(always)]
    fn multiply_add(self, run: Self::Run, codes: Self::Codes, x: &ActivationBlock) -> Self::Run {
        // SAFETY: `self` proves AVX-512 F and VNNI.
        unsafe { multiply_add(run, codes, x) }
    }

    #[inline(always)]
    fn zero(self) -> Self::Sums {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { zero() }
    }

    #[inline(always)]
    fn widen(self, sums: Self::Sums, run: Self::Run) -> Self::Sums {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { add(sums, run) }
    }

    #[inline(always)]
    fn halves(self, sums: Self::Sums) -> [i32; 2] {
        // SAFETY: `self` proves AVX-512 F.
        let folded = unsafe { fold(sums) };
        self.0.halves(folded)
    }

    #[inline(always)]
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn f16(self, halves: &[[u8; 2]; LANES]) -> [f32; LANES] {
        self.0.f16(halves)
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn zero() -> __m512i {
    _mm512_setzero_si512()
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(a, b)
}

/// Adds lanes 2 and 3 to lanes 0 and 1.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn fold(sums: __m512i) -> __m256i {
    let (low, high) = (_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
    _mm256_add_epi32(low, high)
}

/// Shifts of 16-bit lanes bring in bits of the neighbouring byte only above bit 1, where the mask takes them away.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack(codes: &CodeBlock) -> [__m512i; 2] {
    // SAFETY: the array is 32 bytes long, and the load needs no alignment.
    let bytes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
    let twice = _mm512_broadcast_i64x4(bytes);
    let first = _mm512_inserti64x4::<1>(_mm512_setzero_si512(), _mm256_set1_epi16(2));
    let second = _mm512_add_epi16(first, _mm512_set1_epi16(4));
    let mask = _mm512_set1_epi8(3);
    [
        _mm512_and_si512(_mm512_srlv_epi16(twice, first), mask),
        _mm512_and_si512(_mm512_srlv_epi16(twice, second), mask),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn multiply_add(run: __m512i, codes: [__m512i; 2], x: &ActivationBlock) -> __m512i {
    let mut run = run;
    for (codes, planes) in codes.into_iter().zip(x.0.as_chunks::<2>().0) {
        // SAFETY: two planes are 64 bytes, and the load needs no alignment.
        let planes = unsafe { _mm512_loadu_si512(planes.as_ptr().cast()) };
        run = _mm512_dpbusd_epi32(run, codes, planes);
    }
    run
}

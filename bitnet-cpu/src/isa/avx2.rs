//! AVX2, FMA and F16C: 32 bytes of codes at a time, products in pairs of 16 bits.
//!
//! A lane of 16 bits takes four `VPMADDUBSW` results a block. Codes are at most 2 and x is in -128..=127, so one is in
//! -2·2·128..=2·2·127 and a block in -2048..=2032: sixteen blocks stay in -32768..=32512, which fits 16 bits.

use std::arch::x86_64::*;

use super::{ActivationBlock, CodeBlock, Isa, LANES, Op};
use bitnet_core::simd::IsaLevel;

/// AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Isa for Avx2 {
    type Codes = [__m256i; 4];
    type Run = __m256i;
    type Sums = __m256i;
    const RUN: usize = 16;

    fn detect() -> Option<Self> {
        (IsaLevel::Avx2.is_detected() && is_x86_feature_detected!("f16c")).then_some(Self(()))
    }

    fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn enter<O: Op>(isa: Avx2, op: O) -> O::Output {
            op.eval(isa)
        }
        // SAFETY: a value of `Avx2` exists only where `detect` found the three features.
        unsafe { enter(self, op) }
    }

    #[inline(always)]
    fn start(self) -> Self::Run {
        self.zero()
    }

    #[inline(always)]
    fn unpack(self, codes: &CodeBlock) -> Self::Codes {
        // SAFETY: `self` proves AVX2.
        unsafe { unpack(codes) }
    }

    #[inline(always)]
    fn multiply_add(self, run: Self::Run, codes: Self::Codes, x: &ActivationBlock) -> Self::Run {
        // SAFETY: `self` proves AVX2.
        unsafe { multiply_add(run, codes, x) }
    }

    #[inline(always)]
    fn zero(self) -> Self::Sums {
        // SAFETY: `self` proves AVX2.
        unsafe { zero() }
    }

    #[inline(always)]
    fn widen(self, sums: Self::Sums, run: Self::Run) -> Self::Sums {
        // SAFETY: `self` proves AVX2.
        unsafe { widen(sums, run) }
    }

    #[inline(always)]
    fn halves(self, sums: Self::Sums) -> [i32; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe { halves(sums) }
    }

    #[inline(always)]
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn f16(self, halves: &[[u8; 2]; LANES]) -> [f32; LANES] {
        // SAFETY: `self` proves AVX2 and F16C.
        unsafe { f16(halves) }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn zero() -> __m256i {
    _mm256_setzero_si256()
}

/// Plane `i` of the codes: bits `2i` and `2i + 1` of every byte. Shifts of 16-bit lanes bring in bits of the
/// neighbouring byte only above bit 1, where the mask takes them away.
#[inline]
#[target_feature(enable = "avx2")]
fn unpack(codes: &CodeBlock) -> [__m256i; 4] {
    // SAFETY: the array is 32 bytes long, and the load needs no alignment.
    let bytes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
    let mask = _mm256_set1_epi8(3);
    [
        _mm256_and_si256(bytes, mask),
        _mm256_and_si256(_mm256_srli_epi16::<2>(bytes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask),
        _mm256_and_si256(_mm256_srli_epi16::<6>(bytes), mask),
    ]
}

/// One plane of the activations.
#[inline]
#[target_feature(enable = "avx2")]
fn plane(x: &[i8; 32]) -> __m256i {
    // SAFETY: the array is 32 bytes long, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn multiply_add(run: __m256i, codes: [__m256i; 4], x: &ActivationBlock) -> __m256i {
    let products = [
        _mm256_maddubs_epi16(codes[0], plane(&x.0[0])),
        _mm256_maddubs_epi16(codes[1], plane(&x.0[1])),
        _mm256_maddubs_epi16(codes[2], plane(&x.0[2])),
        _mm256_maddubs_epi16(codes[3], plane(&x.0[3])),
    ];
    let low = _mm256_add_epi16(products[0], products[1]);
    let high = _mm256_add_epi16(products[2], products[3]);
    _mm256_add_epi16(run, _mm256_add_epi16(low, high))
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen(sums: __m256i, run: __m256i) -> __m256i {
    _mm256_add_epi32(sums, _mm256_madd_epi16(run, _mm256_set1_epi16(1)))
}

/// The 128-bit halves of a vector hold bytes 0..16 and 16..32.
#[inline]
#[target_feature(enable = "avx2")]
fn halves(sums: __m256i) -> [i32; 2] {
    let pairs = _mm256_hadd_epi32(sums, sums);
    let sums = _mm256_hadd_epi32(pairs, pairs);
    [_mm256_extract_epi32::<0>(sums), _mm256_extract_epi32::<4>(sums)]
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn f16(halves: &[[u8; 2]; LANES]) -> [f32; LANES] {
    let mut out = [0f32; LANES];
    for (out, halves) in out.as_chunks_mut::<8>().0.iter_mut().zip(halves.as_chunks::<8>().0) {
        // SAFETY: eight halves are 16 bytes, and the load needs no alignment.
        let bits = unsafe { _mm_loadu_si128(halves.as_ptr().cast()) };
        let numbers = _mm256_cvtph_ps(bits);
        // SAFETY: eight numbers are 32 bytes, and the store needs no alignment.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), numbers) };
    }
    out
}

//! AVX2, FMA and F16C: 32 bytes of codes at a time, products in pairs of 16 bits.
//!
//! A lane of 16 bits takes four `VPMADDUBSW` results a block. Codes are at most 2 and x is in -128..=127, so one is in
//! -2·2·128..=2·2·127 and a block in -2048..=2032: sixteen blocks stay in -32768..=32512, which fits 16 bits. Code 3 has
//! groups of at most four blocks, flushed one by one: 4·4·2·3·128 = 12288.
//!
//! For one token, planes 1 and 3 are left two bits higher than they stand for, which saves shifts. Their sums have
//! lanes of their own, four times as large: in -8·2·128·2..=8·2·127·2 a block. Eight blocks stay in -32768..=32512;
//! a shift by two bits then brings them to the others exactly, since every term is a multiple of four. Of code 3, four blocks
//! stay in 4·8·3·128·2 = 24576.

use std::arch::x86_64::*;

use super::int8::{SINGLE_BLOCKS, Tile8Start};
use super::{
    ActivationBlock, CodeBlock, ColumnAcc16, ColumnPair, FloatLanes, Int8Dot, Isa, LANES, Op,
    PlaneSums, avx2_quantize, avx2_sparse, avx2_tile8,
};
use bitnet_core::simd::IsaLevel;
use bitnet_core::ternary::ROW_BLOCK;

/// AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Isa for Avx2 {
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
}

impl Int8Dot for Avx2 {
    type Codes = [__m256i; 4];
    type Acc16 = __m256i;
    type Acc32 = __m256i;
    const ACC16_BLOCKS: usize = 16;
    const TILE8_BLOCKS: usize = avx2_tile8::BLOCKS;

    #[inline(always)]
    fn zero_acc16(self) -> Self::Acc16 {
        self.zero_acc32()
    }

    #[inline(always)]
    fn zero_acc32(self) -> Self::Acc32 {
        // SAFETY: `self` proves AVX2.
        unsafe { zero() }
    }

    #[inline(always)]
    fn unpack(self, codes: &CodeBlock) -> Self::Codes {
        // SAFETY: `self` proves AVX2.
        unsafe { unpack(codes) }
    }

    #[inline(always)]
    fn multiply_add(
        self,
        acc: Self::Acc16,
        codes: Self::Codes,
        x: &ActivationBlock,
    ) -> Self::Acc16 {
        // SAFETY: `self` proves AVX2.
        unsafe { multiply_add(acc, codes, x) }
    }

    #[inline(always)]
    fn flush_acc(self, sums: Self::Acc32, acc: Self::Acc16) -> Self::Acc32 {
        // SAFETY: `self` proves AVX2.
        unsafe { flush_acc(sums, acc) }
    }

    #[inline(always)]
    fn reduce_add_halves(self, sums: Self::Acc32) -> [i32; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe { reduce_add_halves(sums) }
    }

    #[inline(always)]
    fn reduce_add(self, sums: [Self::Acc32; 4]) -> [i32; 4] {
        // SAFETY: `self` proves AVX2.
        unsafe { reduce_add(sums) }
    }

    #[inline(always)]
    fn reduce_add_halves8(self, sums: [Self::Acc32; 8]) -> [[i32; 8]; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe { reduce_add_halves8(sums) }
    }

    #[inline(always)]
    fn dot_single<const N: usize>(
        self,
        sums: Self::Acc32,
        codes: &[CodeBlock; N],
        x: &[ActivationBlock; N],
    ) -> Self::Acc32 {
        const { assert!(N <= SINGLE_BLOCKS) };
        // SAFETY: `self` proves AVX2.
        unsafe { dot_single(sums, codes, x) }
    }

    #[inline(always)]
    fn tile8_start(self, _halves: &[[i32; 8]; 2], x: &[[ActivationBlock; 8]]) -> Tile8Start {
        // SAFETY: `self` proves AVX2.
        unsafe { avx2_tile8::start(x) }
    }

    #[inline(always)]
    fn tile8_dots(
        self,
        start: &Tile8Start,
        codes: &[CodeBlock],
        x: &[[ActivationBlock; 8]],
    ) -> [i32; 8] {
        // SAFETY: `self` proves AVX2.
        let sums = unsafe { avx2_tile8::sums(start, codes, x) };
        // SAFETY: `self` proves AVX2.
        unsafe { reduce_add8(sums) }
    }

    #[inline(always)]
    fn tile8_halves(
        self,
        start: &Tile8Start,
        codes: &[CodeBlock],
        x: &[[ActivationBlock; 8]],
    ) -> [[i32; 8]; 2] {
        // SAFETY: `self` proves AVX2.
        let sums = unsafe { avx2_tile8::sums(start, codes, x) };
        // SAFETY: `self` proves AVX2.
        unsafe { reduce_add_halves8(sums) }
    }

    #[inline(always)]
    fn transpose8(self, rows: [[i32; 8]; 8]) -> [[i32; 8]; 8] {
        // SAFETY: `self` proves AVX2.
        unsafe { avx2_tile8::transpose(rows) }
    }

    #[inline(always)]
    fn add_columns(self, pairs: &[ColumnPair<'_>; 2], block: usize, acc: &mut ColumnAcc16) {
        // SAFETY: `self` proves AVX2.
        unsafe { avx2_sparse::add(pairs, block, acc) }
    }

    #[inline(always)]
    fn flush_columns(self, acc: &mut ColumnAcc16, sums: &mut PlaneSums) {
        // SAFETY: `self` proves AVX2.
        unsafe { avx2_sparse::flush(acc, sums) }
    }
}

impl FloatLanes for Avx2 {
    type Floats = [__m256; 2];
    type Sums = __m256i;
    type Doubles = [__m256d; 2];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Floats {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { splat(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::Floats {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { load(x) }
    }

    #[inline(always)]
    fn load_i8(self, x: &[u8; LANES]) -> Self::Floats {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { load_i8(x) }
    }

    #[inline(always)]
    fn load_f32(self, x: &[[u8; 4]; LANES]) -> Self::Floats {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { load_f32(x) }
    }

    #[inline(always)]
    fn load_bf16(self, x: &[[u8; 2]; LANES]) -> Self::Floats {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { load_bf16(x) }
    }

    #[inline(always)]
    fn load_f16(self, x: &[[u8; 2]; LANES]) -> Self::Floats {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { load_f16(x) }
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { mul_add(a, b, c) }
    }

    #[inline(always)]
    fn zero_doubles(self) -> Self::Doubles {
        // SAFETY: `self` proves AVX2.
        unsafe { [_mm256_setzero_pd(); 2] }
    }

    #[inline(always)]
    fn add_scaled<const HALVES: bool>(
        self,
        doubles: Self::Doubles,
        sums: Self::Sums,
        start: &[i32; 8],
        scale: [f64; 2],
    ) -> Self::Doubles {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { add_scaled(doubles, sums, start, scale) }
    }

    #[inline(always)]
    fn reduce_doubles(self, doubles: Self::Doubles) -> f64 {
        // SAFETY: `self` proves AVX2.
        unsafe { reduce_doubles(doubles) }
    }

    #[inline(always)]
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { max(a, b) }
    }

    #[inline(always)]
    fn store(self, x: Self::Floats) -> [f32; LANES] {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { store(x) }
    }

    #[inline(always)]
    fn quantize(self, x: &[f32; ROW_BLOCK], scale: f32) -> ActivationBlock {
        // SAFETY: `self` proves AVX2.
        unsafe { avx2_quantize::quantize(x, scale) }
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
fn multiply_add(mut acc: __m256i, codes: [__m256i; 4], x: &ActivationBlock) -> __m256i {
    for (codes, x) in codes.into_iter().zip(&x.0) {
        acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(codes, plane(x)));
    }
    acc
}

/// Of eight blocks, `low` is at most half of what 16 bits hold, and so is a quarter of `high`.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_single<const N: usize>(
    sums: __m256i,
    codes: &[CodeBlock; N],
    x: &[ActivationBlock; N],
) -> __m256i {
    let (mut low, mut high) = (zero(), zero());
    let (first, second) = (_mm256_set1_epi8(3), _mm256_set1_epi8(12));
    for (codes, x) in codes.iter().zip(x) {
        // SAFETY: the array is 32 bytes long, and the load needs no alignment.
        let bytes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
        let upper = _mm256_srli_epi16::<4>(bytes);
        let [x0, x1, x2, x3] = [plane(&x.0[0]), plane(&x.0[1]), plane(&x.0[2]), plane(&x.0[3])];
        low = _mm256_add_epi16(low, _mm256_maddubs_epi16(_mm256_and_si256(bytes, first), x0));
        high = _mm256_add_epi16(high, _mm256_maddubs_epi16(_mm256_and_si256(bytes, second), x1));
        low = _mm256_add_epi16(low, _mm256_maddubs_epi16(_mm256_and_si256(upper, first), x2));
        high = _mm256_add_epi16(high, _mm256_maddubs_epi16(_mm256_and_si256(upper, second), x3));
    }
    flush_acc(sums, _mm256_add_epi16(low, _mm256_srai_epi16::<2>(high)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn flush_acc(sums: __m256i, acc: __m256i) -> __m256i {
    _mm256_add_epi32(sums, _mm256_madd_epi16(acc, _mm256_set1_epi16(1)))
}

/// The 128-bit halves of a vector hold bytes 0..16 and 16..32.
#[inline]
#[target_feature(enable = "avx2")]
fn reduce_add_halves(sums: __m256i) -> [i32; 2] {
    let pairs = _mm256_hadd_epi32(sums, sums);
    let sums = _mm256_hadd_epi32(pairs, pairs);
    [_mm256_extract_epi32::<0>(sums), _mm256_extract_epi32::<4>(sums)]
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_scaled(
    [low, high]: [__m256d; 2],
    sums: __m256i,
    start: &[i32; 8],
    scale: [f64; 2],
) -> [__m256d; 2] {
    // SAFETY: the array is 32 bytes long, and the load needs no alignment.
    let start = unsafe { _mm256_loadu_si256(start.as_ptr().cast()) };
    let dots = _mm256_add_epi32(sums, start);
    let halves = [_mm256_castsi256_si128(dots), _mm256_extracti128_si256::<1>(dots)];
    let [first, second] = halves.map(|half| _mm256_cvtepi32_pd(half));
    [
        _mm256_fmadd_pd(first, _mm256_set1_pd(scale[0]), low),
        _mm256_fmadd_pd(second, _mm256_set1_pd(scale[1]), high),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn reduce_doubles([low, high]: [__m256d; 2]) -> f64 {
    let four = _mm256_add_pd(low, high);
    let two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd::<1>(four));
    _mm_cvtsd_f64(two) + _mm_cvtsd_f64(_mm_unpackhi_pd(two, two))
}

#[inline]
#[target_feature(enable = "avx2")]
fn reduce_add(sums: [__m256i; 4]) -> [i32; 4] {
    let low = _mm256_hadd_epi32(sums[0], sums[1]);
    let high = _mm256_hadd_epi32(sums[2], sums[3]);
    let sums = _mm256_hadd_epi32(low, high);
    let four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let mut out = [0; 4];
    // SAFETY: four numbers are 16 bytes, and the store needs no alignment.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), four) };
    out
}

/// Adds neighbours until each 128-bit half holds the half sums of four.
#[inline]
#[target_feature(enable = "avx2")]
fn half_sums([a, b, c, d, e, f, g, h]: [__m256i; 8]) -> [__m256i; 2] {
    let first = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let second = _mm256_hadd_epi32(_mm256_hadd_epi32(e, f), _mm256_hadd_epi32(g, h));
    let low = _mm256_permute2x128_si256::<0x20>(first, second);
    [low, _mm256_permute2x128_si256::<0x31>(first, second)]
}

/// The lanes in order.
#[inline]
#[target_feature(enable = "avx2")]
fn numbers(x: __m256i) -> [i32; 8] {
    let mut out = [0; 8];
    // SAFETY: eight numbers are 32 bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), x) };
    out
}

#[inline]
#[target_feature(enable = "avx2")]
fn reduce_add_halves8(sums: [__m256i; 8]) -> [[i32; 8]; 2] {
    let [low, high] = half_sums(sums);
    [numbers(low), numbers(high)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn reduce_add8(sums: [__m256i; 8]) -> [i32; 8] {
    let [low, high] = half_sums(sums);
    numbers(_mm256_add_epi32(low, high))
}

#[inline]
#[target_feature(enable = "avx2")]
fn splat(x: f32) -> [__m256; 2] {
    [_mm256_set1_ps(x); 2]
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(x: &[f32; LANES]) -> [__m256; 2] {
    let eight = |x: &[f32; 8]| {
        // SAFETY: eight numbers are 32 bytes, and the load needs no alignment.
        unsafe { _mm256_loadu_ps(x.as_ptr()) }
    };
    let (halves, _) = x.as_chunks();
    [eight(&halves[0]), eight(&halves[1])]
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_f32(x: &[[u8; 4]; LANES]) -> [__m256; 2] {
    let eight = |x: &[[u8; 4]; 8]| {
        // SAFETY: eight numbers are 32 bytes, and the load needs no alignment.
        unsafe { _mm256_loadu_ps(x.as_ptr().cast()) }
    };
    let (halves, _) = x.as_chunks();
    [eight(&halves[0]), eight(&halves[1])]
}

/// Eight 16-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn eight(x: &[[u8; 2]; 8]) -> __m128i {
    // SAFETY: eight numbers are 16 bytes, and the load needs no alignment.
    unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_bf16(x: &[[u8; 2]; LANES]) -> [__m256; 2] {
    let (halves, _) = x.as_chunks();
    let widen = |x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(eight(x))));
    [widen(&halves[0]), widen(&halves[1])]
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load_f16(x: &[[u8; 2]; LANES]) -> [__m256; 2] {
    let (halves, _) = x.as_chunks();
    [_mm256_cvtph_ps(eight(&halves[0])), _mm256_cvtph_ps(eight(&halves[1]))]
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_i8(x: &[u8; LANES]) -> [__m256; 2] {
    // SAFETY: the array is 16 bytes long, and the load needs no alignment.
    let x = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
    let high = _mm_unpackhi_epi64(x, x);
    [x, high].map(|x| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)))
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn mul_add(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
    [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
}

#[inline]
#[target_feature(enable = "avx2")]
fn max(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
    [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])]
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(x: [__m256; 2]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for (out, x) in out.as_chunks_mut::<8>().0.iter_mut().zip(x) {
        // SAFETY: eight numbers are 32 bytes, and the store needs no alignment.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), x) };
    }
    out
}

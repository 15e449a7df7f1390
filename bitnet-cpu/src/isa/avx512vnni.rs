//! AVX-512 with `VPDPBUSD`: two planes of a block in one vector of 64 bytes.
//!
//! ```text
//! codes    bytes 0..32 | bytes 0..32     shifted right by 0 | 2, and by 4 | 6
//! x        plane 0     | plane 1         and plane 2 | plane 3
//! 128-bit lanes 0 and 2 hold bytes 0..16, lanes 1 and 3 hold bytes 16..32
//! ```

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::int8::SINGLE_BLOCKS;
use super::{
    ActivationBlock, CodeBlock, ColumnAcc16, ColumnPair, FloatLanes, Int8Dot, Isa, LANES, Op,
    PANEL_ROWS, PanelHalf, PlaneSums, avx512_panel,
};
use bitnet_core::simd::IsaLevel;
use bitnet_core::ternary::ROW_BLOCK;

/// AVX-512 F, BW, VL and VNNI on top of AVX2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512Vnni(Avx2);

impl Isa for Avx512Vnni {
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
}

impl Int8Dot for Avx512Vnni {
    type Codes = [__m512i; 2];
    type Acc16 = __m512i;
    type Acc32 = __m512i;
    const ACC16_BLOCKS: usize = usize::MAX;
    const PANELS: bool = true;
    const PANEL_TOKENS: usize = 16;
    const EIGHT_BY_FOUR: bool = true;

    #[inline(always)]
    fn zero_acc16(self) -> Self::Acc16 {
        self.zero_acc32()
    }

    #[inline(always)]
    fn zero_acc32(self) -> Self::Acc32 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { zero() }
    }

    #[inline(always)]
    fn unpack(self, codes: &CodeBlock) -> Self::Codes {
        // SAFETY: `self` proves AVX-512 F and BW.
        unsafe { unpack(codes) }
    }

    #[inline(always)]
    fn multiply_add(
        self,
        acc: Self::Acc16,
        codes: Self::Codes,
        x: &ActivationBlock,
    ) -> Self::Acc16 {
        // SAFETY: `self` proves AVX-512 F and VNNI.
        unsafe { multiply_add(acc, codes, x) }
    }

    #[inline(always)]
    fn flush_acc(self, sums: Self::Acc32, acc: Self::Acc16) -> Self::Acc32 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { add(sums, acc) }
    }

    #[inline(always)]
    fn reduce_add_halves(self, sums: Self::Acc32) -> [i32; 2] {
        // SAFETY: `self` proves AVX-512 F.
        let folded = unsafe { fold(sums) };
        self.0.reduce_add_halves(folded)
    }

    #[inline(always)]
    fn reduce_add(self, sums: [Self::Acc32; 4]) -> [i32; 4] {
        // SAFETY: `self` proves AVX-512 F.
        self.0.reduce_add(unsafe { fold_each(sums) })
    }

    #[inline(always)]
    fn reduce_add_halves8(self, sums: [Self::Acc32; 8]) -> [[i32; 8]; 2] {
        // SAFETY: `self` proves AVX-512 F.
        self.0.reduce_add_halves8(unsafe { fold_each(sums) })
    }

    #[inline(always)]
    fn dot_single<const N: usize>(
        self,
        sums: Self::Acc32,
        codes: &[CodeBlock; N],
        x: &[ActivationBlock; N],
    ) -> Self::Acc32 {
        const { assert!(N <= SINGLE_BLOCKS) };
        // SAFETY: `self` proves AVX-512 F and VNNI.
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
        // SAFETY: `self` proves AVX-512 F.
        unsafe { avx512_panel::pack(rows, width, block, panel) }
    }

    #[inline(always)]
    fn panel_dots<const T: usize>(
        self,
        panel: &[PanelHalf],
        first: usize,
        x: &[[ActivationBlock; T]],
        sums: &mut [[i32; PANEL_ROWS]],
    ) {
        // SAFETY: `self` proves AVX-512 F and VNNI.
        unsafe { avx512_panel::dots(panel, first, x, sums) }
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

impl FloatLanes for Avx512Vnni {
    type Floats = __m512;
    type Sums = __m512i;
    type Doubles = __m512d;
    const SHARED_QUERIES: usize = 8;
    const PAIRS: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Floats {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { splat(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::Floats {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { load(x) }
    }

    #[inline(always)]
    fn load_i8(self, x: &[u8; LANES]) -> Self::Floats {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { load_i8(x) }
    }

    #[inline(always)]
    fn load_f32(self, x: &[[u8; 4]; LANES]) -> Self::Floats {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { load_f32(x) }
    }

    #[inline(always)]
    fn load_bf16(self, x: &[[u8; 2]; LANES]) -> Self::Floats {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { load_bf16(x) }
    }

    #[inline(always)]
    fn load_f16(self, x: &[[u8; 2]; LANES]) -> Self::Floats {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { load_f16(x) }
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { mul_add(a, b, c) }
    }

    #[inline(always)]
    fn zero_doubles(self) -> Self::Doubles {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_setzero_pd() }
    }

    #[inline(always)]
    fn add_scaled<const HALVES: bool>(
        self,
        doubles: Self::Doubles,
        sums: Self::Sums,
        start: &[i32; 8],
        scale: [f64; 2],
    ) -> Self::Doubles {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { add_scaled::<HALVES>(doubles, sums, start, scale) }
    }

    #[inline(always)]
    fn reduce_doubles(self, doubles: Self::Doubles) -> f64 {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { _mm512_reduce_add_pd(doubles) }
    }

    #[inline(always)]
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { max(a, b) }
    }

    #[inline(always)]
    fn store(self, x: Self::Floats) -> [f32; LANES] {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { store(x) }
    }

    #[inline(always)]
    fn quantize(self, x: &[f32; ROW_BLOCK], scale: f32) -> ActivationBlock {
        self.0.quantize(x, scale)
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

#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn add_scaled<const HALVES: bool>(
    doubles: __m512d,
    sums: __m512i,
    start: &[i32; 8],
    [low, high]: [f64; 2],
) -> __m512d {
    // SAFETY: the array is 32 bytes long, and the load needs no alignment.
    let start = unsafe { _mm256_loadu_si256(start.as_ptr().cast()) };
    let dots = _mm512_cvtepi32_pd(_mm256_add_epi32(fold(sums), start));
    let scale = if HALVES {
        _mm512_insertf64x4::<1>(_mm512_set1_pd(low), _mm256_set1_pd(high))
    } else {
        _mm512_set1_pd(low)
    };
    _mm512_fmadd_pd(dots, scale, doubles)
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
fn multiply_add(mut acc: __m512i, codes: [__m512i; 2], x: &ActivationBlock) -> __m512i {
    for (codes, planes) in codes.into_iter().zip(x.0.as_chunks::<2>().0) {
        // SAFETY: two planes are 64 bytes, and the load needs no alignment.
        let planes = unsafe { _mm512_loadu_si512(planes.as_ptr().cast()) };
        acc = _mm512_dpbusd_epi32(acc, codes, planes);
    }
    acc
}

/// Leaves the codes where they stand in their bytes, so that nothing is shifted but sums: those of planes 1, 2 and 3
/// are 4, 16 and 64 times as large. The products of [`SINGLE_BLOCKS`] blocks fit 32 bits with that.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot_single<const N: usize>(
    sums: __m512i,
    codes: &[CodeBlock; N],
    x: &[ActivationBlock; N],
) -> __m512i {
    let planes = |first, second| {
        let first = _mm512_castsi256_si512(_mm256_set1_epi8(first));
        _mm512_inserti64x4::<1>(first, _mm256_set1_epi8(second))
    };
    let masks = [planes(0x03, 0x0c), planes(0x30, 0xc0u8 as i8)];
    let mut accs = [zero(); 2];
    for (codes, x) in codes.iter().zip(x) {
        // SAFETY: the array is 32 bytes long, and the load needs no alignment.
        let bytes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
        let twice = _mm512_broadcast_i64x4(bytes);
        for ((acc, mask), planes) in accs.iter_mut().zip(masks).zip(x.0.as_chunks::<2>().0) {
            // SAFETY: two planes are 64 bytes, and the load needs no alignment.
            let planes = unsafe { _mm512_loadu_si512(planes.as_ptr().cast()) };
            *acc = _mm512_dpbusd_epi32(*acc, _mm512_and_si512(twice, mask), planes);
        }
    }
    let first = _mm512_inserti64x4::<1>(zero(), _mm256_set1_epi32(2));
    let second = _mm512_add_epi32(first, _mm512_set1_epi32(4));
    let [low, high] = accs;
    let sums = add(sums, _mm512_srav_epi32(low, first));
    add(sums, _mm512_srav_epi32(high, second))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn fold_each<const N: usize>(sums: [__m512i; N]) -> [__m256i; N] {
    let mut out = [_mm256_setzero_si256(); N];
    for (out, sums) in out.iter_mut().zip(sums) {
        *out = fold(sums);
    }
    out
}

#[inline]
#[target_feature(enable = "avx512f")]
fn splat(x: f32) -> __m512 {
    _mm512_set1_ps(x)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[f32; LANES]) -> __m512 {
    // SAFETY: the array is 64 bytes long, and the load needs no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_f32(x: &[[u8; 4]; LANES]) -> __m512 {
    // SAFETY: the array is 64 bytes long, and the load needs no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr().cast()) }
}

/// Sixteen 16-bit numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn sixteen(x: &[[u8; 2]; LANES]) -> __m256i {
    // SAFETY: the array is 32 bytes long, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_bf16(x: &[[u8; 2]; LANES]) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(sixteen(x))))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_f16(x: &[[u8; 2]; LANES]) -> __m512 {
    _mm512_cvtph_ps(sixteen(x))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_i8(x: &[u8; LANES]) -> __m512 {
    // SAFETY: the array is 16 bytes long, and the load needs no alignment.
    let x = unsafe { _mm_loadu_si128(x.as_ptr().cast()) };
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
    _mm512_fmadd_ps(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn max(a: __m512, b: __m512) -> __m512 {
    _mm512_max_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(x: __m512) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    // SAFETY: the array is 64 bytes long, and the store needs no alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) };
    out
}

//! AVX2: columns of weights times one activation each, added into lanes of 16 bits.
//!
//! The codes of two columns stand in turn, so that `VPMADDUBSW` adds the products of one output. As for one token,
//! planes 1 and 3 are left two bits higher; a pair adds at most 8 · 2 · 128 to one of their lanes, so sixteen pairs
//! stay in -32768..=32512.
//!
//! ```text
//! acc[plane][ 0..16]   outputs 0..8 and 16..24 of the plane
//! acc[plane][16..32]   outputs 8..16 and 24..32
//! ```

use std::arch::x86_64::*;

use super::{CodeBlock, ColumnAcc16, ColumnPair, PlaneSums};

/// The codes of a pair of columns at one block, in turn: those
/// of outputs 0..8 and 16..24 of each plane, then the others.
#[inline]
#[target_feature(enable = "avx2")]
fn interleaved(pair: &ColumnPair<'_>, block: usize) -> [__m256i; 2] {
    let [a, b] = [column(&pair.codes[0][block]), column(&pair.codes[1][block])];
    [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)]
}

/// The four planes of interleaved codes, planes 1 and 3 two bits higher.
#[inline]
#[target_feature(enable = "avx2")]
fn planes(codes: __m256i) -> [__m256i; 4] {
    let (first, second) = (_mm256_set1_epi8(3), _mm256_set1_epi8(12));
    let upper = _mm256_srli_epi16::<4>(codes);
    [
        _mm256_and_si256(codes, first),
        _mm256_and_si256(codes, second),
        _mm256_and_si256(upper, first),
        _mm256_and_si256(upper, second),
    ]
}

/// `acc + Σ code · x` of two pairs of columns.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add(pairs: &[ColumnPair<'_>; 2], block: usize, acc: &mut ColumnAcc16) {
    let both = |x: [i8; 2]| _mm256_set1_epi16(i16::from_le_bytes(x.map(i8::cast_unsigned)));
    let (x, y) = (both(pairs[0].x), both(pairs[1].x));
    let (first, second) = (interleaved(&pairs[0], block), interleaved(&pairs[1], block));
    for half in 0..2 {
        let codes = planes(first[half]).into_iter().zip(planes(second[half]));
        for (plane, (a, b)) in acc.0.iter_mut().zip(codes) {
            let lanes = &mut plane.as_chunks_mut::<16>().0[half];
            let products = _mm256_add_epi16(_mm256_maddubs_epi16(a, x), _mm256_maddubs_epi16(b, y));
            let sum = _mm256_add_epi16(load(lanes), products);
            store(lanes, sum);
        }
    }
}

/// `sums + acc`, which is empty afterwards.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn flush(acc: &mut ColumnAcc16, sums: &mut PlaneSums) {
    for (plane, (sums, acc)) in sums.iter_mut().zip(&mut acc.0).enumerate() {
        let (eights, _) = sums.as_chunks_mut::<8>();
        for (half, lanes) in acc.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let acc = load(lanes);
            let acc = if plane % 2 == 1 { _mm256_srai_epi16::<2>(acc) } else { acc };
            add_eight(&mut eights[half], _mm256_castsi256_si128(acc));
            add_eight(&mut eights[half + 2], _mm256_extracti128_si256::<1>(acc));
            store(lanes, _mm256_setzero_si256());
        }
    }
}

/// The codes of 128 outputs of one column.
#[inline]
#[target_feature(enable = "avx2")]
fn column(codes: &CodeBlock) -> __m256i {
    // SAFETY: the array is 32 bytes long, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(lanes: &[i16; 16]) -> __m256i {
    // SAFETY: sixteen numbers are 32 bytes, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(lanes: &mut [i16; 16], x: __m256i) {
    // SAFETY: sixteen numbers are 32 bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), x) };
}

/// `sums + acc`, each lane widened.
#[inline]
#[target_feature(enable = "avx2")]
fn add_eight(sums: &mut [i32; 8], acc: __m128i) {
    // SAFETY: eight numbers are 32 bytes, and the load needs no alignment.
    let old = unsafe { _mm256_loadu_si256(sums.as_ptr().cast()) };
    let new = _mm256_add_epi32(old, _mm256_cvtepi16_epi32(acc));
    // SAFETY: eight numbers are 32 bytes, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), new) };
}

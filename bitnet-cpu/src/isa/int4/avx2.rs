//! Products of 4-bit codes with AVX2: `VPMADDUBSW` sums them in pairs of 16 bits.
//!
//! A lane takes two results a block and part. One is in -2·15·128..=2·15·127, that is -3840..=3810, so eight of them,
//! four blocks, stay in -30720..=30480, which fits 16 bits.

use std::arch::x86_64::*;

use super::{Int4Dot, NibbleBlock, WideBlock};
use crate::isa::avx2::Avx2;

impl Int4Dot for Avx2 {
    type Int4Acc = [__m256i; 2];
    type Int4Sums = [__m256i; 2];
    const INT4_BLOCKS: usize = 4;

    #[inline(always)]
    fn zero_int4_acc(self) -> Self::Int4Acc {
        self.zero_int4_sums()
    }

    #[inline(always)]
    fn multiply_add_int4(
        self,
        acc: Self::Int4Acc,
        codes: &NibbleBlock,
        x: &WideBlock,
    ) -> Self::Int4Acc {
        // SAFETY: `self` proves AVX2.
        unsafe { add(acc, codes, x) }
    }

    #[inline(always)]
    fn zero_int4_sums(self) -> Self::Int4Sums {
        // SAFETY: `self` proves AVX2.
        unsafe { zero() }
    }

    #[inline(always)]
    fn flush_int4(self, sums: Self::Int4Sums, acc: Self::Int4Acc) -> Self::Int4Sums {
        // SAFETY: `self` proves AVX2.
        unsafe { flush(sums, acc) }
    }

    #[inline(always)]
    fn reduce_int4(self, sums: Self::Int4Sums) -> [i32; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe { sum(sums) }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn zero() -> [__m256i; 2] {
    [_mm256_setzero_si256(); 2]
}

/// The codes of elements 0..32 and of elements 32..64.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn unpack(codes: &NibbleBlock) -> [__m256i; 2] {
    // SAFETY: the array is 32 bytes long, and the load needs no alignment.
    let bytes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
    let mask = _mm256_set1_epi8(15);
    [_mm256_and_si256(bytes, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), mask)]
}

/// Half of one part of the numbers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn part(x: &[i8; 32]) -> __m256i {
    // SAFETY: the array is 32 bytes long, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(acc: [__m256i; 2], codes: &NibbleBlock, x: &WideBlock) -> [__m256i; 2] {
    let [first, second] = unpack(codes);
    let products = |half: &[[i8; 32]; 2]| {
        let pair = _mm256_maddubs_epi16(first, part(&half[0]));
        _mm256_add_epi16(pair, _mm256_maddubs_epi16(second, part(&half[1])))
    };
    [_mm256_add_epi16(acc[0], products(&x.high)), _mm256_add_epi16(acc[1], products(&x.low))]
}

#[inline]
#[target_feature(enable = "avx2")]
fn flush(sums: [__m256i; 2], acc: [__m256i; 2]) -> [__m256i; 2] {
    let ones = _mm256_set1_epi16(1);
    [
        _mm256_add_epi32(sums[0], _mm256_madd_epi16(acc[0], ones)),
        _mm256_add_epi32(sums[1], _mm256_madd_epi16(acc[1], ones)),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sum(sums: [__m256i; 2]) -> [i32; 2] {
    let pairs = _mm256_hadd_epi32(sums[0], sums[1]);
    let fours = _mm256_hadd_epi32(pairs, pairs);
    let both = _mm_add_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256::<1>(fours));
    [_mm_extract_epi32::<0>(both), _mm_extract_epi32::<1>(both)]
}

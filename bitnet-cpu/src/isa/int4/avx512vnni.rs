//! Products of 4-bit codes with AVX-512 and `VPDPBUSD`: all 64 codes of a block in one vector.

use std::arch::x86_64::*;

use super::avx2::sum;
use super::{Int4Dot, NibbleBlock, WideBlock};
use crate::isa::avx512vnni::Avx512Vnni;

impl Int4Dot for Avx512Vnni {
    type Int4Acc = [__m512i; 2];
    type Int4Sums = [__m512i; 2];
    const INT4_BLOCKS: usize = usize::MAX;

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
        // SAFETY: `self` proves AVX-512 F, BW and VNNI.
        unsafe { add(acc, codes, x) }
    }

    #[inline(always)]
    fn zero_int4_sums(self) -> Self::Int4Sums {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { zero() }
    }

    #[inline(always)]
    fn flush_int4(self, sums: Self::Int4Sums, acc: Self::Int4Acc) -> Self::Int4Sums {
        // SAFETY: `self` proves AVX-512 F.
        unsafe { flush(sums, acc) }
    }

    #[inline(always)]
    fn reduce_int4(self, sums: Self::Int4Sums) -> [i32; 2] {
        // SAFETY: `self` proves AVX-512 F and AVX2.
        unsafe { fold(sums) }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn zero() -> [__m512i; 2] {
    [_mm512_setzero_si512(); 2]
}

/// One part of the numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn part(x: &[[i8; 32]; 2]) -> __m512i {
    // SAFETY: the arrays are 64 bytes long together, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add(acc: [__m512i; 2], codes: &NibbleBlock, x: &WideBlock) -> [__m512i; 2] {
    // SAFETY: the array is 32 bytes long, and the load needs no alignment.
    let bytes = unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
    let both =
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(bytes), _mm256_srli_epi16::<4>(bytes));
    let codes = _mm512_and_si512(both, _mm512_set1_epi8(15));
    [
        _mm512_dpbusd_epi32(acc[0], codes, part(&x.high)),
        _mm512_dpbusd_epi32(acc[1], codes, part(&x.low)),
    ]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn flush(sums: [__m512i; 2], acc: [__m512i; 2]) -> [__m512i; 2] {
    [_mm512_add_epi32(sums[0], acc[0]), _mm512_add_epi32(sums[1], acc[1])]
}

#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn fold(sums: [__m512i; 2]) -> [i32; 2] {
    let halves =
        |sums| _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
    sum([halves(sums[0]), halves(sums[1])])
}

//! Products of 4-bit codes with the 256-bit `VPDPBUSD` of AVX-VNNI: summed in fours, straight into 32 bits.

use std::arch::x86_64::*;

use super::avx2::{part, sum, unpack, zero};
use super::{Int4Dot, NibbleBlock, WideBlock};
use crate::isa::avxvnni::AvxVnni;

impl Int4Dot for AvxVnni {
    type Int4Acc = [__m256i; 2];
    type Int4Sums = [__m256i; 2];
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
        // SAFETY: `self` proves AVX2 and AVX-VNNI.
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
#[target_feature(enable = "avx2,avxvnni")]
fn add(acc: [__m256i; 2], codes: &NibbleBlock, x: &WideBlock) -> [__m256i; 2] {
    let [first, second] = unpack(codes);
    let products = |acc, half: &[[i8; 32]; 2]| {
        let acc = _mm256_dpbusd_avx_epi32(acc, first, part(&half[0]));
        _mm256_dpbusd_avx_epi32(acc, second, part(&half[1]))
    };
    [products(acc[0], &x.high), products(acc[1], &x.low)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn flush(sums: [__m256i; 2], acc: [__m256i; 2]) -> [__m256i; 2] {
    [_mm256_add_epi32(sums[0], acc[0]), _mm256_add_epi32(sums[1], acc[1])]
}

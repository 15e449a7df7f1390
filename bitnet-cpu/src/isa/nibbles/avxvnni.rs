//! Products of 4-bit codes with the 256-bit `VPDPBUSD` of AVX-VNNI: summed in fours, straight into 32 bits.

use std::arch::x86_64::*;

use super::avx2::{part, sum, unpack, zero};
use super::{NibbleBlock, Nibbles, WideBlock};
use crate::isa::avxvnni::AvxVnni;

impl Nibbles for AvxVnni {
    type NibbleRun = [__m256i; 2];
    type NibbleSums = [__m256i; 2];
    const NIBBLE_RUN: usize = usize::MAX;

    #[inline(always)]
    fn start_nibbles(self) -> Self::NibbleRun {
        self.zero_nibbles()
    }

    #[inline(always)]
    fn add_nibbles(
        self,
        run: Self::NibbleRun,
        codes: &NibbleBlock,
        x: &WideBlock,
    ) -> Self::NibbleRun {
        // SAFETY: `self` proves AVX2 and AVX-VNNI.
        unsafe { add(run, codes, x) }
    }

    #[inline(always)]
    fn zero_nibbles(self) -> Self::NibbleSums {
        // SAFETY: `self` proves AVX2.
        unsafe { zero() }
    }

    #[inline(always)]
    fn widen_nibbles(self, sums: Self::NibbleSums, run: Self::NibbleRun) -> Self::NibbleSums {
        // SAFETY: `self` proves AVX2.
        unsafe { widen(sums, run) }
    }

    #[inline(always)]
    fn sum_nibbles(self, sums: Self::NibbleSums) -> [i32; 2] {
        // SAFETY: `self` proves AVX2.
        unsafe { sum(sums) }
    }
}

#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn add(run: [__m256i; 2], codes: &NibbleBlock, x: &WideBlock) -> [__m256i; 2] {
    let [first, second] = unpack(codes);
    let products = |run, half: &[[i8; 32]; 2]| {
        let run = _mm256_dpbusd_avx_epi32(run, first, part(&half[0]));
        _mm256_dpbusd_avx_epi32(run, second, part(&half[1]))
    };
    [products(run[0], &x.high), products(run[1], &x.low)]
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen(sums: [__m256i; 2], run: [__m256i; 2]) -> [__m256i; 2] {
    [_mm256_add_epi32(sums[0], run[0]), _mm256_add_epi32(sums[1], run[1])]
}

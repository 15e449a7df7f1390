//! Products of 4-bit codes in plain Rust.

use super::{Int4Dot, NibbleBlock, WideBlock};
use crate::isa::scalar::Scalar;

impl Int4Dot for Scalar {
    type Int4Acc = [i32; 2];
    type Int4Sums = [i32; 2];
    const INT4_BLOCKS: usize = usize::MAX;

    #[inline(always)]
    fn zero_int4_acc(self) -> [i32; 2] {
        [0; 2]
    }

    #[inline(always)]
    fn multiply_add_int4(self, mut acc: [i32; 2], codes: &NibbleBlock, x: &WideBlock) -> [i32; 2] {
        for (sum, part) in acc.iter_mut().zip([&x.high, &x.low]) {
            for (&byte, (&a, &b)) in codes.iter().zip(part[0].iter().zip(&part[1])) {
                *sum += i32::from(byte & 15) * i32::from(a) + i32::from(byte >> 4) * i32::from(b);
            }
        }
        acc
    }

    #[inline(always)]
    fn zero_int4_sums(self) -> [i32; 2] {
        [0; 2]
    }

    #[inline(always)]
    fn flush_int4(self, sums: [i32; 2], acc: [i32; 2]) -> [i32; 2] {
        [sums[0] + acc[0], sums[1] + acc[1]]
    }

    #[inline(always)]
    fn reduce_int4(self, sums: [i32; 2]) -> [i32; 2] {
        sums
    }
}

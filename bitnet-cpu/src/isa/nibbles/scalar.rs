//! Products of 4-bit codes in plain Rust.

use super::{NibbleBlock, Nibbles, WideBlock};
use crate::isa::scalar::Scalar;

impl Nibbles for Scalar {
    type NibbleRun = [i32; 2];
    type NibbleSums = [i32; 2];
    const NIBBLE_RUN: usize = usize::MAX;

    #[inline(always)]
    fn start_nibbles(self) -> [i32; 2] {
        [0; 2]
    }

    #[inline(always)]
    fn add_nibbles(self, run: [i32; 2], codes: &NibbleBlock, x: &WideBlock) -> [i32; 2] {
        let mut run = run;
        for (sum, part) in run.iter_mut().zip([&x.high, &x.low]) {
            for (&byte, (&a, &b)) in codes.iter().zip(part[0].iter().zip(&part[1])) {
                *sum += i32::from(byte & 15) * i32::from(a) + i32::from(byte >> 4) * i32::from(b);
            }
        }
        run
    }

    #[inline(always)]
    fn zero_nibbles(self) -> [i32; 2] {
        [0; 2]
    }

    #[inline(always)]
    fn widen_nibbles(self, sums: [i32; 2], run: [i32; 2]) -> [i32; 2] {
        [sums[0] + run[0], sums[1] + run[1]]
    }

    #[inline(always)]
    fn sum_nibbles(self, sums: [i32; 2]) -> [i32; 2] {
        sums
    }
}

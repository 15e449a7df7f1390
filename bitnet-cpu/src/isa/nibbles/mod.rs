//! Products of 4-bit codes with numbers of 16 bits, which are given as two numbers of 8 bits.
//!
//! ```text
//! codes   [u8; 32]   byte b holds element b in its low and element 32 + b in its high half
//! x       q = 256 · high + low
//! sums    [Σ code · high, Σ code · low]
//! ```
//!
//! Codes are at most 15 and parts at most 128 in magnitude, so a sum over `n` elements is at most 1920 · n in magnitude
//! and exact for `n` up to [`MOST_ELEMENTS`].

mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon_dotprod;

use super::{AnyIsa, Isa, Op};

/// Elements of a block.
pub(crate) const NIBBLES: usize = 64;

/// Elements over which a sum fits 32 bits: 1920 · 2²⁰ < 2³¹.
pub(crate) const MOST_ELEMENTS: usize = 1 << 20;

/// The codes of 64 elements.
pub(crate) type NibbleBlock = [u8; 32];

/// 64 numbers of 16 bits in two parts, elements 0..32 and 32..64 apart.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct WideBlock {
    pub(crate) high: [[i8; 32]; 2],
    pub(crate) low: [[i8; 32]; 2],
}

impl WideBlock {
    /// 64 zeros.
    pub(crate) const ZERO: Self = Self { high: [[0; 32]; 2], low: [[0; 32]; 2] };

    /// Sets element `index` to `q`, whose high part must fit 8 bits: `q` is in -32640..=32639.
    pub(crate) fn set(&mut self, index: usize, q: i32) {
        let low = q as i8;
        let high = (q - i32::from(low)) >> 8;
        self.low[index / 32][index % 32] = low;
        self.high[index / 32][index % 32] = high as i8;
    }
}

/// The instructions for these products.
pub(crate) trait Nibbles: Copy {
    /// Both sums over at most [`Nibbles::NIBBLE_RUN`] blocks.
    type NibbleRun: Copy;
    /// Both sums over at most [`MOST_ELEMENTS`] elements.
    type NibbleSums: Copy;
    /// Blocks after which a run must be widened.
    const NIBBLE_RUN: usize;

    /// An empty run.
    fn start_nibbles(self) -> Self::NibbleRun;

    /// `run + code · x` over one block.
    fn add_nibbles(
        self,
        run: Self::NibbleRun,
        codes: &NibbleBlock,
        x: &WideBlock,
    ) -> Self::NibbleRun;

    /// Empty sums.
    fn zero_nibbles(self) -> Self::NibbleSums;

    /// `sums + run`.
    fn widen_nibbles(self, sums: Self::NibbleSums, run: Self::NibbleRun) -> Self::NibbleSums;

    /// `[Σ code · high, Σ code · low]`.
    fn sum_nibbles(self, sums: Self::NibbleSums) -> [i32; 2];
}

/// `[Σ code · high, Σ code · low]` of a row of codes over a vector. `ahead` are codes that will be needed soon; all three
/// are of one length.
#[inline(always)]
pub(crate) fn nibble_dots<I: Isa>(
    isa: I,
    codes: &[NibbleBlock],
    x: &[WideBlock],
    ahead: &[NibbleBlock],
) -> [i32; 2] {
    const { assert!(I::NIBBLE_RUN >= RUN) };
    let mut sums = isa.zero_nibbles();
    let (runs, rest) = codes.as_chunks::<RUN>();
    let (x_runs, x_rest) = x.as_chunks::<RUN>();
    for ((codes, x), ahead) in runs.iter().zip(x_runs).zip(ahead.as_chunks::<RUN>().0) {
        // A cache line holds two blocks.
        isa.prefetch(&raw const ahead[0]);
        isa.prefetch(&raw const ahead[2]);
        let mut run = isa.start_nibbles();
        for (codes, x) in codes.iter().zip(x) {
            run = isa.add_nibbles(run, codes, x);
        }
        sums = isa.widen_nibbles(sums, run);
    }
    let mut run = isa.start_nibbles();
    for (codes, x) in rest.iter().zip(x_rest) {
        run = isa.add_nibbles(run, codes, x);
    }
    isa.sum_nibbles(isa.widen_nibbles(sums, run))
}

/// Blocks that are summed before sums are widened.
const RUN: usize = 4;

/// Blocks of the question: more than two runs of any level, and no multiple of one.
const BLOCKS: usize = 11;

/// A fixed question: codes and numbers.
struct Question {
    codes: [NibbleBlock; BLOCKS],
    x: [WideBlock; BLOCKS],
}

impl Question {
    /// A fixed pseudo-random pattern; with `extreme`, every code is 15 and every part is that number.
    fn new(extreme: Option<i8>) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u32
        };
        let mut question = Self { codes: [[0; 32]; BLOCKS], x: [WideBlock::ZERO; BLOCKS] };
        for (codes, x) in question.codes.iter_mut().zip(&mut question.x) {
            for byte in codes {
                *byte = if extreme.is_some() { 0xff } else { next() as u8 };
            }
            for part in x.high.as_flattened_mut().iter_mut().chain(x.low.as_flattened_mut()) {
                *part = extreme.unwrap_or(next() as i8);
            }
        }
        question
    }

    /// The answer by another way than any kernel's: one element at a time.
    fn answer(&self) -> [i32; 2] {
        let mut sums = [0; 2];
        for (codes, x) in self.codes.iter().zip(&self.x) {
            for element in 0..NIBBLES {
                let code = i32::from((codes[element % 32] >> (element / 32 * 4)) & 15);
                sums[0] += code * i32::from(x.high[element / 32][element % 32]);
                sums[1] += code * i32::from(x.low[element / 32][element % 32]);
            }
        }
        sums
    }
}

impl Op for &Question {
    type Output = [i32; 2];

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Self::Output {
        nibble_dots(isa, &self.codes, &self.x, &self.codes)
    }
}

/// Whether a level answers the known questions rightly.
pub(super) fn prove(isa: AnyIsa) -> bool {
    let questions = [None, Some(-128), Some(127)].map(Question::new);
    questions.iter().all(|question| isa.run(question) == question.answer())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_sum_of_their_parts() {
        let mut block = WideBlock::ZERO;
        for q in [-32640, -32639, -129, -128, -1, 0, 1, 127, 128, 255, 256, 32639] {
            block.set(40, q);
            let (high, low) = (i32::from(block.high[1][8]), i32::from(block.low[1][8]));
            assert_eq!(256 * high + low, q);
        }
    }
}

//! Dot products of 4-bit codes with 16-bit numbers, which are passed as two 8-bit parts.
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

/// Products of 4-bit codes, summed exactly: `[Σ code · high, Σ code · low]`.
pub(crate) trait Int4Dot: Copy {
    /// Both sums over at most [`Int4Dot::INT4_BLOCKS`] blocks.
    type Int4Acc: Copy;
    /// Both sums over at most [`MOST_ELEMENTS`] elements.
    type Int4Sums: Copy;
    /// Blocks after which an [`Int4Dot::Int4Acc`] must be flushed.
    const INT4_BLOCKS: usize;

    /// Returns an empty accumulator.
    fn zero_int4_acc(self) -> Self::Int4Acc;

    /// Returns `acc + code · x` over one block.
    fn multiply_add_int4(
        self,
        acc: Self::Int4Acc,
        codes: &NibbleBlock,
        x: &WideBlock,
    ) -> Self::Int4Acc;

    /// Returns empty sums.
    fn zero_int4_sums(self) -> Self::Int4Sums;

    /// Returns `sums + acc`.
    fn flush_int4(self, sums: Self::Int4Sums, acc: Self::Int4Acc) -> Self::Int4Sums;

    /// Adds the lanes of both sums.
    fn reduce_int4(self, sums: Self::Int4Sums) -> [i32; 2];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_sum_to_the_number() {
        let mut block = WideBlock::ZERO;
        for q in [-32640, -32639, -129, -128, -1, 0, 1, 127, 128, 255, 256, 32639] {
            block.set(40, q);
            let (high, low) = (i32::from(block.high[1][8]), i32::from(block.low[1][8]));
            assert_eq!(256 * high + low, q);
        }
    }
}

//! The few instructions over which every kernel is written once, and the choice of who supplies them.
//!
//! ```text
//! weights      [u32; 8]        byte b of the 32 holds elements 4b..4b+3, two bits each
//! activations  [[i8; 32]; 4]   plane i holds element 4b+i at index b
//! Σ code·x     = Σ_i Σ_b ((byte_b >> 2i) & 3) · plane_i[b]
//! Σ trit·x     = Σ code·x - Σ x
//! ```
//!
//! Bytes 0..16 and 16..32 are summed apart, because scales may belong to groups of 64 elements.

/// The methods on floats of an instruction set that has them from the one in its first field.
#[allow(unused_macros, reason = "other processors than x86-64 and 64-bit Arm have no such set")]
macro_rules! floats_of_base {
    ($base:ty) => {
        type Floats = <$base as Isa>::Floats;

        #[inline(always)]
        fn splat(self, x: f32) -> Self::Floats {
            self.0.splat(x)
        }

        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> Self::Floats {
            self.0.load(x)
        }

        #[inline(always)]
        fn load_f32(self, x: &[[u8; 4]; LANES]) -> Self::Floats {
            self.0.load_f32(x)
        }

        #[inline(always)]
        fn load_bf16(self, x: &[[u8; 2]; LANES]) -> Self::Floats {
            self.0.load_bf16(x)
        }

        #[inline(always)]
        fn load_f16(self, x: &[[u8; 2]; LANES]) -> Self::Floats {
            self.0.load_f16(x)
        }

        #[inline(always)]
        fn trits(self, codes: &HalfCodeBlock) -> [Self::Floats; 4] {
            self.0.trits(codes)
        }

        #[inline(always)]
        fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
            self.0.mul_add(a, b, c)
        }

        #[inline(always)]
        fn store(self, x: Self::Floats) -> [f32; LANES] {
            self.0.store(x)
        }
    };
}

/// The methods for one token of an instruction set for which they are those for several.
#[allow(unused_macros, reason = "every instruction set of 64-bit Arm has its own")]
macro_rules! single_as_run {
    () => {
        type Single = Self::Run;
        const SINGLE_RUN: usize = Self::RUN;

        #[inline(always)]
        fn start_single(self) -> Self::Single {
            self.start()
        }

        #[inline(always)]
        fn add_single(
            self,
            run: Self::Single,
            codes: &CodeBlock,
            x: &ActivationBlock,
        ) -> Self::Single {
            self.multiply_add(run, self.unpack(codes), x)
        }

        #[inline(always)]
        fn widen_single(self, sums: Self::Sums, run: Self::Single) -> Self::Sums {
            self.widen(sums, run)
        }
    };
}

/// The methods for eight tokens of an instruction set for which they are those for any number of tokens.
macro_rules! tiles_as_runs {
    () => {
        type TileStart = [i32; 2];
        const TILE_BLOCKS: usize = Self::RUN;

        #[inline(always)]
        fn tile_start(self, x: &[[ActivationBlock; 8]]) -> [[i32; 2]; 8] {
            let mut start = [[0i32; 2]; 8];
            for block in x {
                for (start, token) in start.iter_mut().zip(block) {
                    for plane in &token.0 {
                        for (start, half) in start.iter_mut().zip(plane.as_chunks::<16>().0) {
                            for &x in half {
                                *start = start.wrapping_sub(i32::from(x));
                            }
                        }
                    }
                }
            }
            start
        }

        #[inline(always)]
        fn tile_dots(
            self,
            start: &[[i32; 2]; 8],
            codes: &[CodeBlock],
            x: &[[ActivationBlock; 8]],
        ) -> [i32; 8] {
            let [mut dots, high] = self.tile_halves(start, codes, x);
            for (dot, high) in dots.iter_mut().zip(high) {
                *dot = dot.wrapping_add(high);
            }
            dots
        }

        #[inline(always)]
        fn tile_halves(
            self,
            start: &[[i32; 2]; 8],
            codes: &[CodeBlock],
            x: &[[ActivationBlock; 8]],
        ) -> [[i32; 8]; 2] {
            let mut runs = [self.start(); 8];
            for (codes, x) in codes.iter().zip(x) {
                let codes = self.unpack(codes);
                for (run, x) in runs.iter_mut().zip(x) {
                    *run = self.multiply_add(*run, codes, x);
                }
            }
            let mut sums = [self.zero(); 8];
            for (sums, run) in sums.iter_mut().zip(runs) {
                *sums = self.widen(*sums, run);
            }
            let mut halves = self.halves_eight(sums);
            for (half, dots) in halves.iter_mut().enumerate() {
                for (dot, start) in dots.iter_mut().zip(start) {
                    *dot = dot.wrapping_add(start[half]);
                }
            }
            halves
        }
    };
}

mod nibbles;
mod peak;
mod plain;
mod prove;
mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_columns;
#[cfg(target_arch = "x86_64")]
mod avx2_quantize;
#[cfg(target_arch = "x86_64")]
mod avx2_tile;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
// The kernels read words as bytes, so they are for little-endian processors.
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod neon_dotprod;

use bitnet_core::simd::IsaLevel;
use bitnet_core::ternary::ROW_BLOCK;

pub(crate) use nibbles::{MOST_ELEMENTS, NIBBLES, NibbleBlock, Nibbles, WideBlock, nibble_dots};
pub use peak::IntegerPeak;
pub(crate) use peak::measure as measure_integer_peak;
pub use prove::proven_levels;
pub(crate) use prove::{Chosen, choose};

/// The packed codes of 128 weights.
pub(crate) type CodeBlock = [u32; 8];

/// The packed codes of 64 weights.
pub(crate) type HalfCodeBlock = [u32; 4];

/// 128 quantised activations in four planes: plane `i` holds element `4b + i` at index `b`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct ActivationBlock(pub(crate) [[i8; 32]; 4]);

/// Two columns of weights, as codes along the outputs, and the activations that multiply them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ColumnPair<'a> {
    pub(crate) codes: [&'a [CodeBlock]; 2],
    pub(crate) x: [i8; 2],
}

/// Column pairs that [`Isa::add_columns`] adds at most before [`Isa::widen_columns`].
pub(crate) const COLUMN_RUN: usize = 16;

/// Sums for 128 outputs in 16 bits, in an order that belongs to the instruction set.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct ColumnRun(pub(crate) [[i16; 32]; 4]);

impl ColumnRun {
    /// Empty.
    pub(crate) const ZERO: Self = Self([[0; 32]; 4]);
}

/// Sums for 128 outputs in four planes: plane `i` holds output `4b + i` at index `b`.
pub(crate) type PlaneSums = [[i32; 32]; 4];

/// Numbers that the dense kernels take in one step.
pub(crate) const LANES: usize = 16;

/// An instruction set. A value of the type is the proof that the processor has it.
///
/// Methods are called only from code that [`Isa::run`] entered, or they do not inline.
pub(crate) trait Isa: Nibbles + Send + Sync {
    /// The unpacked codes of a block.
    type Codes: Copy;
    /// Sums over at most [`Isa::RUN`] blocks.
    type Run: Copy;
    /// Sums over any number of blocks.
    type Sums: Copy;
    /// Blocks after which a [`Isa::Run`] must be widened.
    const RUN: usize;

    /// The instruction set, if the processor reports it.
    fn detect() -> Option<Self>;

    /// Runs `op` in a function compiled for this instruction set.
    fn run<O: Op>(self, op: O) -> O::Output;

    /// An empty run.
    fn start(self) -> Self::Run;

    /// The codes of a block, ready to multiply.
    fn unpack(self, codes: &CodeBlock) -> Self::Codes;

    /// `run + code · x` over one block.
    fn multiply_add(self, run: Self::Run, codes: Self::Codes, x: &ActivationBlock) -> Self::Run;

    /// Sums of one token over at most [`Isa::SINGLE_RUN`] blocks.
    type Single: Copy;
    /// Blocks after which a [`Isa::Single`] must be widened.
    const SINGLE_RUN: usize;

    /// An empty run of one token.
    fn start_single(self) -> Self::Single;

    /// `run + code · x` over one block whose codes serve one token only.
    fn add_single(self, run: Self::Single, codes: &CodeBlock, x: &ActivationBlock) -> Self::Single;

    /// `sums + run`. Wraps modulo 2³².
    fn widen_single(self, sums: Self::Sums, run: Self::Single) -> Self::Sums;

    /// [`Isa::halves`] of eight sums: the first halves, then the second ones.
    #[inline(always)]
    fn halves_eight(self, sums: [Self::Sums; 8]) -> [[i32; 8]; 2] {
        let mut out = [[0; 8]; 2];
        for (i, sums) in sums.into_iter().enumerate() {
            [out[0][i], out[1][i]] = self.halves(sums);
        }
        out
    }

    /// What the sums of one of eight tokens start from.
    type TileStart: Copy;
    /// Blocks of [`Isa::tile_dots`] at most.
    const TILE_BLOCKS: usize;

    /// Prepares [`Isa::tile_dots`] for all rows that meet `x`, at most [`Isa::TILE_BLOCKS`] blocks of eight tokens.
    fn tile_start(self, x: &[[ActivationBlock; 8]]) -> [Self::TileStart; 8];

    /// `Σ trit·x` of eight tokens with one row, if `start` is that of `x`. Wraps modulo 2³².
    fn tile_dots(
        self,
        start: &[Self::TileStart; 8],
        codes: &[CodeBlock],
        x: &[[ActivationBlock; 8]],
    ) -> [i32; 8];

    /// [`Isa::tile_dots`] over bytes 0..16 and over bytes 16..32 of all blocks.
    fn tile_halves(
        self,
        start: &[Self::TileStart; 8],
        codes: &[CodeBlock],
        x: &[[ActivationBlock; 8]],
    ) -> [[i32; 8]; 2];

    /// Rows and columns exchanged.
    #[inline(always)]
    fn transpose(self, rows: [[i32; 8]; 8]) -> [[i32; 8]; 8] {
        let mut out = [[0; 8]; 8];
        for (i, row) in rows.iter().enumerate() {
            for (column, x) in out.iter_mut().zip(row) {
                column[i] = *x;
            }
        }
        out
    }

    /// `q = clamp(round_half_even(x * scale), -128, 127)`, NaN to 0, in planes.
    #[inline(always)]
    fn quantize(self, x: &[f32; ROW_BLOCK], scale: f32) -> ActivationBlock {
        let mut flat = [0i8; ROW_BLOCK];
        for (q, x) in flat.iter_mut().zip(x) {
            *q = (x * scale).round_ties_even().clamp(-128.0, 127.0) as i8;
        }
        let mut block = ActivationBlock([[0; 32]; 4]);
        for (b, four) in flat.as_chunks::<4>().0.iter().enumerate() {
            for (plane, &q) in block.0.iter_mut().zip(four) {
                plane[b] = q;
            }
        }
        block
    }

    /// Asks for a cache line that will be read soon. Any address will do.
    #[inline(always)]
    fn prefetch<X>(self, line: *const X) {
        let _ = line;
    }

    /// Empty sums.
    fn zero(self) -> Self::Sums;

    /// `sums + run`. Wraps modulo 2³².
    fn widen(self, sums: Self::Sums, run: Self::Run) -> Self::Sums;

    /// The sums over bytes 0..16 and over bytes 16..32 of all blocks.
    fn halves(self, sums: Self::Sums) -> [i32; 2];

    /// Both halves of each of four sums together. Wraps modulo 2³².
    #[inline(always)]
    fn whole(self, sums: [Self::Sums; 4]) -> [i32; 4] {
        sums.map(|sums| {
            let [low, high] = self.halves(sums);
            low.wrapping_add(high)
        })
    }

    /// `run + Σ code · x` for the outputs of block `block` over two pairs of columns.
    ///
    /// # Panics
    /// If a column has no such block.
    #[inline(always)]
    fn add_columns(self, pairs: &[ColumnPair<'_>; 2], block: usize, run: &mut ColumnRun) {
        // A pair adds at most 2 · 2 · 128 to a lane, so sixteen stay in 16 bits.
        for pair in pairs {
            for (codes, x) in pair.codes.iter().zip(pair.x) {
                let mut bytes = [0u8; 32];
                for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(&codes[block]) {
                    *bytes = word.to_le_bytes();
                }
                for (plane, run) in run.0.iter_mut().enumerate() {
                    for (run, byte) in run.iter_mut().zip(bytes) {
                        *run += i16::from((byte >> (2 * plane)) & 3) * i16::from(x);
                    }
                }
            }
        }
    }

    /// `sums + run`, which is empty afterwards. Wraps modulo 2³².
    #[inline(always)]
    fn widen_columns(self, run: &mut ColumnRun, sums: &mut PlaneSums) {
        for (sum, run) in sums.as_flattened_mut().iter_mut().zip(run.0.as_flattened_mut()) {
            *sum = sum.wrapping_add(i32::from(*run));
            *run = 0;
        }
    }

    /// Sixteen f32 numbers.
    type Floats: Copy;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::Floats;

    /// Sixteen numbers.
    fn load(self, x: &[f32; LANES]) -> Self::Floats;

    /// Sixteen numbers, little-endian.
    fn load_f32(self, x: &[[u8; 4]; LANES]) -> Self::Floats;

    /// Sixteen bfloat16 numbers, little-endian.
    fn load_bf16(self, x: &[[u8; 2]; LANES]) -> Self::Floats;

    /// Sixteen half-precision numbers, little-endian.
    #[inline(always)]
    fn load_f16(self, x: &[[u8; 2]; LANES]) -> Self::Floats {
        let mut out = [0.0; LANES];
        for (out, &bytes) in out.iter_mut().zip(x) {
            *out = f16_to_f32(u16::from_le_bytes(bytes));
        }
        self.load(&out)
    }

    /// The trits of 64 weights, plane by plane.
    fn trits(self, codes: &HalfCodeBlock) -> [Self::Floats; 4];

    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// The lanes in order.
    fn store(self, x: Self::Floats) -> [f32; LANES];
}

/// A kernel, written once for all instruction sets.
pub(crate) trait Op {
    /// What the kernel gives.
    type Output;

    /// The kernel. `#[inline(always)]`, as everything that it calls in its loops.
    fn eval<I: Isa>(self, isa: I) -> Self::Output;
}

/// Exact for every finite half; written without branches so that it vectorises.
#[inline(always)]
fn f16_to_f32(half: u16) -> f32 {
    const BIAS: u32 = (127 - 15) << 23;
    let sign = u32::from(half & 0x8000) << 16;
    let rest = u32::from(half & 0x7fff);
    let shifted = rest << 13;
    // A subnormal half: give it the exponent of the smallest normal one, then take that number off again.
    let subnormal = f32::from_bits(shifted + BIAS + (1 << 23)) - f32::from_bits(BIAS + (1 << 23));
    let magnitude = if rest < 0x0400 {
        subnormal.to_bits()
    } else if rest < 0x7c00 {
        shifted + BIAS
    } else {
        shifted | 0x7f80_0000
    };
    f32::from_bits(sign | magnitude)
}

/// Any instruction set that this program was compiled for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AnyIsa {
    Scalar(scalar::Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(avxvnni::AvxVnni),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(avx512vnni::Avx512Vnni),
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    Neon(neon::Neon),
    #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
    NeonDotprod(neon_dotprod::NeonDotprod),
}

impl AnyIsa {
    /// The instruction set of a level, if the processor reports it.
    pub(crate) fn detect(level: IsaLevel) -> Option<Self> {
        match level {
            IsaLevel::Scalar => Isa::detect().map(Self::Scalar),
            #[cfg(target_arch = "x86_64")]
            IsaLevel::Avx2 => Isa::detect().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            IsaLevel::AvxVnni => Isa::detect().map(Self::AvxVnni),
            #[cfg(target_arch = "x86_64")]
            IsaLevel::Avx512Vnni => Isa::detect().map(Self::Avx512Vnni),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            IsaLevel::Neon => Isa::detect().map(Self::Neon),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            IsaLevel::NeonDotprod => Isa::detect().map(Self::NeonDotprod),
            _ => None,
        }
    }

    /// Runs `op`, in which no codes are multiplied by numbers of 8 bits: levels that differ in nothing else share a function.
    pub(crate) fn run_shared<O: Op>(self, op: O) -> O::Output {
        match self {
            Self::Scalar(isa) => isa.run(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(isa) => isa.run(op),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(isa) => isa.base().run(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(isa) => isa.run(op),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::Neon(isa) => isa.run(op),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::NeonDotprod(isa) => isa.base().run(op),
        }
    }

    /// Runs `op` in a function compiled for this instruction set.
    pub(crate) fn run<O: Op>(self, op: O) -> O::Output {
        match self {
            Self::Scalar(isa) => isa.run(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(isa) => isa.run(op),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(isa) => isa.run(op),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni(isa) => isa.run(op),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::Neon(isa) => isa.run(op),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            Self::NeonDotprod(isa) => isa.run(op),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_converts_exactly() {
        for bits in 0..=u16::MAX {
            let (ours, expected) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
            assert!(
                ours.to_bits() == expected.to_bits() || (ours.is_nan() && expected.is_nan()),
                "{bits:#06x}: {ours} is not {expected}"
            );
        }
    }
}

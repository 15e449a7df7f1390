//! Sixteen lanes of f32: what an instruction set supplies to the dense kernels.

use super::int8::ActivationBlock;
use bitnet_core::ternary::ROW_BLOCK;

/// Numbers that the dense kernels take in one step.
pub(crate) const LANES: usize = 16;

/// Operations on sixteen f32 lanes.
pub(crate) trait FloatLanes: Copy {
    /// Sixteen f32 numbers.
    type Floats: Copy;
    /// Integer sums: [`super::Int8Dot::Acc32`].
    type Sums: Copy;
    /// Integer sums that were scaled, in f64.
    type Doubles: Copy;
    /// Queries that share a pass over keys and values: 6 or 8, whose sums leave registers for what is multiplied.
    const SHARED_QUERIES: usize = 6;
    /// Whether a pass takes two vectors of keys or values: registers hold twice as many sums.
    const PAIRS: bool = false;

    /// Returns `x` in every lane.
    fn splat(self, x: f32) -> Self::Floats;

    /// Loads sixteen numbers.
    fn load(self, x: &[f32; LANES]) -> Self::Floats;

    /// Loads sixteen signed bytes.
    fn load_i8(self, x: &[u8; LANES]) -> Self::Floats;

    /// Loads sixteen little-endian f32 numbers.
    fn load_f32(self, x: &[[u8; 4]; LANES]) -> Self::Floats;

    /// Loads sixteen little-endian bfloat16 numbers.
    fn load_bf16(self, x: &[[u8; 2]; LANES]) -> Self::Floats;

    /// Loads sixteen little-endian half-precision numbers.
    #[inline(always)]
    fn load_f16(self, x: &[[u8; 2]; LANES]) -> Self::Floats {
        let mut out = [0.0; LANES];
        for (out, &bytes) in out.iter_mut().zip(x) {
            *out = f16_to_f32(u16::from_le_bytes(bytes));
        }
        self.load(&out)
    }

    /// Returns `a * b + c`, rounded once.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// Returns empty sums in f64.
    fn zero_doubles(self) -> Self::Doubles;

    /// Adds the lanes of `sums`, plus `start`, times `scale`: in `HALVES` the lanes over bytes 0..16 of all blocks plus
    /// `start[0]` times `scale[0]`, those over bytes 16..32 plus `start[4]` times `scale[1]`. `start` has zeros
    /// elsewhere. Which lanes are added before they are multiplied is not specified.
    fn add_scaled<const HALVES: bool>(
        self,
        doubles: Self::Doubles,
        sums: Self::Sums,
        start: &[i32; 8],
        scale: [f64; 2],
    ) -> Self::Doubles;

    /// Adds all lanes, in an order that is not specified.
    fn reduce_doubles(self, doubles: Self::Doubles) -> f64;

    /// Returns `a` where it is greater than `b`, and `b` elsewhere: also where one of them is NaN.
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;

    /// Returns the lanes in order.
    fn store(self, x: Self::Floats) -> [f32; LANES];

    /// Returns `clamp(round_half_even(x * scale), -128, 127)`, NaN to 0, in planes.
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
}

/// An instruction set that adds integer instructions to another one, whose floats it shares.
pub(crate) trait Extension: Copy {
    /// The instruction set without the additions.
    type Base: FloatLanes;

    /// Returns the instruction set without the additions.
    fn base(self) -> Self::Base;
}

impl<I: Extension> FloatLanes for I {
    type Floats = <I::Base as FloatLanes>::Floats;
    type Sums = <I::Base as FloatLanes>::Sums;
    type Doubles = <I::Base as FloatLanes>::Doubles;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Floats {
        self.base().splat(x)
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::Floats {
        self.base().load(x)
    }

    #[inline(always)]
    fn load_i8(self, x: &[u8; LANES]) -> Self::Floats {
        self.base().load_i8(x)
    }

    #[inline(always)]
    fn load_f32(self, x: &[[u8; 4]; LANES]) -> Self::Floats {
        self.base().load_f32(x)
    }

    #[inline(always)]
    fn load_bf16(self, x: &[[u8; 2]; LANES]) -> Self::Floats {
        self.base().load_bf16(x)
    }

    #[inline(always)]
    fn load_f16(self, x: &[[u8; 2]; LANES]) -> Self::Floats {
        self.base().load_f16(x)
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        self.base().mul_add(a, b, c)
    }

    #[inline(always)]
    fn zero_doubles(self) -> Self::Doubles {
        self.base().zero_doubles()
    }

    #[inline(always)]
    fn add_scaled<const HALVES: bool>(
        self,
        doubles: Self::Doubles,
        sums: Self::Sums,
        start: &[i32; 8],
        scale: [f64; 2],
    ) -> Self::Doubles {
        self.base().add_scaled::<HALVES>(doubles, sums, start, scale)
    }

    #[inline(always)]
    fn reduce_doubles(self, doubles: Self::Doubles) -> f64 {
        self.base().reduce_doubles(doubles)
    }

    #[inline(always)]
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        self.base().max(a, b)
    }

    #[inline(always)]
    fn store(self, x: Self::Floats) -> [f32; LANES] {
        self.base().store(x)
    }

    #[inline(always)]
    fn quantize(self, x: &[f32; ROW_BLOCK], scale: f32) -> ActivationBlock {
        self.base().quantize(x, scale)
    }
}

/// Converts a half exactly; without branches, so that it vectorises.
#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_conversion_is_exact() {
        for bits in 0..=u16::MAX {
            let (ours, expected) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
            assert!(
                ours.to_bits() == expected.to_bits() || (ours.is_nan() && expected.is_nan()),
                "{bits:#06x}: {ours} is not {expected}"
            );
        }
    }
}

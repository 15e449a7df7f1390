//! Plain Rust: the level that is always there.

use super::{ActivationBlock, CodeBlock, FloatLanes, Int8Dot, Isa, LANES, Op};

/// No instruction beyond those for which the program is compiled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar(());

impl Isa for Scalar {
    fn detect() -> Option<Self> {
        Some(Self(()))
    }

    fn run<O: Op>(self, op: O) -> O::Output {
        op.eval(self)
    }
}

impl Int8Dot for Scalar {
    type Codes = [[u8; 32]; 4];
    type Acc16 = [i32; 2];
    type Acc32 = [i32; 2];
    const ACC16_BLOCKS: usize = usize::MAX;

    #[inline(always)]
    fn zero_acc16(self) -> Self::Acc16 {
        [0; 2]
    }

    #[inline(always)]
    fn zero_acc32(self) -> Self::Acc32 {
        [0; 2]
    }

    #[inline(always)]
    fn unpack(self, codes: &CodeBlock) -> Self::Codes {
        let mut bytes = [0; 32];
        for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(codes) {
            *bytes = word.to_le_bytes();
        }
        [0, 2, 4, 6].map(|shift| bytes.map(|byte| (byte >> shift) & 3))
    }

    // A call for each token, or the loops over tokens would be unrolled in every tile.
    #[inline(never)]
    fn multiply_add(
        self,
        acc: Self::Acc16,
        codes: Self::Codes,
        x: &ActivationBlock,
    ) -> Self::Acc16 {
        add_products(acc, codes, x)
    }

    #[inline(always)]
    fn flush_acc(self, sums: Self::Acc32, acc: Self::Acc16) -> Self::Acc32 {
        [sums[0].wrapping_add(acc[0]), sums[1].wrapping_add(acc[1])]
    }

    #[inline(always)]
    fn reduce_add_halves(self, sums: Self::Acc32) -> [i32; 2] {
        sums
    }

    #[inline(always)]
    fn dot_single<const N: usize>(
        self,
        sums: Self::Acc32,
        codes: &[CodeBlock; N],
        x: &[ActivationBlock; N],
    ) -> Self::Acc32 {
        let mut acc = [0; 2];
        for (codes, x) in codes.iter().zip(x) {
            acc = add_products(acc, self.unpack(codes), x);
        }
        self.flush_acc(sums, acc)
    }
}

impl FloatLanes for Scalar {
    type Floats = [f32; LANES];
    type Sums = [i32; 2];
    type Doubles = [f64; 2];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Floats {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::Floats {
        *x
    }

    #[inline(always)]
    fn load_i8(self, x: &[u8; LANES]) -> Self::Floats {
        x.map(|byte| f32::from(byte.cast_signed()))
    }

    #[inline(always)]
    fn load_f32(self, x: &[[u8; 4]; LANES]) -> Self::Floats {
        x.map(f32::from_le_bytes)
    }

    #[inline(always)]
    fn load_bf16(self, x: &[[u8; 2]; LANES]) -> Self::Floats {
        x.map(|bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // Rounded once, as every other instruction set does, so that results do not depend on the processor.
        let mut out = c;
        for ((out, a), &b) in out.iter_mut().zip(a).zip(&b) {
            *out = a.mul_add(b, *out);
        }
        out
    }

    #[inline(always)]
    fn zero_doubles(self) -> Self::Doubles {
        [0.0; 2]
    }

    #[inline(always)]
    fn add_scaled<const HALVES: bool>(
        self,
        doubles: Self::Doubles,
        sums: Self::Sums,
        start: &[i32; 8],
        scale: [f64; 2],
    ) -> Self::Doubles {
        let dots = [sums[0].wrapping_add(start[0]), sums[1].wrapping_add(start[4])];
        let [low, high] = doubles;
        // Both are exact, so fusing them would change nothing.
        [f64::from(dots[0]) * scale[0] + low, f64::from(dots[1]) * scale[1] + high]
    }

    #[inline(always)]
    fn reduce_doubles(self, doubles: Self::Doubles) -> f64 {
        doubles[0] + doubles[1]
    }

    #[inline(always)]
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        let mut out = b;
        for (out, a) in out.iter_mut().zip(a) {
            *out = if a > *out { a } else { *out };
        }
        out
    }

    #[inline(always)]
    fn store(self, x: Self::Floats) -> [f32; LANES] {
        x
    }
}

/// `halves + Σ code · x` over bytes 0..16 and over bytes 16..32.
#[inline(always)]
fn add_products(mut halves: [i32; 2], codes: [[u8; 32]; 4], x: &ActivationBlock) -> [i32; 2] {
    for (codes, x) in codes.iter().zip(&x.0) {
        for (half, sum) in halves.iter_mut().enumerate() {
            for b in 16 * half..16 * half + 16 {
                *sum = sum.wrapping_add(i32::from(codes[b]) * i32::from(x[b]));
            }
        }
    }
    halves
}

//! Advanced SIMD: 16 bytes of codes at a time, products of 16 bits added in pairs to 32 bits.
//!
//! Codes are at most 2 and |x| at most 128, so a product is at most 256 and the four planes of a byte sum to at
//! most 1024 in 16 bits, after which they are widened; of code 3, whose groups are at most four blocks, 1536.
//!
//! For one token, codes are masked where they stand instead of shifted: planes 1 and 2 then count four and sixteen
//! times, in lanes of their own. The largest is in -32·128..=32·127 a block, so eight blocks stay in -32768..=32512;
//! shifts by two and four bits bring them to the others exactly, since every term is a multiple of four or sixteen. Of code
//! 3, four blocks stay in 4·48·128 = 24576.

use std::arch::aarch64::*;

use super::int8::SINGLE_BLOCKS;
use super::{ActivationBlock, CodeBlock, FloatLanes, Int8Dot, Isa, LANES, Op};
use bitnet_core::simd::IsaLevel;

/// Advanced SIMD.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon(());

impl Isa for Neon {
    fn detect() -> Option<Self> {
        IsaLevel::Neon.is_detected().then_some(Self(()))
    }

    fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "neon")]
        fn enter<O: Op>(isa: Neon, op: O) -> O::Output {
            op.eval(isa)
        }
        // SAFETY: a value of `Neon` exists only where `detect` found the feature.
        unsafe { enter(self, op) }
    }
}

impl Int8Dot for Neon {
    type Codes = [[int8x16_t; 4]; 2];
    type Acc16 = [int32x4_t; 2];
    type Acc32 = [int32x4_t; 2];
    const ACC16_BLOCKS: usize = usize::MAX;

    #[inline(always)]
    fn zero_acc16(self) -> Self::Acc16 {
        self.zero_acc32()
    }

    #[inline(always)]
    fn zero_acc32(self) -> Self::Acc32 {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { zero() }
    }

    #[inline(always)]
    fn unpack(self, codes: &CodeBlock) -> Self::Codes {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { unpack(codes) }
    }

    #[inline(always)]
    fn multiply_add(
        self,
        acc: Self::Acc16,
        codes: Self::Codes,
        x: &ActivationBlock,
    ) -> Self::Acc16 {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { multiply_add(acc, codes, x) }
    }

    #[inline(always)]
    fn flush_acc(self, sums: Self::Acc32, acc: Self::Acc16) -> Self::Acc32 {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { add(sums, acc) }
    }

    #[inline(always)]
    fn reduce_add_halves(self, sums: Self::Acc32) -> [i32; 2] {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { reduce_add_halves(sums) }
    }

    #[inline(always)]
    fn reduce_add(self, sums: [Self::Acc32; 4]) -> [i32; 4] {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { reduce_add(sums) }
    }

    #[inline(always)]
    fn reduce_add_halves8(self, sums: [Self::Acc32; 8]) -> [[i32; 8]; 2] {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { reduce_add_halves8(sums) }
    }

    #[inline(always)]
    fn dot_single<const N: usize>(
        self,
        sums: Self::Acc32,
        codes: &[CodeBlock; N],
        x: &[ActivationBlock; N],
    ) -> Self::Acc32 {
        const { assert!(N <= SINGLE_BLOCKS) };
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { dot_single(sums, codes, x) }
    }
}

impl FloatLanes for Neon {
    type Floats = [float32x4_t; 4];
    type Sums = [int32x4_t; 2];
    type Doubles = [float64x2_t; 4];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Floats {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { splat(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::Floats {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { load(x) }
    }

    #[inline(always)]
    fn load_i8(self, x: &[u8; LANES]) -> Self::Floats {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { load_i8(x) }
    }

    #[inline(always)]
    fn load_f32(self, x: &[[u8; 4]; LANES]) -> Self::Floats {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { load_f32(x) }
    }

    #[inline(always)]
    fn load_bf16(self, x: &[[u8; 2]; LANES]) -> Self::Floats {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { load_bf16(x) }
    }

    #[inline(always)]
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { mul_add(a, b, c) }
    }

    #[inline(always)]
    fn zero_doubles(self) -> Self::Doubles {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { [vdupq_n_f64(0.0); 4] }
    }

    #[inline(always)]
    fn add_scaled<const HALVES: bool>(
        self,
        doubles: Self::Doubles,
        sums: Self::Sums,
        start: &[i32; 8],
        scale: [f64; 2],
    ) -> Self::Doubles {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { add_scaled(doubles, sums, start, scale) }
    }

    #[inline(always)]
    fn reduce_doubles(self, doubles: Self::Doubles) -> f64 {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { reduce_doubles(doubles) }
    }

    #[inline(always)]
    fn max(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { max(a, b) }
    }

    #[inline(always)]
    fn store(self, x: Self::Floats) -> [f32; LANES] {
        // SAFETY: `self` proves Advanced SIMD.
        unsafe { store(x) }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> [int32x4_t; 2] {
    [vdupq_n_s32(0); 2]
}

#[inline]
#[target_feature(enable = "neon")]
fn add(a: [int32x4_t; 2], b: [int32x4_t; 2]) -> [int32x4_t; 2] {
    [vaddq_s32(a[0], b[0]), vaddq_s32(a[1], b[1])]
}

#[inline]
#[target_feature(enable = "neon")]
fn reduce_add_halves(sums: [int32x4_t; 2]) -> [i32; 2] {
    [vaddvq_s32(sums[0]), vaddvq_s32(sums[1])]
}

#[inline]
#[target_feature(enable = "neon")]
fn add_scaled(
    mut doubles: [float64x2_t; 4],
    sums: [int32x4_t; 2],
    start: &[i32; 8],
    scale: [f64; 2],
) -> [float64x2_t; 4] {
    let starts = start.as_chunks::<4>().0;
    let halves = sums.into_iter().zip(starts).zip(scale);
    for (doubles, ((sums, start), scale)) in doubles.as_chunks_mut::<2>().0.iter_mut().zip(halves) {
        // SAFETY: four numbers are 16 bytes, and the load needs no alignment.
        let dots = vaddq_s32(sums, unsafe { vld1q_s32(start.as_ptr()) });
        let scale = vdupq_n_f64(scale);
        let (low, high) = (vmovl_s32(vget_low_s32(dots)), vmovl_high_s32(dots));
        doubles[0] = vfmaq_f64(doubles[0], vcvtq_f64_s64(low), scale);
        doubles[1] = vfmaq_f64(doubles[1], vcvtq_f64_s64(high), scale);
    }
    doubles
}

#[inline]
#[target_feature(enable = "neon")]
fn reduce_doubles([a, b, c, d]: [float64x2_t; 4]) -> f64 {
    vaddvq_f64(vaddq_f64(vaddq_f64(a, b), vaddq_f64(c, d)))
}

#[inline]
#[target_feature(enable = "neon")]
fn reduce_add(sums: [[int32x4_t; 2]; 4]) -> [i32; 4] {
    lanes_of_four(sums.map(|[low, high]| vaddq_s32(low, high)))
}

/// The sum of the lanes of each of four vectors.
#[inline]
#[target_feature(enable = "neon")]
fn lanes_of_four([a, b, c, d]: [int32x4_t; 4]) -> [i32; 4] {
    let sums = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
    let mut out = [0; 4];
    // SAFETY: the array is 16 bytes long, and the store needs no alignment.
    unsafe { vst1q_s32(out.as_mut_ptr(), sums) };
    out
}

#[inline]
#[target_feature(enable = "neon")]
fn reduce_add_halves8(sums: [[int32x4_t; 2]; 8]) -> [[i32; 8]; 2] {
    let mut out = [[0; 8]; 2];
    for (half, out) in out.iter_mut().enumerate() {
        for (out, sums) in out.as_chunks_mut().0.iter_mut().zip(sums.as_chunks::<4>().0) {
            *out = lanes_of_four(sums.map(|sums| sums[half]));
        }
    }
    out
}

/// Planes 0 to 3 of bytes 0..16, then of bytes 16..32.
#[inline]
#[target_feature(enable = "neon")]
fn unpack(codes: &CodeBlock) -> [[int8x16_t; 4]; 2] {
    let (halves, _) = codes.as_chunks::<4>();
    [planes(&halves[0]), planes(&halves[1])]
}

#[inline]
#[target_feature(enable = "neon")]
fn planes(codes: &[u32; 4]) -> [int8x16_t; 4] {
    // SAFETY: the array is 16 bytes long, and the load needs no alignment.
    let bytes = unsafe { vld1q_u8(codes.as_ptr().cast()) };
    let mask = vdupq_n_u8(3);
    [
        vreinterpretq_s8_u8(vandq_u8(bytes, mask)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<2>(bytes), mask)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8::<4>(bytes), mask)),
        vreinterpretq_s8_u8(vshrq_n_u8::<6>(bytes)),
    ]
}

/// The codes of planes 0 to 3 of 16 bytes, those of plane 1 times four and those of plane 2 times sixteen.
#[inline]
#[target_feature(enable = "neon")]
fn planes_in_place(codes: &[u32; 4]) -> [int8x16_t; 4] {
    // SAFETY: the array is 16 bytes long, and the load needs no alignment.
    let bytes = unsafe { vld1q_u8(codes.as_ptr().cast()) };
    [
        vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(3))),
        vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(12))),
        vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(48))),
        vreinterpretq_s8_u8(vshrq_n_u8::<6>(bytes)),
    ]
}

/// Of the sums that are taken once, four times and sixteen times: those to which a plane of [`planes_in_place`] goes.
const SCALE_OF_PLANE: [usize; 4] = [0, 1, 2, 0];

/// Bytes `16 * half..16 * half + 16` of a plane of the activations.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn plane_half(x: &[i8; 32], half: usize) -> int8x16_t {
    let (halves, _) = x.as_chunks::<16>();
    // SAFETY: the array is 16 bytes long, and the load needs no alignment.
    unsafe { vld1q_s8(halves[half].as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn multiply_add(
    mut acc: [int32x4_t; 2],
    codes: [[int8x16_t; 4]; 2],
    x: &ActivationBlock,
) -> [int32x4_t; 2] {
    for (half, (acc, codes)) in acc.iter_mut().zip(codes).enumerate() {
        let mut low = vdupq_n_s16(0);
        let mut high = vdupq_n_s16(0);
        for (codes, x) in codes.into_iter().zip(&x.0) {
            let x = plane_half(x, half);
            low = vmlal_s8(low, vget_low_s8(codes), vget_low_s8(x));
            high = vmlal_high_s8(high, codes, x);
        }
        *acc = vpadalq_s16(vpadalq_s16(*acc, low), high);
    }
    acc
}

#[inline]
#[target_feature(enable = "neon")]
fn dot_single<const N: usize>(
    mut sums: [int32x4_t; 2],
    codes: &[CodeBlock; N],
    x: &[ActivationBlock; N],
) -> [int32x4_t; 2] {
    // Sums that count once, four times and sixteen times, of each half.
    let mut acc = [[[vdupq_n_s16(0); 2]; 3]; 2];
    for (codes, x) in codes.iter().zip(x) {
        for (half, (acc, codes)) in acc.iter_mut().zip(codes.as_chunks::<4>().0).enumerate() {
            let planes = planes_in_place(codes).into_iter().zip(&x.0);
            for ((codes, x), scale) in planes.zip(SCALE_OF_PLANE) {
                let x = plane_half(x, half);
                let [low, high] = acc[scale];
                let low = vmlal_s8(low, vget_low_s8(codes), vget_low_s8(x));
                acc[scale] = [low, vmlal_high_s8(high, codes, x)];
            }
        }
    }
    for (sums, [once, four, sixteen]) in sums.iter_mut().zip(acc) {
        for ((once, four), sixteen) in once.into_iter().zip(four).zip(sixteen) {
            let acc = vsraq_n_s16::<4>(vsraq_n_s16::<2>(once, four), sixteen);
            *sums = vpadalq_s16(*sums, acc);
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "neon")]
fn splat(x: f32) -> [float32x4_t; 4] {
    [vdupq_n_f32(x); 4]
}

#[inline]
#[target_feature(enable = "neon")]
fn load(x: &[f32; LANES]) -> [float32x4_t; 4] {
    let mut out = splat(0.0);
    for (out, x) in out.iter_mut().zip(x.as_chunks::<4>().0) {
        // SAFETY: four numbers are 16 bytes, and the load needs no alignment.
        *out = unsafe { vld1q_f32(x.as_ptr()) };
    }
    out
}

#[inline]
#[target_feature(enable = "neon")]
fn load_f32(x: &[[u8; 4]; LANES]) -> [float32x4_t; 4] {
    let mut out = splat(0.0);
    for (out, x) in out.iter_mut().zip(x.as_chunks::<4>().0) {
        // SAFETY: four numbers are 16 bytes, and a load of bytes needs no alignment.
        let bytes = unsafe { vld1q_u8(x.as_ptr().cast()) };
        *out = vreinterpretq_f32_u8(bytes);
    }
    out
}

#[inline]
#[target_feature(enable = "neon")]
fn load_bf16(x: &[[u8; 2]; LANES]) -> [float32x4_t; 4] {
    let mut out = splat(0.0);
    for (out, x) in out.iter_mut().zip(x.as_chunks::<4>().0) {
        // SAFETY: four numbers are 8 bytes, and a load of bytes needs no alignment.
        let bytes = unsafe { vld1_u8(x.as_ptr().cast()) };
        *out = vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(bytes)));
    }
    out
}

#[inline]
#[target_feature(enable = "neon")]
fn load_i8(x: &[u8; LANES]) -> [float32x4_t; 4] {
    // SAFETY: the array is 16 bytes long, and the load needs no alignment.
    let x = unsafe { vld1q_s8(x.as_ptr().cast()) };
    let (low, high) = (vmovl_s8(vget_low_s8(x)), vmovl_s8(vget_high_s8(x)));
    [
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
        vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
        vcvtq_f32_s32(vmovl_s16(vget_high_s16(high))),
    ]
}

#[inline]
#[target_feature(enable = "neon")]
fn mul_add(a: [float32x4_t; 4], b: [float32x4_t; 4], c: [float32x4_t; 4]) -> [float32x4_t; 4] {
    [
        vfmaq_f32(c[0], a[0], b[0]),
        vfmaq_f32(c[1], a[1], b[1]),
        vfmaq_f32(c[2], a[2], b[2]),
        vfmaq_f32(c[3], a[3], b[3]),
    ]
}

#[inline]
#[target_feature(enable = "neon")]
fn max(a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
    let mut out = b;
    for (out, a) in out.iter_mut().zip(a) {
        *out = vbslq_f32(vcgtq_f32(a, *out), a, *out);
    }
    out
}

#[inline]
#[target_feature(enable = "neon")]
fn store(x: [float32x4_t; 4]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    for (out, x) in out.as_chunks_mut::<4>().0.iter_mut().zip(x) {
        // SAFETY: four numbers are 16 bytes, and the store needs no alignment.
        unsafe { vst1q_f32(out.as_mut_ptr(), x) };
    }
    out
}

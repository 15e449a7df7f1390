//! Dot products of stored numbers with f32 vectors, for tiles of vectors.
//!
//! Sixteen lanes run along the vectors and are added in pairs at the end, whatever the tile, so a result does not
//! depend on its neighbours. With `n` elements it lies within `(n / 16 + 6) · 2⁻²⁴ · Σ |a·b|` of the exact one.

use crate::isa::{Isa, LANES};

/// Numbers as they are stored.
pub(crate) trait Stored {
    /// One number.
    type Raw: Copy + Default;

    /// Sixteen of them as f32.
    fn load<I: Isa>(isa: I, raw: &[Self::Raw; LANES]) -> [f32; LANES];
}

/// Numbers in memory, as they are.
pub(crate) struct Plain;
/// f32, little-endian, at any address.
pub(crate) struct F32;
/// Half precision, little-endian, at any address.
pub(crate) struct F16;
/// bfloat16, little-endian, at any address.
pub(crate) struct Bf16;

impl Stored for Plain {
    type Raw = f32;

    #[inline(always)]
    fn load<I: Isa>(_: I, raw: &[f32; LANES]) -> [f32; LANES] {
        *raw
    }
}

impl Stored for F32 {
    type Raw = [u8; 4];

    #[inline(always)]
    fn load<I: Isa>(_: I, raw: &[[u8; 4]; LANES]) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        for (out, &raw) in out.iter_mut().zip(raw) {
            *out = f32::from_le_bytes(raw);
        }
        out
    }
}

impl Stored for F16 {
    type Raw = [u8; 2];

    #[inline(always)]
    fn load<I: Isa>(isa: I, raw: &[[u8; 2]; LANES]) -> [f32; LANES] {
        isa.f16(raw)
    }
}

impl Stored for Bf16 {
    type Raw = [u8; 2];

    #[inline(always)]
    fn load<I: Isa>(_: I, raw: &[[u8; 2]; LANES]) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        for (out, &raw) in out.iter_mut().zip(raw) {
            *out = f32::from_bits(u32::from(u16::from_le_bytes(raw)) << 16);
        }
        out
    }
}

/// The sum of the lanes, in pairs.
#[inline(always)]
fn fold(lanes: &[f32; LANES]) -> f32 {
    let mut eight = [0f32; 8];
    for (i, sum) in eight.iter_mut().enumerate() {
        *sum = lanes[i] + lanes[i + 8];
    }
    let mut four = [0f32; 4];
    for (i, sum) in four.iter_mut().enumerate() {
        *sum = eight[i] + eight[i + 4];
    }
    (four[0] + four[2]) + (four[1] + four[3])
}

/// One step of sixteen numbers.
#[inline(always)]
fn step<I: Isa>(isa: I, lanes: &mut [f32; LANES], row: &[f32; LANES], x: &[f32; LANES]) {
    for ((lane, &row), &x) in lanes.iter_mut().zip(row).zip(x) {
        *lane = isa.mul_add(row, x, *lane);
    }
}

/// `row · xs[t]` for each of `T` vectors as long as the row.
#[inline(always)]
pub(crate) fn dots<S: Stored, I: Isa, const T: usize>(
    isa: I,
    row: &[S::Raw],
    xs: [&[f32]; T],
) -> [f32; T] {
    let mut lanes = [[0f32; LANES]; T];
    let (chunks, rest) = row.as_chunks::<LANES>();
    let xs = xs.map(|x| x[..row.len()].as_chunks::<LANES>());
    for (k, chunk) in chunks.iter().enumerate() {
        let row = S::load(isa, chunk);
        for (lanes, (x, _)) in lanes.iter_mut().zip(&xs) {
            step(isa, lanes, &row, &x[k]);
        }
    }
    if !rest.is_empty() {
        let mut padded = [S::Raw::default(); LANES];
        padded[..rest.len()].copy_from_slice(rest);
        let row = S::load(isa, &padded);
        for (lanes, (_, rest)) in lanes.iter_mut().zip(&xs) {
            let mut x = [0f32; LANES];
            x[..rest.len()].copy_from_slice(rest);
            step(isa, lanes, &row, &x);
        }
    }
    let mut sums = [0f32; T];
    for (sum, lanes) in sums.iter_mut().zip(&lanes) {
        *sum = fold(lanes);
    }
    sums
}

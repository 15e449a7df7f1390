//! Dot products of stored numbers with f32 vectors, for tiles of rows and vectors.
//!
//! Sixteen lanes run along the vectors and are added in pairs at the end, whatever the tile, so a result does not
//! depend on its neighbours. With `n` elements it lies within `(n / 16 + 6) · 2⁻²⁴ · Σ |a·b|` of the exact one.

use crate::isa::{Isa, LANES};

/// Numbers as they are stored.
pub(crate) trait Stored {
    /// One number.
    type Raw: Copy + Default;
    /// Whether they were written just now, so that prefetches are of no use.
    const CACHED: bool = false;

    /// Sixteen of them as f32.
    fn load<I: Isa>(isa: I, raw: &[Self::Raw; LANES]) -> I::Floats;
}

/// Results of other kernels.
pub(crate) struct Plain;
/// f32, little-endian, at any address.
pub(crate) struct F32;
/// Half precision, little-endian, at any address.
pub(crate) struct F16;
/// bfloat16, little-endian, at any address.
pub(crate) struct Bf16;
/// Signed bytes, without their scale.
pub(crate) struct Int8;

impl Stored for Plain {
    type Raw = f32;
    const CACHED: bool = true;

    #[inline(always)]
    fn load<I: Isa>(isa: I, raw: &[f32; LANES]) -> I::Floats {
        isa.load(raw)
    }
}

impl Stored for F32 {
    type Raw = [u8; 4];

    #[inline(always)]
    fn load<I: Isa>(isa: I, raw: &[[u8; 4]; LANES]) -> I::Floats {
        isa.load_f32(raw)
    }
}

impl Stored for F16 {
    type Raw = [u8; 2];

    #[inline(always)]
    fn load<I: Isa>(isa: I, raw: &[[u8; 2]; LANES]) -> I::Floats {
        isa.load_f16(raw)
    }
}

impl Stored for Bf16 {
    type Raw = [u8; 2];

    #[inline(always)]
    fn load<I: Isa>(isa: I, raw: &[[u8; 2]; LANES]) -> I::Floats {
        isa.load_bf16(raw)
    }
}

impl Stored for Int8 {
    type Raw = u8;

    #[inline(always)]
    fn load<I: Isa>(isa: I, raw: &[u8; LANES]) -> I::Floats {
        isa.load_i8(raw)
    }
}

/// Loads fewer than sixteen numbers, and zeros behind them.
#[inline(always)]
pub(crate) fn load_rest<S: Stored, I: Isa>(isa: I, rest: &[S::Raw]) -> I::Floats {
    let mut padded = [S::Raw::default(); LANES];
    padded[..rest.len()].copy_from_slice(rest);
    S::load(isa, &padded)
}

/// Converts stored numbers to f32 in `out`, which is as long.
#[inline(always)]
pub(crate) fn floats<S: Stored, I: Isa>(isa: I, x: &[S::Raw], out: &mut [f32]) {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let (whole, last) = out.as_chunks_mut::<LANES>();
    for (out, x) in whole.iter_mut().zip(chunks) {
        *out = isa.store(S::load(isa, x));
    }
    last.copy_from_slice(&isa.store(load_rest::<S, I>(isa, rest))[..rest.len()]);
}

/// Returns the sum of the lanes, in pairs.
#[inline(always)]
pub(crate) fn fold(lanes: &[f32; LANES]) -> f32 {
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

/// Returns `rows[r] · xs[t]` for each of `R` rows and each of `T` vectors as long as they are.
#[inline(always)]
pub(crate) fn dots<S: Stored, I: Isa, const R: usize, const T: usize>(
    isa: I,
    rows: [&[S::Raw]; R],
    xs: [&[f32]; T],
) -> [[f32; T]; R] {
    let mut lanes = [[isa.splat(0.0); T]; R];
    let len = rows.first().map_or(0, |row| row.len());
    let rows = rows.map(|row| row[..len].as_chunks::<LANES>());
    let xs = xs.map(|x| x[..len].as_chunks::<LANES>());
    for k in 0..len / LANES {
        for (lanes, (row, _)) in lanes.iter_mut().zip(&rows) {
            let row = S::load(isa, &row[k]);
            for (lanes, (x, _)) in lanes.iter_mut().zip(&xs) {
                *lanes = isa.mul_add(row, isa.load(&x[k]), *lanes);
            }
        }
    }
    if !len.is_multiple_of(LANES) {
        for (lanes, (_, rest)) in lanes.iter_mut().zip(&rows) {
            let row = load_rest::<S, I>(isa, rest);
            for (lanes, (_, rest)) in lanes.iter_mut().zip(&xs) {
                *lanes = isa.mul_add(row, load_rest::<Plain, I>(isa, rest), *lanes);
            }
        }
    }
    let mut sums = [[0f32; T]; R];
    for (sums, lanes) in sums.iter_mut().zip(lanes) {
        for (sum, lanes) in sums.iter_mut().zip(lanes) {
            *sum = fold(&isa.store(lanes));
        }
    }
    sums
}

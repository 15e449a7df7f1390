//! Rescaling of exact sums, as the reference computes it: `Σ_groups dot * weight_scale / activation_scale`.

use std::ops::{Mul, Neg};

use super::canonical::ScaleBuffer;
use super::weight::{CpuMatrix, group_scales, groups};
use crate::isa::{FloatLanes, Isa, Op, PANEL_ROWS, TILE_TOKENS};
use bitnet_core::ternary::ScaleGranularity;

/// Rows with groups that are summed together, so that their sums do not wait for one another.
pub(super) const GROUP_ROWS: usize = 4;

/// [`rescale`] as a function of its own, which the kernels share.
pub(crate) struct Rescale<'a> {
    pub(crate) weight: &'a CpuMatrix,
    pub(crate) row: usize,
    pub(crate) dots: &'a [i32],
    pub(crate) activation_scale: f32,
    pub(crate) out: &'a mut [f32],
}

impl Op for Rescale<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        rescale(isa, self.weight, self.row, self.dots, self.activation_scale, self.out);
    }
}

/// Dots (`[rows, groups]`, rows from `row` on) rescaled into `out` (`[rows]`).
#[inline(always)]
pub(crate) fn rescale<I: FloatLanes>(
    isa: I,
    weight: &CpuMatrix,
    row: usize,
    dots: &[i32],
    activation_scale: f32,
    out: &mut [f32],
) {
    match weight.granularity() {
        ScaleGranularity::Tensor => {
            let scale = weight.scales()[0];
            for (out, &dot) in out.iter_mut().zip(dots) {
                *out = dot as f32 / activation_scale * scale;
            }
        }
        ScaleGranularity::Row => {
            for ((out, &dot), &scale) in out.iter_mut().zip(dots).zip(&weight.scales()[row..]) {
                *out = dot as f32 / activation_scale * scale;
            }
        }
        ScaleGranularity::Group(_) => {
            let groups = groups(weight);
            let mut buffer = ScaleBuffer::default();
            let rows = row..row + dots.len().checked_div(groups).unwrap_or(0);
            let scales = group_scales(isa, weight, rows, &mut buffer);
            let few = GROUP_ROWS * groups;
            for (index, out) in out.chunks_mut(GROUP_ROWS).enumerate() {
                let range = index * few..dots.len().min((index + 1) * few);
                let sums = scaled_sums(&dots[range.clone()], &scales[range], groups);
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = (sum / f64::from(activation_scale)) as f32;
                }
            }
        }
    }
}

/// As [`rescale`] for eight tokens with one row: dots (`[groups]`) of a weight with groups, `activation_scales` of the
/// tokens.
#[inline(always)]
pub(super) fn rescale8(
    scales: &[f32],
    dots: &[[i32; 8]],
    activation_scales: &[f32; 8],
) -> [f32; 8] {
    let mut sums = [0f64; 8];
    for (dots, &scale) in dots.iter().zip(scales) {
        for (sum, &dot) in sums.iter_mut().zip(dots) {
            *sum += f64::from(dot) * f64::from(scale);
        }
    }
    let mut out = [0f32; 8];
    for ((out, sum), &scale) in out.iter_mut().zip(sums).zip(activation_scales) {
        *out = (sum / f64::from(scale)) as f32;
    }
    out
}

/// Floating-point numbers with a fused multiplication.
pub(super) trait Float: Copy + Mul<Output = Self> + Neg<Output = Self> {
    /// Returns `self * a + b`, rounded once.
    fn fused(self, a: Self, b: Self) -> Self;
}

impl Float for f32 {
    #[inline(always)]
    fn fused(self, a: f32, b: f32) -> f32 {
        self.mul_add(a, b)
    }
}

impl Float for f64 {
    #[inline(always)]
    fn fused(self, a: f64, b: f64) -> f64 {
        self.mul_add(a, b)
    }
}

/// Divides by one number many times, with the bits of `/`.
///
/// With the correctly rounded reciprocal `r` of `b`, `q = x·r` is less than three units in the last place from `x / b`;
/// a step `q + (x - b·q)·r`, fused, brings it within one, and by Markstein's theorem the next one rounds correctly,
/// where nothing overflows or underflows on the way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Divisor<F> {
    by: F,
    reciprocal: F,
}

impl Divisor<f32> {
    /// `None` for a scale of activations whose quotients could overflow, or NaN.
    #[inline(always)]
    pub(super) fn new(by: f32) -> Option<Self> {
        (1e-20..=1e20).contains(&by).then(|| Self { by, reciprocal: 1.0 / by })
    }

    /// The same number, for sums in f64.
    #[inline(always)]
    fn wide(self) -> Divisor<f64> {
        let by = f64::from(self.by);
        Divisor { by, reciprocal: 1.0 / by }
    }
}

impl<F: Float> Divisor<F> {
    /// Returns `x / by`.
    #[inline(always)]
    fn divide(self, x: F) -> F {
        let Self { by, reciprocal } = self;
        let mut quotient = x * reciprocal;
        for _ in 0..2 {
            quotient = (-by).fused(quotient, x).fused(reciprocal, quotient);
        }
        quotient
    }
}

/// As [`rescale`] for all rows of a panel, of a weight without groups: adds `start` to the dots.
#[inline(always)]
pub(super) fn rescale_panel(
    scales: &[f32; PANEL_ROWS],
    dots: &[i32; PANEL_ROWS],
    start: i32,
    divisor: Divisor<f32>,
    out: &mut [f32; PANEL_ROWS],
) {
    for ((out, &dot), scale) in out.iter_mut().zip(dots).zip(scales) {
        *out = divisor.divide(dot.wrapping_add(start) as f32) * scale;
    }
}

/// Sums over groups of two tiles of tokens with the rows of a panel: `Σ dot * scale`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct GroupSums(pub(super) [[f64; PANEL_ROWS]; 2 * TILE_TOKENS]);

/// Most elements of a group whose dots, times a scale, are exact in f64: 7 bits of activations, 22 of elements, 24 of
/// scale.
pub(super) const EXACT_GROUP: usize = 1 << 22;

/// Adds the dots of a group of at most [`EXACT_GROUP`] elements, after adding each token's `start`, times the scales of
/// `rows` rows.
///
/// The number of rows is not a constant, so that compilers unroll no loop over them: they would vectorise the one over
/// tokens then, whose numbers lie apart.
#[inline(always)]
pub(super) fn add_group(
    sums: &mut GroupSums,
    dots: &[[i32; PANEL_ROWS]],
    starts: &[i32],
    scales: &[f64; PANEL_ROWS],
    rows: usize,
) {
    for (sums, (dots, &start)) in sums.0.iter_mut().zip(dots.iter().zip(starts)) {
        let rows = sums[..rows].iter_mut().zip(dots[..rows].iter().zip(&scales[..rows]));
        for (sum, (&dot, &scale)) in rows {
            // The product is exact, so fusing changes nothing.
            *sum = f64::from(dot.wrapping_add(start)).mul_add(scale, *sum);
        }
    }
}

/// Divides the sums of one token with some rows by its scale.
#[inline(always)]
pub(super) fn rescale_groups(sums: &[f64; PANEL_ROWS], activation_scale: f32, out: &mut [f32]) {
    match (Divisor::new(activation_scale), <&mut [f32; PANEL_ROWS]>::try_from(&mut *out)) {
        (Some(divisor), Ok(out)) => {
            let divisor = divisor.wide();
            for (out, &sum) in out.iter_mut().zip(sums) {
                *out = divisor.divide(sum) as f32;
            }
        }
        _ => {
            for (out, &sum) in out.iter_mut().zip(sums) {
                *out = (sum / f64::from(activation_scale)) as f32;
            }
        }
    }
}

/// `Σ dot * scale` of up to [`GROUP_ROWS`] rows, each in the order of its groups.
#[inline(always)]
fn scaled_sums(dots: &[i32], scales: &[f32], groups: usize) -> [f64; GROUP_ROWS] {
    /// Groups whose products are computed before they are added.
    const CHUNK: usize = 16;
    let mut sums = [0.0; GROUP_ROWS];
    if dots.len() == GROUP_ROWS * groups && scales.len() == dots.len() {
        for first in (0..groups).step_by(CHUNK) {
            let count = CHUNK.min(groups - first);
            let mut products = [[0f64; CHUNK]; GROUP_ROWS];
            for (row, products) in products.iter_mut().enumerate() {
                let at = row * groups + first..row * groups + first + count;
                let factors = dots[at.clone()].iter().zip(&scales[at]);
                for (product, (&dot, &scale)) in products.iter_mut().zip(factors) {
                    *product = f64::from(dot) * f64::from(scale);
                }
            }
            for group in 0..count {
                for (sum, products) in sums.iter_mut().zip(&products) {
                    *sum += products[group];
                }
            }
        }
        return sums;
    }
    let rows = dots.chunks_exact(groups).zip(scales.chunks_exact(groups));
    for (sum, (dots, scales)) in sums.iter_mut().zip(rows) {
        for (&dot, &scale) in dots.iter().zip(scales) {
            *sum += f64::from(dot) * f64::from(scale);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnet_core::rng::SplitMix64;

    #[test]
    fn quotients_have_the_bits_of_division() {
        let mut random = SplitMix64::new(3);
        // Reciprocals err most where the mantissa is near a power of two.
        let mantissas = [0, 1, 2, 0x3f_ffff, 0x40_0000, 0x7f_fffd, 0x7f_fffe, 0x7f_ffff];
        for turn in 0..2_000_000u32 {
            let bits = random.next_u64();
            let mantissa = match mantissas.get(turn as usize % 16) {
                Some(&mantissa) => mantissa,
                None => bits as u32 & 0x7f_ffff,
            };
            let by = f32::from_bits((70 + turn % 110) << 23 | mantissa);
            let x = ((bits >> 32) as i32 >> (turn % 31)) as f32;
            let divisor = Divisor::new(by).unwrap();
            assert_eq!(divisor.divide(x).to_bits(), (x / by).to_bits(), "{x} / {by}");
            let (sum, wide) = (f64::from(x) * (1.0 + bits as f64), f64::from(by));
            assert_eq!(
                divisor.wide().divide(sum).to_bits(),
                (sum / wide).to_bits(),
                "{sum} / {by}"
            );
        }
    }

    #[test]
    fn divisors_that_could_overflow_are_refused() {
        for by in [f32::NAN, 0.0, f32::INFINITY, 1e-30, 1e30, -1.0] {
            assert!(Divisor::new(by).is_none(), "{by}");
        }
    }
}

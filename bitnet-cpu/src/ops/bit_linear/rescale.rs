//! Rescaling of exact sums, as the reference computes it: `Σ_groups dot * weight_scale / activation_scale`.

use super::weight::groups;
use crate::isa::{Isa, Op};
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};

/// Rows with groups that are summed together, so that their sums do not wait for one another.
pub(super) const GROUP_ROWS: usize = 4;

/// [`rescale`] as a function of its own, which the kernels share.
pub(crate) struct Rescale<'a> {
    pub(crate) weight: &'a TernaryMatrix,
    pub(crate) row: usize,
    pub(crate) dots: &'a [i32],
    pub(crate) activation_scale: f32,
    pub(crate) out: &'a mut [f32],
}

impl Op for Rescale<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        rescale(self.weight, self.row, self.dots, self.activation_scale, self.out);
    }
}

/// Dots (`[rows, groups]`, rows from `row` on) rescaled into `out` (`[rows]`).
#[inline(always)]
pub(crate) fn rescale(
    weight: &TernaryMatrix,
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
            let scales = &weight.scales()[row * groups..][..dots.len()];
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

/// As [`rescale`] for eight tokens with one row: dots (`[groups]`) of a weight with groups, `activation_scales` of the tokens.
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

/// `Σ dot * scale` of up to [`GROUP_ROWS`] rows, each in the order of its groups.
#[inline(always)]
fn scaled_sums(dots: &[i32], scales: &[f32], groups: usize) -> [f64; GROUP_ROWS] {
    let mut sums = [0.0; GROUP_ROWS];
    if dots.len() == GROUP_ROWS * groups && scales.len() == dots.len() {
        for group in 0..groups {
            for (row, sum) in sums.iter_mut().enumerate() {
                let at = row * groups + group;
                *sum += f64::from(dots[at]) * f64::from(scales[at]);
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

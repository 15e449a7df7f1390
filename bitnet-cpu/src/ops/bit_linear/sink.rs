//! Where exact sums go: rescaled into results, or as they are.

use std::ops::Range;

use super::canonical::ScaleBuffer;
use super::rescale::{
    Divisor, GroupSums, Rescale, add_group, rescale_groups, rescale_panel, rescale8,
};
use super::weight::{CpuMatrix, group_scales, groups, panel_scales};
use crate::activations::Quantized;
use crate::isa::{Isa, LANES, PANEL_ROWS, prefetch};

/// Takes dots: those of some rows from `row` on, `[rows, groups]`, where a weight without groups has one.
///
/// A value and not a type parameter: the kernels are compiled once for both.
pub(super) enum DotSink<'a, 'b> {
    /// Rescales into `out[token][row - first]`.
    Rescale { weight: &'a CpuMatrix, first: usize, x: &'a Quantized, out: &'a mut [&'b mut [f32]] },
    /// Copies into `all` (`[tokens, rows, groups]`).
    Integers { all: &'a mut [i32], rows: usize, groups: usize },
}

/// The tokens and the rows of a panel to which some dots belong.
#[derive(Debug, Clone)]
pub(super) struct PanelTile {
    pub(super) tokens: Range<usize>,
    pub(super) rows: Range<usize>,
}

impl DotSink<'_, '_> {
    /// Takes the dots of one token.
    #[inline(always)]
    pub(super) fn push<I: Isa>(&mut self, isa: I, token: usize, row: usize, dots: &[i32]) {
        match self {
            Self::Rescale { weight, first, x, out } => {
                let rows = dots.len() / groups(weight);
                let out = &mut out[token][row - *first..][..rows];
                let activation_scale = x.scales[token];
                isa.run(Rescale { weight, row, dots, activation_scale, out });
            }
            Self::Integers { all, rows, groups } => {
                let at = (token * *rows + row) * *groups;
                all[at..at + dots.len()].copy_from_slice(dots);
            }
        }
    }

    /// Requests the places of a tile from memory, which arrive while it is computed.
    #[inline(always)]
    pub(super) fn prefetch(&self, tile: &PanelTile) {
        let Self::Rescale { first, out, .. } = self else { return };
        for out in &out[tile.tokens.clone()] {
            for line in out[tile.rows.start - *first..][..tile.rows.len()].chunks(LANES) {
                prefetch(line.as_ptr());
            }
        }
    }

    /// Takes the dots of some tokens with rows of a panel, of a weight without groups; `starts` are added to those of
    /// each token.
    #[inline(always)]
    pub(super) fn push_panel<I: Isa>(
        &mut self,
        isa: I,
        tile: &PanelTile,
        dots: &mut [[i32; PANEL_ROWS]],
        starts: &[i32],
    ) {
        let PanelTile { tokens, rows } = tile;
        let panel_scales = match self {
            Self::Rescale { weight, .. } => panel_scales(weight, rows.clone()),
            Self::Integers { .. } => None,
        };
        for (token, (dots, &start)) in tokens.clone().zip(dots.iter_mut().zip(starts)) {
            if let Self::Rescale { first, x, out, .. } = self
                && let Some(scales) = &panel_scales
                && let Some(divisor) = Divisor::new(x.scales[token])
                && let Some(out) = out[token][rows.start - *first..].first_chunk_mut()
            {
                rescale_panel(scales, dots, start, divisor, out);
                continue;
            }
            for dot in &mut *dots {
                *dot = dot.wrapping_add(start);
            }
            self.push(isa, token, rows.start, &dots[..rows.len()]);
        }
    }

    /// As [`DotSink::push_panel`] for one group of a weight with groups. Dots that are rescaled become part of `sums`.
    #[inline(always)]
    pub(super) fn push_panel_group(
        &mut self,
        tile: &PanelTile,
        group: usize,
        dots: &[[i32; PANEL_ROWS]],
        starts: &[i32],
        scales: &[f64; PANEL_ROWS],
        sums: &mut GroupSums,
    ) {
        match self {
            Self::Rescale { .. } => add_group(sums, dots, starts, scales, tile.rows.len()),
            Self::Integers { all, rows, groups } => {
                for (token, (dots, start)) in tile.tokens.clone().zip(dots.iter().zip(starts)) {
                    for (row, dot) in tile.rows.clone().zip(dots) {
                        all[(token * *rows + row) * *groups + group] = dot.wrapping_add(*start);
                    }
                }
            }
        }
    }

    /// Takes the sums of some tokens with rows of a panel, after all groups.
    #[inline(always)]
    pub(super) fn finish_panel(&mut self, tile: &PanelTile, sums: &GroupSums) {
        let Self::Rescale { first, x, out, .. } = self else { return };
        for (token, sums) in tile.tokens.clone().zip(&sums.0) {
            let out = &mut out[token][tile.rows.start - *first..][..tile.rows.len()];
            rescale_groups(sums, x.scales[token], out);
        }
    }

    /// Takes the dots of eight tokens from `token` on with one row: `[groups]`.
    #[inline(always)]
    pub(super) fn push8<I: Isa>(&mut self, isa: I, token: usize, row: usize, dots: &[[i32; 8]]) {
        match self {
            Self::Rescale { weight, first, x, out } => {
                let Some(scales) = x.scales[token..].first_chunk() else { return };
                let mut buffer = ScaleBuffer::default();
                let of_row = group_scales(isa, weight, row..row + 1, &mut buffer);
                let results = rescale8(of_row, dots, scales);
                for (out, result) in out[token..].iter_mut().zip(results) {
                    out[row - *first] = result;
                }
            }
            Self::Integers { all, rows, groups } => {
                for (group, dots) in dots.iter().enumerate() {
                    for (index, &dot) in dots.iter().enumerate() {
                        all[((token + index) * *rows + row) * *groups + group] = dot;
                    }
                }
            }
        }
    }
}

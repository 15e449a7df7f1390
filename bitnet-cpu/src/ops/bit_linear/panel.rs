//! Panels: the codes of some rows, unpacked once for all tokens of a prompt.
//!
//! A panel takes a byte for each code and stays in the second-level cache while all tiles of tokens pass over it.

use std::ops::Range;

use super::sink::DotSink;
use super::weight::CpuMatrix;
use crate::activations::{Quantized, int8_tiles};
use crate::isa::{CodeBlock, Isa, PANEL_ROWS, PanelHalf, prefetch};
use bitnet_core::Result;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};

/// Tokens from which on unpacking a panel costs less than it saves.
pub(super) const PANEL_TOKENS: usize = 48;

/// The codes of up to [`PANEL_ROWS`] rows, and what they meet.
pub(super) struct Panel<'a> {
    weight: &'a CpuMatrix,
    x: &'a Quantized,
    tokens: usize,
    halves: PoolBuffer<PanelHalf>,
    /// `-Σ q` of each token.
    starts: PoolBuffer<i32>,
}

impl<'a> Panel<'a> {
    /// # Errors
    /// [`bitnet_core::Error::OutOfMemory`].
    pub(super) fn new(
        weight: &'a CpuMatrix,
        x: &'a Quantized,
        tokens: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let halves = PoolBuffer::scratch(2 * x.width, pool)?;
        let mut starts = PoolBuffer::scratch(tokens, pool)?;
        for (token, start) in starts.iter_mut().enumerate() {
            *start = x.whole_sum(token).wrapping_neg();
        }
        Ok(Self { weight, x, tokens, halves, starts })
    }

    /// Computes the dots of all tokens with some rows.
    #[inline(always)]
    pub(super) fn dots<I: Isa>(&mut self, isa: I, rows: Range<usize>, sink: &mut DotSink<'_, '_>) {
        for start in rows.clone().step_by(PANEL_ROWS) {
            let rows = start..(start + PANEL_ROWS).min(rows.end);
            pack(isa, self.weight, rows.clone(), &mut self.halves);
            for tile in int8_tiles(self.tokens) {
                match tile.len() {
                    8 => self.tile::<I, 8>(isa, tile, &rows, sink),
                    4 => self.tile::<I, 4>(isa, tile, &rows, sink),
                    2 => self.tile::<I, 2>(isa, tile, &rows, sink),
                    _ => self.tile::<I, 1>(isa, tile, &rows, sink),
                }
            }
        }
    }

    #[inline(always)]
    fn tile<I: Isa, const T: usize>(
        &self,
        isa: I,
        tile: Range<usize>,
        rows: &Range<usize>,
        sink: &mut DotSink<'_, '_>,
    ) {
        let blocks = self.x.tile(&tile).as_chunks::<T>().0;
        let Some(starts) = self.starts[tile.clone()].first_chunk() else { return };
        let dots = isa.panel_dots(&self.halves, 0, blocks, starts);
        for (token, dots) in tile.zip(&dots) {
            sink.push(isa, token, rows.start, &dots[..rows.len()]);
        }
    }
}

/// Unpacks up to [`PANEL_ROWS`] rows, and prefetches as many that follow them.
#[inline(always)]
pub(super) fn pack<I: Isa>(
    isa: I,
    weight: &CpuMatrix,
    rows: Range<usize>,
    panel: &mut [PanelHalf],
) {
    let width = panel.len() / 2;
    let weight = match weight {
        CpuMatrix::Canonical(weight) => weight,
        CpuMatrix::Packed(weight) => return weight.pack_panel(rows, panel),
    };
    let all: &[CodeBlock] = weight.words().as_chunks().0;
    let (codes, ahead) = (&all[rows.start * width..rows.end * width], rows.end * width);
    for (block, halves) in panel.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        // Two blocks are a cache line.
        for line in (0..rows.len()).step_by(2) {
            prefetch(all.as_ptr().wrapping_add(ahead + block * rows.len() + line));
        }
        isa.pack_panel(codes, width, block, halves);
    }
}

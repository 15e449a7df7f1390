//! Tiles of eight tokens, into which long prompts are divided.

use std::ops::Range;

use super::dot::prefetch_rows;
use super::sink::DotSink;
use super::weight::{CpuMatrix, groups};
use crate::activations::Quantized;
use crate::isa::{Isa, prefetch};

/// Rows that meet a tile of tokens before the next tile is taken: their codes stay in the nearest caches.
pub(super) const ROWS: usize = 128;

/// Activation blocks of a tile that are taken together: 20 KiB.
pub(super) const TILE_BLOCKS: usize = 160;

/// Dots of one tile with some rows; reused from tile to tile, because filling it with zeros takes time.
pub(super) struct Tile8Dots {
    by_row: [[i32; 8]; ROWS],
    by_token: [[i32; ROWS]; 8],
}

impl Tile8Dots {
    pub(super) fn new() -> Self {
        Self { by_row: [[0; 8]; ROWS], by_token: [[0; ROWS]; 8] }
    }

    /// Computes `Σ trit·q` of eight tokens with up to [`ROWS`] rows.
    #[inline(always)]
    pub(super) fn compute<I: Isa>(
        &mut self,
        isa: I,
        weight: &CpuMatrix,
        x: &Quantized,
        tile: Range<usize>,
        rows: Range<usize>,
        sink: &mut DotSink<'_, '_>,
    ) {
        let Self { by_row, by_token } = self;
        let (blocks, _) = x.tile(&tile).as_chunks::<8>();
        // Pieces of one length, that a cache holds.
        let pieces = blocks.len().div_ceil(I::TILE8_BLOCKS.min(TILE_BLOCKS / 8)).max(1);
        let len = blocks.len().div_ceil(pieces).max(1);
        for (piece, blocks) in blocks.chunks(len).enumerate() {
            let first = piece * len;
            let halves = x.starts8(tile.start, first..first + blocks.len());
            let start = isa.tile8_start(&halves, blocks);
            let distance = prefetch_rows(blocks.len()) * x.width;
            for (dots, row) in by_row.iter_mut().zip(rows.clone()) {
                let codes = &weight.row_blocks(row)[first..first + blocks.len()];
                // The codes are in a cache when the next tile meets them.
                if tile.start == 0 {
                    for line in (0..codes.len()).step_by(2) {
                        prefetch(codes.as_ptr().wrapping_add(distance + line));
                    }
                }
                let sums = isa.tile8_dots(&start, codes, blocks);
                if piece == 0 {
                    *dots = sums;
                } else {
                    for (dot, sum) in dots.iter_mut().zip(sums) {
                        *dot = dot.wrapping_add(sum);
                    }
                }
            }
        }
        let (eights, _) = by_row[..rows.len().next_multiple_of(8)].as_chunks();
        for (index, eight) in eights.iter().enumerate() {
            for (token, dots) in by_token.iter_mut().zip(isa.transpose8(*eight)) {
                token[8 * index..8 * (index + 1)].copy_from_slice(&dots);
            }
        }
        for (token, dots) in tile.zip(by_token) {
            sink.push(isa, token, rows.start, &dots[..rows.len()]);
        }
    }
}

/// Returns whether [`tile8_by_groups`] takes groups of `len` half blocks.
#[inline(always)]
pub(super) fn groups_fit_tiles<I: Isa>(len: usize) -> bool {
    len == 1 || (len.is_multiple_of(2) && len / 2 <= I::TILE8_BLOCKS)
}

/// Computes `Σ trit·q` of eight tokens with each group of `len` half blocks of some rows.
#[inline(always)]
pub(super) fn tile8_by_groups<I: Isa>(
    isa: I,
    weight: &CpuMatrix,
    len: usize,
    x: &Quantized,
    tile: Range<usize>,
    rows: Range<usize>,
    sink: &mut DotSink<'_, '_>,
) {
    let (blocks, _) = x.tile(&tile).as_chunks::<8>();
    let groups = groups(weight);
    let together = len.div_ceil(2);
    let mut starts = Vec::with_capacity(blocks.len());
    for (index, blocks) in blocks.chunks(together).enumerate() {
        let first = index * together;
        let halves = x.starts8(tile.start, first..first + blocks.len());
        starts.push(isa.tile8_start(&halves, blocks));
    }
    let mut dots = vec![[0i32; 8]; blocks.len() * 2];
    for row in rows {
        let codes = weight.row_blocks(row);
        let parts = codes.chunks(together).zip(blocks.chunks(together)).zip(&starts);
        if len == 1 {
            for (((codes, blocks), start), dots) in parts.zip(dots.as_chunks_mut::<2>().0) {
                *dots = isa.tile8_halves(start, codes, blocks);
            }
        } else {
            for (((codes, blocks), start), dots) in parts.zip(&mut dots) {
                *dots = isa.tile8_dots(start, codes, blocks);
            }
        }
        // What is behind the last group is padding.
        sink.push8(isa, tile.start, row, &dots[..groups]);
    }
}

//! Panels: the codes of some rows, unpacked once for all tokens of a prompt, and multiplied by AVX-512 or by AMX.
//!
//! A panel takes a byte for each code and stays in the second-level cache while tiles of tokens pass over it.

use std::ops::Range;

use super::canonical::ScaleBuffer;
use super::grouped::group_halves;
use super::rescale::{EXACT_GROUP, GroupSums};
use super::sink::{DotSink, PanelTile};
use super::weight::{CpuMatrix, group_scales, groups, matrix};
use crate::activations::{Quantized, int8_tiles};
use crate::exec::ExecContext;
use crate::isa::{
    Amx, Isa, Op, PANEL_ROWS, PanelHalf, TILE_TOKENS, TileSums, Tiles, TokenTile, prefetch,
};
use crate::ops::pieces::pieces;
use bitnet_core::Result;
use bitnet_core::backend::TernaryWeight;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};

/// Tokens from which on panels cost less than other kernels, for weights with scales for groups.
pub(super) const GROUPED_TOKENS: usize = 8;

/// Tokens from which on panels with AMX cost less than other kernels, for weights with one scale.
const AMX_TOKENS: usize = 12;

/// Blocks of activations that stay in the second-level cache while all panels pass over them.
const CACHED_BLOCKS: usize = (1 << 20) / 128;

/// Tokens whose sums with a panel are computed together.
const SUMS_TOKENS: usize = 2 * TILE_TOKENS;

/// Returns the AMX that multiplies `tokens` tokens by `weights`, if this level has it and it takes no longer.
pub(super) fn amx_for(
    exec: ExecContext<'_>,
    tokens: usize,
    weights: &[&dyn TernaryWeight],
) -> Result<Option<Amx>> {
    let Some(amx) = exec.isa.amx() else { return Ok(None) };
    for weight in weights {
        let weight = matrix(*weight)?;
        let from = group_halves(weight).map_or(AMX_TOKENS, |_| GROUPED_TOKENS);
        if tokens < from || !fits_panels(weight) {
            return Ok(None);
        }
    }
    Ok(Some(amx))
}

/// Returns whether panels hold whole groups, whose scaled sums are exact.
fn fits_panels(weight: &CpuMatrix) -> bool {
    group_halves(weight).is_none_or(|halves| {
        halves == 1 || (halves.is_multiple_of(2) && halves <= EXACT_GROUP / 64)
    })
}

/// Returns whether panels multiply a weight by these activations in less time than other kernels.
pub(super) fn use_panels<I: Isa>(weight: &CpuMatrix, x: &Quantized) -> bool {
    let from = group_halves(weight).map_or(I::PANEL_TOKENS, |_| GROUPED_TOKENS);
    I::PANELS && (x.amx.is_some() || (x.tokens() >= from && fits_panels(weight)))
}

/// Configured tiles, and the activations in tiles of a block of sixteen tokens each: `[tokens / 16, width]`.
type AmxOperand<'a> = (Tiles, &'a [TokenTile]);

/// The product of all tokens with some rows of a weight.
pub(super) struct PanelGemm<'a> {
    weight: &'a CpuMatrix,
    x: &'a Quantized,
    tokens: usize,
    /// Tokens whose activations stay in a cache while all panels pass over them: a multiple of [`SUMS_TOKENS`].
    cached: usize,
    panel: PoolBuffer<PanelHalf>,
    /// `-Σ q` of each token over each group: `[groups, tokens]`; empty for a weight without groups.
    starts: PoolBuffer<i32>,
    /// The scales of the rows of the panel: `[groups, PANEL_ROWS]`; empty for a weight without groups.
    scales: PoolBuffer<[f64; PANEL_ROWS]>,
}

impl<'a> PanelGemm<'a> {
    /// # Errors
    /// [`bitnet_core::Error::OutOfMemory`].
    pub(super) fn new(
        weight: &'a CpuMatrix,
        x: &'a Quantized,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let tokens = x.tokens();
        let panel = PoolBuffer::scratch(2 * x.width, pool)?;
        let groups = group_halves(weight).map_or(0, |_| groups(weight));
        let mut starts = PoolBuffer::scratch(groups * tokens, pool)?;
        let scales = PoolBuffer::scratch(groups, pool)?;
        if let Some(halves) = group_halves(weight) {
            for token in 0..tokens {
                for (index, start) in x.group_starts(token, halves).take(groups).enumerate() {
                    starts[index * tokens + token] = start;
                }
            }
        }
        let cached = (CACHED_BLOCKS / x.width.max(1)).next_multiple_of(SUMS_TOKENS);
        Ok(Self { weight, x, tokens, cached, panel, starts, scales })
    }

    /// Computes the dots of all tokens with some rows.
    #[inline(always)]
    pub(super) fn dots<I: Isa>(&mut self, isa: I, rows: Range<usize>, sink: &mut DotSink<'_, '_>) {
        let amx = self.x.amx.map(|amx| (amx.configure(), self.x.token_tiles()));
        for cached in pieces(0..self.tokens, self.cached) {
            for rows in pieces(rows.clone(), PANEL_ROWS) {
                pack(isa, self.weight, rows.clone(), &mut self.panel);
                self.transpose_scales(isa, rows.clone());
                for tokens in pieces(cached.clone(), SUMS_TOKENS) {
                    self.tile(isa, amx.as_ref(), &PanelTile { tokens, rows: rows.clone() }, sink);
                }
            }
        }
    }

    #[inline(always)]
    fn transpose_scales<I: Isa>(&mut self, isa: I, rows: Range<usize>) {
        let mut buffer = ScaleBuffer::default();
        for (index, row) in rows.enumerate() {
            let of_row = group_scales(isa, self.weight, row..row + 1, &mut buffer);
            for (scales, &scale) in self.scales.iter_mut().zip(of_row) {
                scales[index] = f64::from(scale);
            }
        }
    }

    /// Some tokens with the rows of the panel.
    #[inline(always)]
    fn tile<I: Isa>(
        &self,
        isa: I,
        amx: Option<&AmxOperand<'_>>,
        tile: &PanelTile,
        sink: &mut DotSink<'_, '_>,
    ) {
        let tokens = tile.tokens.clone();
        sink.prefetch(tile);
        let mut dots = TileSums([[0; PANEL_ROWS]; SUMS_TOKENS]);
        let Some(halves) = group_halves(self.weight) else {
            self.multiply(isa, amx, 0..self.panel.len(), &tokens, &mut dots);
            return sink.push_panel(isa, tile, &mut dots.0, &self.x.starts[tokens]);
        };
        let mut sums = GroupSums([[0.0; PANEL_ROWS]; SUMS_TOKENS]);
        let groups = self.starts.chunks_exact(self.tokens).zip(&self.scales[..]).enumerate();
        for (group, (starts, scales)) in groups {
            let first = group * halves;
            let end = (first + halves).min(self.panel.len());
            self.multiply(isa, amx, first..end, &tokens, &mut dots);
            let starts = &starts[tokens.clone()];
            sink.push_panel_group(tile, group, &dots.0, starts, scales, &mut sums);
        }
        sink.finish_panel(tile, &sums);
    }

    /// Computes `Σ code·x` of some tokens with some halves of the panel.
    #[inline(always)]
    fn multiply<I: Isa>(
        &self,
        isa: I,
        amx: Option<&AmxOperand<'_>>,
        halves: Range<usize>,
        tokens: &Range<usize>,
        sums: &mut TileSums,
    ) {
        let (first, panel) = (halves.start, &self.panel[halves]);
        if let Some((tiles, x)) = amx {
            let width = self.x.width;
            let tile = |token| &x[token / TILE_TOKENS * width..][..width];
            return tiles.multiply(panel, first, [tile(tokens.start), tile(tokens.end - 1)], sums);
        }
        let (x, tokens) = (self.x, tokens.clone());
        isa.run(PanelDots { panel, first, x, tokens, sums: &mut sums.0 });
    }
}

/// [`PanelGemm::multiply`] without AMX. A function of its own, which is large.
struct PanelDots<'a> {
    panel: &'a [PanelHalf],
    first: usize,
    x: &'a Quantized,
    tokens: Range<usize>,
    sums: &'a mut [[i32; PANEL_ROWS]],
}

impl Op for PanelDots<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { panel, first, x, tokens, mut sums } = self;
        for tile in int8_tiles(tokens.len()) {
            let x = x.tile(&(tokens.start + tile.start..tokens.start + tile.end));
            let (own, rest) = sums.split_at_mut(tile.len());
            sums = rest;
            match tile.len() {
                8 => isa.panel_dots::<8>(panel, first, x.as_chunks().0, own),
                4 => isa.panel_dots::<4>(panel, first, x.as_chunks().0, own),
                2 => isa.panel_dots::<2>(panel, first, x.as_chunks().0, own),
                _ => isa.panel_dots::<1>(panel, first, x.as_chunks().0, own),
            }
        }
    }
}

/// Unpacks up to [`PANEL_ROWS`] rows, and prefetches as many that follow them.
#[inline(always)]
fn pack<I: Isa>(isa: I, weight: &CpuMatrix, rows: Range<usize>, panel: &mut [PanelHalf]) {
    let width = panel.len() / 2;
    let weight = match weight {
        CpuMatrix::Canonical(matrix) => matrix,
        CpuMatrix::Packed(weight) => return weight.pack_panel(rows, panel),
    };
    let all = weight.blocks();
    let (codes, ahead) = (&all[rows.start * width..rows.end * width], rows.end * width);
    for (block, halves) in panel.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        // Two blocks are a cache line.
        for line in (0..rows.len()).step_by(2) {
            prefetch(all.as_ptr().wrapping_add(ahead + block * rows.len() + line));
        }
        isa.pack_panel(codes, width, block, halves);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::AnyIsa;
    use crate::threads::Threads;
    use crate::traffic::TrafficCounters;
    use bitnet_core::backend::ActivationPrecision::Int8;
    use bitnet_core::rng::SplitMix64;
    use bitnet_core::simd::IsaLevel;
    use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};

    /// Integers of all rows, with few tokens for each turn over the panels.
    struct Dots<'a>(PanelGemm<'a>, &'a mut [i32]);

    impl Op for Dots<'_> {
        type Output = ();

        fn eval<I: Isa>(self, isa: I) {
            let Self(mut gemm, all) = self;
            let (rows, groups) = (gemm.weight.rows(), groups(gemm.weight));
            gemm.cached = SUMS_TOKENS;
            gemm.dots(isa, 0..rows, &mut DotSink::Integers { all, rows, groups });
        }
    }

    #[test]
    fn tokens_beyond_the_cache_are_multiplied_in_turns_on_every_level() {
        let (rows, cols, tokens) = (70, 384, 103);
        let mut random = SplitMix64::new(5);
        let trits: Vec<i8> = (0..rows * cols).map(|_| (random.next_u64() % 3) as i8 - 1).collect();
        let x: Vec<f32> = (0..tokens * cols).map(|_| random.next_u64() as i8 as f32).collect();
        let pool = HybridMemoryPool::new().unwrap();
        let (threads, traffic) = (Threads::new(1).unwrap(), TrafficCounters::default());
        for isa in IsaLevel::available().into_iter().filter_map(AnyIsa::detect) {
            let exec =
                ExecContext { isa, threads: &threads, traffic: &traffic, scratch_pool: &pool };
            for group in [64, 128, 384] {
                let scales = vec![1.0; rows * cols / group];
                let granularity = ScaleGranularity::Group(group);
                let weight =
                    TernaryMatrix::from_trits(rows, cols, &trits, granularity, scales).unwrap();
                let weight = CpuMatrix::new(weight, None, &pool).unwrap();
                let x = Quantized::new(&x, tokens, cols, Int8, isa.amx(), exec).unwrap();
                let q = x.activations(tokens, cols);
                let mut all = vec![i32::MAX; tokens * rows * cols / group];
                let gemm = PanelGemm::new(&weight, &x, &pool).unwrap();
                isa.run(Dots(gemm, &mut all));
                for (index, dot) in all.iter().enumerate() {
                    let (token, rest) =
                        (index / (rows * cols / group), index % (rows * cols / group));
                    let trits = &trits[rest * group..][..group];
                    let q = &q[token * cols + rest * group % cols..][..group];
                    let expected = trits.iter().zip(q).map(|(t, q)| i32::from(*t) * i32::from(*q));
                    let name = format!("{isa:?}: token {token}, group {rest} of {group}");
                    assert_eq!(*dot, expected.sum::<i32>(), "{name}");
                }
            }
        }
    }
}

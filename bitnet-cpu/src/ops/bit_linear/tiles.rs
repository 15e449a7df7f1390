//! Panels multiplied by AMX, sixteen tokens by sixteen rows at a time.

use std::ops::Range;

use super::grouped::group_halves;
use super::panel::pack;
use super::rescale::{EXACT_GROUP, GroupSums};
use super::sink::{DotSink, PanelTile};
use super::weight::{groups, matrix, row_scales};
use crate::activations::Quantized;
use crate::exec::ExecContext;
use crate::isa::{Amx, Isa, PANEL_ROWS, PanelHalf, TILE_TOKENS, TileSums, Tiles, TokenTile};
use bitnet_core::Result;
use bitnet_core::backend::TernaryWeight;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use bitnet_core::ternary::TernaryMatrix;
use smallvec::SmallVec;

/// Tokens from which on tiles cost less than other kernels, for weights with scales for groups and for others.
const TILES_FROM: [usize; 2] = [8, 12];

/// Blocks of activations that stay in the second-level cache while all panels pass over them.
const CACHED_BLOCKS: usize = (1 << 20) / 128;

/// Returns the tiles that multiply `tokens` tokens by `weights`, if this level has them and they take no longer.
pub(super) fn for_tokens(
    exec: ExecContext<'_>,
    tokens: usize,
    weights: &[&dyn TernaryWeight],
) -> Result<Option<Amx>> {
    let [by_groups, whole] = TILES_FROM;
    let Some(amx) = exec.isa.amx().filter(|_| tokens >= by_groups) else { return Ok(None) };
    for weight in weights {
        match group_halves(matrix(*weight)?) {
            None if tokens >= whole => {}
            Some(1) => {}
            Some(halves) if halves % 2 == 0 && halves <= EXACT_GROUP / 64 => {}
            _ => return Ok(None),
        }
    }
    Ok(Some(amx))
}

/// The product of all tokens with some rows of a weight.
pub(super) struct TileGemm<'a> {
    amx: Amx,
    weight: &'a TernaryMatrix,
    x: &'a Quantized,
    tokens: usize,
    /// Tiles of tokens that stay in a cache while all panels pass over them; an even number.
    cached: usize,
    panel: PoolBuffer<PanelHalf>,
    /// `-Σ q` of each token over each group: `[groups, tokens]`.
    starts: PoolBuffer<i32>,
    /// The scales of the rows of the panel: `[groups, PANEL_ROWS]`, empty for a weight without groups.
    scales: PoolBuffer<[f64; PANEL_ROWS]>,
}

impl<'a> TileGemm<'a> {
    /// # Errors
    /// [`bitnet_core::Error::OutOfMemory`].
    pub(super) fn new(
        amx: Amx,
        weight: &'a TernaryMatrix,
        x: &'a Quantized,
        tokens: usize,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        let panel = PoolBuffer::scratch(2 * x.width, pool)?;
        let group = group_halves(weight).unwrap_or(2 * x.width).max(1);
        let groups = groups(weight);
        let mut starts = PoolBuffer::scratch(groups * tokens, pool)?;
        for token in 0..tokens {
            for (index, halves) in x.sums(token).chunks(group).take(groups).enumerate() {
                let sum = halves.iter().fold(0i32, |sum, half| sum.wrapping_add(*half));
                starts[index * tokens + token] = sum.wrapping_neg();
            }
        }
        let scales = PoolBuffer::scratch(group_halves(weight).map_or(0, |_| groups), pool)?;
        let cached = (CACHED_BLOCKS / TILE_TOKENS / x.width.max(1)).max(2) & !1;
        Ok(Self { amx, weight, x, tokens, cached, panel, starts, scales })
    }

    /// Computes the dots of all tokens with some rows.
    #[inline(always)]
    pub(super) fn dots<I: Isa>(&mut self, isa: I, rows: Range<usize>, sink: &mut DotSink<'_, '_>) {
        let tiles = self.amx.configure();
        let all: SmallVec<[_; 32]> = self.x.token_tiles().collect();
        for (index, cached) in all.chunks(self.cached).enumerate() {
            for start in rows.clone().step_by(PANEL_ROWS) {
                let rows = start..(start + PANEL_ROWS).min(rows.end);
                pack(isa, self.weight, rows.clone(), &mut self.panel);
                self.transpose_scales(rows.clone());
                for (pair, x) in cached.chunks(2).enumerate() {
                    let token = (index * self.cached + 2 * pair) * TILE_TOKENS;
                    let tokens = token..(token + x.len() * TILE_TOKENS).min(self.tokens);
                    let x = [x[0], x[x.len() - 1]];
                    let tile = PanelTile { tokens, rows: rows.clone() };
                    match group_halves(self.weight) {
                        None => self.pair(isa, &tiles, x, &tile, sink),
                        Some(halves) => self.pair_by_groups(&tiles, halves, x, &tile, sink),
                    }
                }
            }
        }
    }

    fn transpose_scales(&mut self, rows: Range<usize>) {
        for (index, row) in rows.enumerate() {
            for (scales, &scale) in self.scales.iter_mut().zip(row_scales(self.weight, row)) {
                scales[index] = f64::from(scale);
            }
        }
    }

    /// Two tiles of tokens with the rows of the panel.
    #[inline(always)]
    fn pair<I: Isa>(
        &self,
        isa: I,
        tiles: &Tiles,
        x: [&[TokenTile]; 2],
        tile: &PanelTile,
        sink: &mut DotSink<'_, '_>,
    ) {
        let mut dots = TileSums([[0; PANEL_ROWS]; 2 * TILE_TOKENS]);
        tiles.multiply(&self.panel, 0, x, &mut dots);
        sink.push_panel(isa, tile, &mut dots.0, &self.starts[tile.tokens.clone()]);
    }

    /// As [`TileGemm::pair`], for groups of `halves` half blocks.
    #[inline(always)]
    fn pair_by_groups(
        &self,
        tiles: &Tiles,
        halves: usize,
        x: [&[TokenTile]; 2],
        tile: &PanelTile,
        sink: &mut DotSink<'_, '_>,
    ) {
        let mut dots = TileSums([[0; PANEL_ROWS]; 2 * TILE_TOKENS]);
        let mut sums = GroupSums([[0.0; PANEL_ROWS]; 2 * TILE_TOKENS]);
        let starts = self.starts.chunks_exact(self.tokens);
        let groups = self.panel.chunks(halves).zip(starts).zip(&self.scales[..]);
        for (group, ((panel, starts), scales)) in groups.enumerate() {
            tiles.multiply(panel, group * halves, x, &mut dots);
            let starts = &starts[tile.tokens.clone()];
            sink.push_panel_group(tile, group, &dots.0, starts, scales, &mut sums);
        }
        sink.finish_panel(tile, &sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{AnyIsa, Op};
    use crate::threads::Threads;
    use crate::traffic::TrafficCounters;
    use bitnet_core::rng::SplitMix64;
    use bitnet_core::simd::IsaLevel;
    use bitnet_core::ternary::ScaleGranularity;

    /// Integers of all rows, with few tiles of tokens for each turn over the panels.
    struct Dots<'a>(TileGemm<'a>, &'a mut [i32]);

    impl Op for Dots<'_> {
        type Output = ();

        fn eval<I: Isa>(self, isa: I) {
            let Self(mut gemm, all) = self;
            let (rows, groups) = (gemm.weight.rows(), groups(gemm.weight));
            gemm.cached = 2;
            gemm.dots(isa, 0..rows, &mut DotSink::Integers { all, rows, groups });
        }
    }

    #[test]
    fn tokens_beyond_the_cache_are_multiplied_in_turns() {
        let Some(isa) = AnyIsa::detect(IsaLevel::Amx) else { return };
        let (rows, cols, tokens) = (70, 384, 100);
        let mut random = SplitMix64::new(5);
        let trits: Vec<i8> = (0..rows * cols).map(|_| (random.next_u64() % 3) as i8 - 1).collect();
        let x: Vec<f32> = (0..tokens * cols).map(|_| random.next_u64() as i8 as f32).collect();
        let pool = HybridMemoryPool::new().unwrap();
        let (threads, traffic) = (Threads::new(1).unwrap(), TrafficCounters::default());
        let exec = ExecContext { isa, threads: &threads, traffic: &traffic, scratch_pool: &pool };
        for group in [64, 128, 384] {
            let scales = vec![1.0; rows * cols / group];
            let granularity = ScaleGranularity::Group(group);
            let weight =
                TernaryMatrix::from_trits(rows, cols, &trits, granularity, scales).unwrap();
            let x = Quantized::new(&x, tokens, cols, None, isa.amx(), exec).unwrap();
            let q = x.activations(tokens, cols);
            let mut all = vec![i32::MAX; tokens * rows * cols / group];
            let amx = isa.amx().unwrap();
            let gemm = TileGemm::new(amx, &weight, &x, tokens, &pool).unwrap();
            isa.run(Dots(gemm, &mut all));
            for (index, dot) in all.iter().enumerate() {
                let (token, rest) = (index / (rows * cols / group), index % (rows * cols / group));
                let trits = &trits[rest * group..][..group];
                let q = &q[token * cols + rest * group % cols..][..group];
                let expected = trits.iter().zip(q).map(|(t, q)| i32::from(*t) * i32::from(*q));
                assert_eq!(*dot, expected.sum::<i32>(), "token {token}, group {rest} of {group}");
            }
        }
    }
}

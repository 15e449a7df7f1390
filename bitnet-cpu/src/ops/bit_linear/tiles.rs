//! Panels multiplied by AMX, sixteen tokens by sixteen rows at a time.

use std::ops::Range;

use super::grouped::group_halves;
use super::panel::pack;
use super::sink::DotSink;
use super::weight::matrix;
use crate::activations::Quantized;
use crate::exec::ExecContext;
use crate::isa::{Amx, Isa, PANEL_ROWS, PanelHalf, TILE_TOKENS, TileSums};
use bitnet_core::Result;
use bitnet_core::backend::TernaryWeight;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use bitnet_core::ternary::TernaryMatrix;

/// Tokens from which on tiles cost less than other kernels.
const TILES_FROM: usize = 8;

/// Blocks of activations that stay in the second-level cache while all panels pass over them.
const CACHED_BLOCKS: usize = (1 << 20) / 128;

/// Returns the tiles that multiply `tokens` tokens by `weights`, if this level has them and they take no longer.
pub(super) fn for_tokens(
    exec: ExecContext<'_>,
    tokens: usize,
    weights: &[&dyn TernaryWeight],
) -> Result<Option<Amx>> {
    let Some(amx) = exec.isa.amx().filter(|_| tokens >= TILES_FROM) else { return Ok(None) };
    for weight in weights {
        if group_halves(matrix(*weight)?).is_some() {
            return Ok(None);
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
    panel: PoolBuffer<PanelHalf>,
    /// `-Σ q` of each token.
    starts: PoolBuffer<i32>,
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
        let mut starts = PoolBuffer::scratch(tokens, pool)?;
        for (token, start) in starts.iter_mut().enumerate() {
            *start = x.whole_sum(token).wrapping_neg();
        }
        Ok(Self { amx, weight, x, tokens, panel, starts })
    }

    /// Computes the dots of all tokens with some rows.
    #[inline(always)]
    pub(super) fn dots<I: Isa>(&mut self, isa: I, rows: Range<usize>, sink: &mut DotSink<'_, '_>) {
        let tiles = self.amx.configure();
        let mut sums = TileSums([[0; PANEL_ROWS]; 2 * TILE_TOKENS]);
        let all: Vec<_> = self.x.token_tiles().collect();
        let cached = (CACHED_BLOCKS / TILE_TOKENS / self.x.width.max(1)).max(2) & !1;
        for (index, cached_tiles) in all.chunks(cached).enumerate() {
            for start in rows.clone().step_by(PANEL_ROWS) {
                let rows = start..(start + PANEL_ROWS).min(rows.end);
                pack(isa, self.weight, rows.clone(), &mut self.panel);
                for (pair, x) in cached_tiles.chunks(2).enumerate() {
                    tiles.multiply(&self.panel, [x[0], x[x.len() - 1]], &mut sums);
                    let token = (index * cached + 2 * pair) * TILE_TOKENS;
                    let tokens = token..(token + x.len() * TILE_TOKENS).min(self.tokens);
                    let starts = &self.starts[tokens];
                    sink.push_panel(isa, token, rows.clone(), &mut sums.0, starts);
                }
            }
        }
    }
}

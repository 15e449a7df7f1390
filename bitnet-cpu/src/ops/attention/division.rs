//! The division of an attention into jobs: some tokens of one sequence and the query heads that share a key head.

use std::ops::Range;

use crate::threads::{Pieces, Rows};
use bitnet_core::backend::AttentionShape;
use bitnet_core::kv::{KV_PAGE, KV_TILE, KvCache, KvHead, KvSpan};

/// Pages of a tile.
pub(super) const TILE_PAGES: usize = KV_TILE / KV_PAGE;

/// Queries of a job at most, unless one token has more: so many rows of scores stay in the cache of a core.
const ROWS: usize = 64;

/// Tokens of one sequence with the query heads that share one key head. Row `r` is token `r / sharing`, head
/// `r % sharing`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queries<'a> {
    pub(super) cache: &'a KvCache,
    pub(super) layer: usize,
    /// The key head.
    pub(super) head: usize,
    /// Position of the first token.
    pub(super) first: usize,
    pub(super) tokens: usize,
    /// From the first token on, `[.., heads * head_dim]`.
    pub(super) q: &'a [f32],
    pub(super) shape: AttentionShape,
}

impl<'a> Queries<'a> {
    /// The pages of a tile; empty where the cache has none.
    #[inline(always)]
    pub(super) fn pages(&self, tile: usize) -> [KvHead<'a>; TILE_PAGES] {
        let page = |index| self.cache.head(self.layer, self.head, tile * TILE_PAGES + index);
        std::array::from_fn(|index| page(index).unwrap_or_default())
    }

    /// Query heads that share a key head.
    pub(super) fn sharing(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Queries.
    pub(super) fn rows(&self) -> usize {
        self.tokens * self.sharing()
    }

    /// Positions that a query sees. Neither bound is lower than that of the query before.
    pub(super) fn visible(&self, row: usize) -> Range<usize> {
        let position = self.first + row / self.sharing();
        self.shape.first_visible(position)..position + 1
    }

    /// Tiles of which some query sees a position.
    pub(super) fn tiles(&self) -> Range<usize> {
        let first = self.shape.first_visible(self.first) / KV_TILE;
        first..super::tiles(self.first + self.tokens)
    }

    /// Multiplications, about.
    pub(super) fn work(&self) -> usize {
        let positions = self.first + self.tokens - self.shape.first_visible(self.first);
        positions.saturating_mul(2 * self.rows() * self.shape.head_dim)
    }

    /// A query.
    pub(super) fn query(&self, row: usize) -> &[f32] {
        let (token, member) = (row / self.sharing(), row % self.sharing());
        let head = token * self.shape.heads + self.head * self.sharing() + member;
        &self.q[head * self.shape.head_dim..][..self.shape.head_dim]
    }
}

/// Queries with the places of their results: for each token, those of the heads one after another.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) queries: Queries<'a>,
    pub(super) out: Rows<'a>,
}

/// All jobs, those that see most first.
pub(super) fn jobs<'a>(
    q: &'a [f32],
    spans: &[KvSpan<'a>],
    shape: AttentionShape,
    out: &'a mut [f32],
) -> Pieces<Job<'a>> {
    let sharing = shape.heads / shape.kv_heads;
    let width = shape.heads * shape.head_dim;
    let together = (ROWS / sharing).max(1);
    let mut jobs = Pieces::new();
    let mut places = out.chunks_exact_mut(sharing * shape.head_dim);
    let mut done = 0;
    for span in spans {
        for start in (0..span.tokens).step_by(together) {
            let tokens = together.min(span.tokens - start);
            let base = jobs.len();
            jobs.extend((0..shape.kv_heads).map(|head| Job {
                queries: Queries {
                    cache: span.cache,
                    layer: span.layer,
                    head,
                    first: span.first + start,
                    tokens,
                    q: &q[(done + start) * width..],
                    shape,
                },
                out: Rows::with_capacity(tokens),
            }));
            for place in places.by_ref().take(tokens * shape.kv_heads).enumerate() {
                jobs[base + place.0 % shape.kv_heads].out.push(place.1);
            }
        }
        done += span.tokens;
    }
    jobs.sort_by_key(|job| std::cmp::Reverse(job.queries.first));
    jobs
}

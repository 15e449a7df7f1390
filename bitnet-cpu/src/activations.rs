//! Activations in the layout of the kernels: quantised to 8 bits, or f32, in planes.
//!
//! ```text
//! tokens stand in tiles; a tile holds block 0 of its tokens, then block 1, ...
//! 8-bit activations: tiles of eight, then one each of four, two and one as the rest needs them; for AMX, tiles of
//! sixteen, the last one filled up, whose blocks hold one half after the other
//! f32 activations: tiles of four, then single tokens
//! block = 128 elements in four planes: plane i holds element 4b + i at index b; the last one is filled with zeros
//! ```

use std::ops::Range;

use crate::exec::ExecContext;
use crate::isa::{
    ActivationBlock, Amx, CodeBlock, FloatBlock, Isa, LANES, Op, TILE_TOKENS, TokenTile,
    halves_in_order,
};
use crate::threads::Pieces;
use bitnet_core::Result;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer};
use bitnet_core::reference::activation_scale_within;
use bitnet_core::simd::largest_magnitude;
use bitnet_core::ternary::ROW_BLOCK;
use smallvec::SmallVec;

/// Tokens of a tile of f32 activations.
pub(crate) const TILE: usize = 4;

/// Tokens of a tile of 8-bit activations.
pub(crate) const INT8_TILE: usize = 8;

/// Elements of a [`FloatBlock`].
pub(crate) const FLOAT_BLOCK: usize = 4 * LANES;

/// One number for each token, on the stack as long as there are few.
pub(crate) type Scales = SmallVec<[f32; 16]>;

/// Quantised activations of all tokens.
#[derive(Debug)]
pub(crate) struct Quantized {
    /// The blocks, tile after tile.
    pub(crate) blocks: PoolBuffer<ActivationBlock>,
    /// `127 / max(1e-5, max|x|)` of each token; NaN for one that holds NaN or infinity.
    pub(crate) scales: Scales,
    /// `Σ q` over each 64 elements: `[tokens, 2 * blocks]`.
    sums: PoolBuffer<i32>,
    /// `-Σ q` of each token, with which the sums of its products with codes begin: `[tokens]`.
    pub(crate) starts: PoolBuffer<i32>,
    /// Blocks of one token.
    pub(crate) width: usize,
    /// What multiplies the blocks, if they are laid out for AMX.
    pub(crate) amx: Option<Amx>,
}

/// Returns the tiles of `tokens` tokens: as many of [`TILE`] as fit, then single tokens.
pub(crate) fn tiles(tokens: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let whole = tokens / TILE * TILE;
    let single = (whole..tokens).map(|token| token..token + 1);
    (0..whole).step_by(TILE).map(|token| token..token + TILE).chain(single)
}

/// Returns the index of a token's first block, and the distance to its next one.
fn place(token: usize, tokens: usize, width: usize) -> (usize, usize) {
    if token < tokens / TILE * TILE {
        (token / TILE * TILE * width + token % TILE, TILE)
    } else {
        (token * width, 1)
    }
}

/// Returns the tiles of `tokens` tokens of 8-bit activations.
pub(crate) fn int8_tiles(tokens: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    let whole = tokens / INT8_TILE * INT8_TILE;
    let rest = [4, 2, 1].into_iter().filter(move |size| tokens & size != 0).map(move |size| {
        // Larger tiles of the rest stand before this one: their sizes are the higher bits.
        let first = whole + (tokens - whole) / (2 * size) * (2 * size);
        first..first + size
    });
    (0..whole).step_by(INT8_TILE).map(|token| token..token + INT8_TILE).chain(rest)
}

/// As [`place`], for 8-bit activations.
fn int8_place(token: usize, tokens: usize, width: usize) -> (usize, usize) {
    let whole = tokens / INT8_TILE * INT8_TILE;
    if token < whole {
        return (token / INT8_TILE * INT8_TILE * width + token % INT8_TILE, INT8_TILE);
    }
    let mut first = whole;
    for size in [4, 2] {
        if tokens & size != 0 {
            if token < first + size {
                return (first * width + token - first, size);
            }
            first += size;
        }
    }
    (token * width, 1)
}

/// As [`int8_place`], or in tiles for AMX.
fn quantized_place(token: usize, tokens: usize, width: usize, amx: bool) -> (usize, usize) {
    if amx {
        (token / TILE_TOKENS * TILE_TOKENS * width + token % TILE_TOKENS, TILE_TOKENS)
    } else {
        int8_place(token, tokens, width)
    }
}

impl Quantized {
    /// Quantises `x` (`[tokens, cols]`) as [`bitnet_core::reference::quantize_activations`] does, or with `within` as
    /// [`bitnet_core::reference::quantize_activations_within`]. With `amx` they are laid out for its tiles.
    pub(crate) fn new(
        x: &[f32],
        tokens: usize,
        cols: usize,
        within: Option<f32>,
        amx: Option<Amx>,
        exec: ExecContext<'_>,
    ) -> Result<Self> {
        let ExecContext { isa, threads, scratch_pool: pool, .. } = exec;
        let width = cols.div_ceil(ROW_BLOCK);
        let tile = if amx.is_some() { TILE_TOKENS } else { INT8_TILE };
        let padded = if amx.is_some() { tokens.next_multiple_of(tile) } else { tokens };
        // Every block of every token is written below; what fills a tile up may hold anything.
        let mut blocks = PoolBuffer::scratch(padded * width, pool)?;
        let mut sums = PoolBuffer::scratch(tokens * width * 2, pool)?;
        let mut starts = PoolBuffer::scratch(tokens, pool)?;
        let mut scales = Scales::from_elem(0.0, tokens);
        if cols == 0 {
            starts.fill(0);
            return Ok(Self { blocks, scales, sums, starts, width, amx });
        }
        let mut pieces = Pieces::new();
        let (mut free, mut scales_left) = (&mut blocks[..], &mut scales[..]);
        let (mut sums_left, mut starts_left) = (&mut sums[..], &mut starts[..]);
        for range in threads.tile_ranges(tokens, tile, cols) {
            let end = if range.end == tokens { padded } else { range.end };
            let (head, tail) = free.split_at_mut((end - range.start) * width);
            free = tail;
            let (scales, tail) = scales_left.split_at_mut(range.len());
            scales_left = tail;
            let (sums, tail) = sums_left.split_at_mut(range.len() * width * 2);
            sums_left = tail;
            let (starts, tail) = starts_left.split_at_mut(range.len());
            starts_left = tail;
            let x = &x[range.start * cols..range.end * cols];
            let amx = amx.is_some();
            let blocks = head;
            pieces.push(Quantize { x, cols, width, within, amx, blocks, scales, sums, starts });
        }
        threads.each(pieces, |piece| {
            isa.run(piece);
            Ok(())
        })?;
        Ok(Self { blocks, scales, sums, starts, width, amx })
    }

    /// Returns the blocks of a tile of tokens.
    pub(crate) fn tile(&self, tokens: &Range<usize>) -> &[ActivationBlock] {
        &self.blocks[tokens.start * self.width..tokens.end * self.width]
    }

    /// Returns the blocks in tiles for AMX, a block of sixteen tokens each: `[tokens / 16, width]`, rounded up.
    pub(crate) fn token_tiles(&self) -> &[TokenTile] {
        self.blocks.as_chunks().0
    }

    /// Returns the quantised activations in order, `[tokens, cols]`.
    pub(crate) fn activations(&self, tokens: usize, cols: usize) -> Vec<i8> {
        let mut all = Vec::with_capacity(tokens * cols);
        for token in 0..tokens {
            let (first, stride) = quantized_place(token, tokens, self.width, self.amx.is_some());
            all.extend((0..cols).map(|col| {
                let block = &self.blocks[first + col / ROW_BLOCK * stride];
                let index = col % ROW_BLOCK;
                match self.amx {
                    Some(_) => {
                        let half = block.0.as_flattened()[index / 64 * 64..].as_chunks::<16>().0;
                        half[index % 4][index % 64 / 4]
                    }
                    None => block.0[index % 4][index / 4],
                }
            }));
        }
        all
    }

    /// Returns `-Σ q` of eight tokens from `token` on over the first and over the second halves of some blocks.
    pub(crate) fn starts8(&self, token: usize, blocks: Range<usize>) -> [[i32; 8]; 2] {
        let mut starts = [[0i32; 8]; 2];
        for index in 0..8 {
            let (halves, _) = self.sums(token + index).as_chunks::<2>();
            for halves in &halves[blocks.clone()] {
                for (start, half) in starts.iter_mut().zip(halves) {
                    start[index] = start[index].wrapping_sub(*half);
                }
            }
        }
        starts
    }

    /// Returns `Σ q` over each 64 elements of a token.
    pub(crate) fn sums(&self, token: usize) -> &[i32] {
        &self.sums[token * self.width * 2..(token + 1) * self.width * 2]
    }
}

/// Quantises some tokens.
struct Quantize<'a> {
    x: &'a [f32],
    cols: usize,
    width: usize,
    /// The magnitude that becomes 127; `None` for each token's largest.
    within: Option<f32>,
    /// Whether the tiles are those for AMX.
    amx: bool,
    blocks: &'a mut [ActivationBlock],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
    starts: &'a mut [i32],
}

impl Op for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        /// Codes that are all 1.
        const ONES: CodeBlock = [0x5555_5555; 8];
        let Self { x, cols, width, within, amx, blocks, scales, sums, starts } = self;
        let tokens = scales.len();
        let ones = isa.unpack(&ONES);
        for (token, x) in x.chunks_exact(cols).enumerate() {
            let largest = largest_magnitude(x);
            let scale = activation_scale_within(largest, within.unwrap_or(largest));
            scales[token] = scale;
            let (first, stride) = quantized_place(token, tokens, width, amx);
            let mut start = 0i32;
            for (k, x) in x.chunks(ROW_BLOCK).enumerate() {
                let block = match x.first_chunk() {
                    Some(x) => isa.quantize(x, scale),
                    None => {
                        let mut padded = [0f32; ROW_BLOCK];
                        padded[..x.len()].copy_from_slice(x);
                        isa.quantize(&padded, scale)
                    }
                };
                let at = 2 * (token * width + k);
                let sum = isa
                    .flush_acc(isa.zero_acc32(), isa.multiply_add(isa.zero_acc16(), ones, &block));
                let halves = isa.reduce_add_halves(sum);
                [sums[at], sums[at + 1]] = halves;
                start = start.wrapping_sub(halves[0]).wrapping_sub(halves[1]);
                blocks[first + k * stride] = if amx { halves_in_order(&block) } else { block };
            }
            starts[token] = start;
        }
    }
}

/// Lays f32 activations (`[tokens, cols]`) out in planes and tiles: [`float_width`] blocks a token.
pub(crate) fn float_blocks(
    x: &[f32],
    tokens: usize,
    cols: usize,
    pool: &HybridMemoryPool,
) -> Result<PoolBuffer<FloatBlock>> {
    let width = float_width(cols);
    let mut blocks = PoolBuffer::scratch(tokens * width, pool)?;
    blocks.fill(FloatBlock([[0.0; LANES]; 4]));
    if cols == 0 {
        return Ok(blocks);
    }
    for (token, x) in x.chunks_exact(cols).enumerate() {
        let (first, stride) = place(token, tokens, width);
        for (k, x) in x.chunks(FLOAT_BLOCK).enumerate() {
            let block = &mut blocks[first + k * stride];
            for (index, &x) in x.iter().enumerate() {
                block.0[index % 4][index / 4] = x;
            }
        }
    }
    Ok(blocks)
}

/// Returns the number of [`FloatBlock`]s of one token, the padding of the weights included.
pub(crate) fn float_width(cols: usize) -> usize {
    cols.div_ceil(ROW_BLOCK) * (ROW_BLOCK / FLOAT_BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn float_tiles_are_fours_then_ones() {
        let found: Vec<_> = tiles(6).collect();
        assert_eq!(found, [0..4, 4..5, 5..6]);
        assert_eq!(tiles(0).count(), 0);
        assert_eq!(place(5, 9, 10), (41, 4));
        assert_eq!(place(8, 9, 10), (80, 1));
    }

    #[test]
    fn int8_tiles_are_eights_then_powers_of_two() {
        let found: Vec<_> = int8_tiles(23).collect();
        assert_eq!(found, [0..8, 8..16, 16..20, 20..22, 22..23]);
        for tokens in 0..40 {
            let mut next = 0;
            for tile in int8_tiles(tokens) {
                assert_eq!(tile.start, next, "{tokens} tokens");
                for token in tile.clone() {
                    let place = (tile.start * 10 + token - tile.start, tile.len());
                    assert_eq!(int8_place(token, tokens, 10), place, "{token} of {tokens}");
                }
                next = tile.end;
            }
            assert_eq!(next, tokens);
        }
    }

    #[test]
    fn float_blocks_are_in_planes() {
        let x: Vec<f32> = (0..300).map(|i| i as f32).collect();
        let pool = HybridMemoryPool::new().unwrap();
        let blocks = float_blocks(&x, 1, 300, &pool).unwrap();
        assert_eq!(blocks.len(), 6);
        assert_eq!(blocks[1].0[3][15], 127.0);
        assert_eq!(blocks[4].0[0][0], 256.0);
        assert_eq!(blocks[4].0[0][11], 0.0);
        assert_eq!(blocks[5].0, [[0.0; LANES]; 4]);
    }
}

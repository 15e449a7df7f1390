//! Activations in the layout of the kernels: quantised to 8 bits, or to three digits of 8 bits each, in planes.
//!
//! ```text
//! rows stand in tiles; a tile holds block 0 of its rows, then block 1, ...
//! tiles of eight, then one each of four, two and one as the rest needs them; for AMX, tiles of sixteen, the last one
//! filled up, whose blocks hold one half after the other
//! block = 128 elements in four planes: plane i holds element 4b + i at index b; the last one is filled with zeros
//! a row is a token in 8 bits, or a digit of a token: x * scale = digit 0 + 2⁸ · digit 1 + 2¹⁶ · digit 2, rounded once
//! ```

use std::ops::Range;

use crate::exec::ExecContext;
use crate::isa::{
    ActivationBlock, Amx, CodeBlock, Isa, Op, TILE_TOKENS, TokenTile, halves_in_order,
};
use crate::threads::Pieces;
use bitnet_core::Result;
use bitnet_core::backend::ActivationPrecision;
use bitnet_core::memory::PoolBuffer;
use bitnet_core::reference::activation_scale_within;
use bitnet_core::simd::largest_magnitude;
use bitnet_core::ternary::ROW_BLOCK;
use smallvec::SmallVec;

/// Tokens of a tile of 8-bit activations.
pub(crate) const INT8_TILE: usize = 8;

/// Digits of an activation that is not quantised to 8 bits.
pub(crate) const DIGITS: usize = 3;

/// One number for each row, on the stack as long as there are few.
pub(crate) type Scales = SmallVec<[f32; 16]>;

/// Quantised activations of all tokens. Each digit of a token takes the place of a token, beside the others.
#[derive(Debug)]
pub(crate) struct Quantized {
    /// The blocks, tile after tile.
    pub(crate) blocks: PoolBuffer<ActivationBlock>,
    /// `127 / max(1e-5, max|x|)` of each token, or [`digit_scales`]; NaN for one that holds NaN or infinity.
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

/// Returns the index of a token's first block, and the distance to its next one.
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

/// The largest number of three digits, each of which lies between -128 and 127.
const LARGEST_DIGITS: f32 = 0x7f_7f7f as f32;

/// Returns what multiplies a token before it is divided into digits, a power of two, and that divided by the weight of
/// each digit: by which the digits' results are divided. NaN for a `largest` magnitude that is not finite.
///
/// `largest · scale` reaches 2²² (2²¹ above 0.996 · 2²³), but for magnitudes below 2⁻¹⁰⁴, whose scale is 2¹²⁶: what
/// rounding takes from an activation is at most 1.01 · 2⁻²³ · `largest`, or 2⁻¹²⁷.
fn digit_scales(largest: f32) -> [f32; DIGITS] {
    if !largest.is_finite() {
        return [f32::NAN; DIGITS];
    }
    let exponent = (largest.to_bits() >> 23).cast_signed() - 127;
    let mut scale = f32::from_bits(((22 - exponent).min(126) + 127).cast_unsigned() << 23);
    if (largest * scale).round_ties_even() > LARGEST_DIGITS {
        scale /= 2.0;
    }
    [scale, scale / 256.0, scale / 65536.0]
}

/// Returns the digits of `round_half_even(x * scale)`, the lowest first.
#[inline(always)]
fn digits(x: &[f32; ROW_BLOCK], scale: f32) -> [[f32; ROW_BLOCK]; DIGITS] {
    let mut digits = [[0.0; ROW_BLOCK]; DIGITS];
    for (index, x) in x.iter().enumerate() {
        let mut rest = (x * scale).round_ties_even() as i32;
        for digit in &mut digits {
            let low = rest as i8;
            rest = (rest - i32::from(low)) >> 8;
            digit[index] = f32::from(low);
        }
    }
    digits
}

/// Returns the number of places that a token takes in [`Quantized`].
pub(crate) fn places(precision: ActivationPrecision) -> usize {
    match precision {
        ActivationPrecision::Int8 | ActivationPrecision::Int8Within(_) => 1,
        ActivationPrecision::Float => DIGITS,
    }
}

impl Quantized {
    /// Quantises `x` (`[tokens, cols]`) as [`bitnet_core::reference::quantize_activations`] does, or
    /// [`bitnet_core::reference::quantize_activations_within`], or divides f32 activations into digits. With `amx` they
    /// are laid out for its tiles.
    pub(crate) fn new(
        x: &[f32],
        tokens: usize,
        cols: usize,
        precision: ActivationPrecision,
        amx: Option<Amx>,
        exec: ExecContext<'_>,
    ) -> Result<Self> {
        let ExecContext { isa, threads, scratch_pool: pool, .. } = exec;
        let (width, each) = (cols.div_ceil(ROW_BLOCK), places(precision));
        let tile = if amx.is_some() { TILE_TOKENS } else { INT8_TILE };
        let all = tokens * each;
        let padded = if amx.is_some() { all.next_multiple_of(tile) } else { all };
        // Every block of every token is written below; what fills a tile up may hold anything.
        let mut blocks = PoolBuffer::scratch(padded * width, pool)?;
        let mut sums = PoolBuffer::scratch(all * width * 2, pool)?;
        let mut starts = PoolBuffer::scratch(all, pool)?;
        starts.fill(0);
        let mut scales = Scales::from_elem(0.0, all);
        if cols == 0 {
            return Ok(Self { blocks, scales, sums, starts, width, amx });
        }
        let mut pieces = Pieces::new();
        let (mut free, mut scales_left) = (&mut blocks[..], &mut scales[..]);
        let (mut sums_left, mut starts_left) = (&mut sums[..], &mut starts[..]);
        for range in threads.tile_ranges(tokens, tile, cols * each) {
            let x = &x[range.start * cols..range.end * cols];
            let len = range.len() * each;
            let end = if range.end == tokens { padded } else { range.end * each };
            let (head, tail) = free.split_at_mut((end - range.start * each) * width);
            free = tail;
            let (scales, tail) = scales_left.split_at_mut(len);
            scales_left = tail;
            let (sums, tail) = sums_left.split_at_mut(len * width * 2);
            sums_left = tail;
            let (starts, tail) = starts_left.split_at_mut(len);
            starts_left = tail;
            let amx = amx.is_some();
            pieces.push(Quantize {
                x,
                cols,
                width,
                precision,
                amx,
                blocks: head,
                scales,
                sums,
                starts,
            });
        }
        threads.each(pieces, |piece| {
            isa.run(piece);
            Ok(())
        })?;
        Ok(Self { blocks, scales, sums, starts, width, amx })
    }

    /// Returns the number of tokens, or of their digits.
    pub(crate) fn tokens(&self) -> usize {
        self.scales.len()
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

    /// Returns `-Σ q` of a token over each group of `halves` half blocks.
    #[inline]
    pub(crate) fn group_starts(&self, token: usize, halves: usize) -> impl Iterator<Item = i32> {
        let groups = self.sums(token).chunks(halves.max(1));
        groups.map(|group| group.iter().fold(0i32, |start, half| start.wrapping_sub(*half)))
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
    precision: ActivationPrecision,
    /// Whether the tiles are those for AMX.
    amx: bool,
    blocks: &'a mut [ActivationBlock],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
    /// Zeros, to begin with.
    starts: &'a mut [i32],
}

impl Quantize<'_> {
    /// Returns where the blocks of a token belong, see [`quantized_place`].
    #[inline(always)]
    fn place(&self, token: usize) -> (usize, usize) {
        quantized_place(token, self.scales.len(), self.width, self.amx)
    }

    /// Stores block `k` of a token, whose place is that of [`Quantize::place`], and its sums.
    #[inline(always)]
    fn put<I: Isa>(
        &mut self,
        isa: I,
        token: usize,
        (first, stride): (usize, usize),
        k: usize,
        block: &ActivationBlock,
    ) {
        /// Codes that are all 1.
        const ONES: CodeBlock = [0x5555_5555; 8];
        let ones = isa.unpack(&ONES);
        let sum = isa.flush_acc(isa.zero_acc32(), isa.multiply_add(isa.zero_acc16(), ones, block));
        let halves = isa.reduce_add_halves(sum);
        let at = 2 * (token * self.width + k);
        [self.sums[at], self.sums[at + 1]] = halves;
        let start = &mut self.starts[token];
        *start = start.wrapping_sub(halves[0]).wrapping_sub(halves[1]);
        let block = if self.amx { halves_in_order(block) } else { *block };
        self.blocks[first + k * stride] = block;
    }

    /// A token in 8 bits.
    #[inline(always)]
    fn token<I: Isa>(&mut self, isa: I, token: usize, x: &[f32], within: Option<f32>) {
        let largest = largest_magnitude(x);
        let scale = activation_scale_within(largest, within.unwrap_or(largest));
        self.scales[token] = scale;
        let (place, mut last) = (self.place(token), [0.0; ROW_BLOCK]);
        for (k, x) in blocks_of(x, &mut last).enumerate() {
            self.put(isa, token, place, k, &isa.quantize(x, scale));
        }
    }

    /// A token in digits.
    #[inline(always)]
    fn token_digits<I: Isa>(&mut self, isa: I, token: usize, x: &[f32]) {
        let first = token * DIGITS;
        let scales = digit_scales(largest_magnitude(x));
        self.scales[first..first + DIGITS].copy_from_slice(&scales);
        let places: [_; DIGITS] = std::array::from_fn(|digit| self.place(first + digit));
        let mut last = [0.0; ROW_BLOCK];
        for (k, x) in blocks_of(x, &mut last).enumerate() {
            for ((token, place), digits) in (first..).zip(places).zip(&digits(x, scales[0])) {
                self.put(isa, token, place, k, &isa.quantize(digits, 1.0));
            }
        }
    }
}

/// Returns the blocks of a token. `last` are zeros, into which the elements of a block that is not whole are copied.
#[inline(always)]
fn blocks_of<'a>(
    x: &'a [f32],
    last: &'a mut [f32; ROW_BLOCK],
) -> impl Iterator<Item = &'a [f32; ROW_BLOCK]> {
    let (blocks, rest) = x.as_chunks();
    last[..rest.len()].copy_from_slice(rest);
    blocks.iter().chain((!rest.is_empty()).then_some(&*last))
}

impl Op for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) {
        let (x, cols) = (self.x, self.cols);
        for (token, x) in x.chunks_exact(cols).enumerate() {
            match self.precision {
                ActivationPrecision::Int8 => self.token(isa, token, x, None),
                ActivationPrecision::Int8Within(within) => self.token(isa, token, x, Some(within)),
                ActivationPrecision::Float => self.token_digits(isa, token, x),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnet_core::rng::SplitMix64;

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
    fn digits_give_the_number_rounded_once() {
        let mut random = SplitMix64::new(11);
        for turn in 0..2000u32 {
            let (size, bits) = (f32::from_bits((turn % 255) << 23), random.next_u64());
            let largest = size * (1.0 + (bits & 0xff_ffff) as f32 / 16_777_216.0);
            let scales = digit_scales(largest);
            let mut x = [0.0; ROW_BLOCK];
            x[0] = -largest;
            for x in &mut x[1..] {
                *x = largest * (random.next_u64() as i32 as f32 / 2_147_483_648.0);
            }
            let digits = digits(&x, scales[0]);
            for (index, x) in x.iter().enumerate() {
                let mut sum = 0f64;
                for (digits, scale) in digits.iter().zip(scales) {
                    assert!((-128.0..=127.0).contains(&digits[index]), "{x} of {largest}");
                    sum += f64::from(digits[index]) / f64::from(scale);
                }
                let bound = (f64::from(largest) * 1.01 * 0.5f64.powi(23)).max(0.5f64.powi(127));
                assert!((sum - f64::from(*x)).abs() <= bound, "{x} of {largest}: {sum}");
            }
        }
        assert!(digit_scales(f32::NAN)[0].is_nan() && digit_scales(f32::INFINITY)[2].is_nan());
    }
}

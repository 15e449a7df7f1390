//! A head as two planes of 4-bit codes, one scale a row, with a dither that makes the errors of a row independent.
//!
//! ```text
//! w' = w / 2^e        e of the column, so that no column is much larger than the others; x' = x · 2^e
//! s  = max|w'| / 7.5  of the row, rounded up
//! Y  = round(65536 · w' / s)                       -491520..=491520
//! a  = Y + 491520 + u                              u of the column: fixed, pseudo-random, 0..=65535
//! first = a >> 16,  second = (a >> 12) & 15        0..=15
//!
//! w' ≈ s/65536 · (65536 · first - 7 · 65536 - u)                        off by s/65536 · ((a & 65535) - 32768)
//! w' ≈ the same + s/65536 · (4096 · second - 30720)                     off by s/65536 · ((a & 4095) - 2048)
//! ```
//!
//! `u` is uniform whatever `Y` is, so the error after either level is uniform, from -1/2 to 1/2 (to 1/32) of `s`, and
//! independent from column to column. Nothing is clipped.

use std::ops::Range;
use std::sync::Mutex;

use super::stored;
use crate::exec::ExecContext;
use crate::isa::{Isa, NIBBLES, NibbleBlock, Op};
use crate::threads::{Pieces, lock};
use bitnet_core::Result;
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer, Shared};
use bitnet_core::rng::SplitMix64;

/// Steps of the finest grid in one scale.
pub(super) const GRID: f64 = 65536.0;

/// `|w'| / s` is at most this.
pub(super) const REACH: f32 = 7.5;

/// [`REACH`] on the grid.
const REACH_STEPS: i32 = 491_520;

/// The least scale: with it every quotient is an ordinary number. Rows of zeros have it.
pub(super) const LEAST_SCALE: f32 = 1.0 / (1u128 << 100) as f32;

/// Seed of the dither. Another one would do as well; a fixed one gives the same planes everywhere.
const SEED: u64 = 0x6269_746e_6574_2e68;

/// Rows that are sampled to choose the exponents of the columns.
const SAMPLE: usize = 2048;

/// Bytes of numbers that a thread encodes before the pages of the stored rows leave the resident set.
const RELEASE: usize = 16 << 20;

/// Largest exponent of a column, either way.
pub(super) const MOST_EXPONENT: i32 = 40;

/// A head in planes.
#[derive(Debug)]
pub(crate) struct Int4Planes {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Blocks of a row in either plane.
    pub(super) blocks: usize,
    /// Of each column, that of the padding included.
    pub(super) columns: Vec<Column>,
    /// `s` of each row.
    pub(super) scales: Shared<f32>,
    /// The largest scale.
    pub(super) largest_scale: f32,
    /// The largest `|w' - approximation| / s` of a row: after the first plane, and after both.
    pub(super) worst: [f64; 2],
    /// Row after row of blocks.
    pub(super) first: Shared<u8>,
    pub(super) second: Option<Shared<u8>>,
}

/// What belongs to a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Column {
    /// `e`.
    pub(super) exponent: i32,
    /// `u`.
    pub(super) dither: i32,
}

impl Int4Planes {
    /// Encodes `rows` in one plane or `two`; `None` if a number is not finite or too large.
    pub(super) fn build(
        rows: &dyn DenseRows,
        two: bool,
        exec: ExecContext<'_>,
        pool: &HybridMemoryPool,
    ) -> Result<Option<Self>> {
        let (count, cols) = (rows.rows(), rows.cols());
        let blocks = cols.div_ceil(NIBBLES);
        let bytes = count * blocks * size_of::<NibbleBlock>();
        let columns = columns(rows, blocks * NIBBLES)?;
        // Every number and every block is written below.
        let mut scales = PoolBuffer::scratch(count, pool)?;
        let mut first: PoolBuffer<u8> = PoolBuffer::scratch(bytes, pool)?;
        let mut second: Option<PoolBuffer<u8>> =
            two.then(|| PoolBuffer::scratch(bytes, pool)).transpose()?;
        let more = second.as_mut().map(|second| second.as_chunks_mut().0);
        let planes = [Some(first.as_chunks_mut().0), more];
        let found = fill(rows, &columns, &mut scales, planes, exec)?;
        Ok(found.map(|found| Self {
            rows: count,
            cols,
            blocks,
            columns,
            scales: Shared::new(scales),
            largest_scale: found.largest_scale,
            worst: found.squares.map(|squares| (squares as f64).sqrt() / GRID),
            first: Shared::new(first),
            second: second.map(Shared::new),
        }))
    }

    pub(super) fn bytes(&self) -> usize {
        let second = self.second.as_ref().map_or(0, |second| second.len());
        self.first.len() + second + self.scales.len() * size_of::<f32>()
    }

    /// Returns the bytes that are read for the approximate logits of all rows.
    pub(super) fn first_bytes(&self) -> usize {
        self.first.len() + self.scales.len() * size_of::<f32>()
    }

    /// Returns the bytes of a row of the second plane, if there is one.
    pub(super) fn second_row_bytes(&self) -> Option<usize> {
        self.second.as_ref().map(|_| self.blocks * size_of::<NibbleBlock>())
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Blocks of a row in either plane.
    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }

    pub(super) fn columns(&self) -> &[Column] {
        &self.columns
    }

    pub(super) fn scales(&self) -> &[f32] {
        &self.scales
    }

    pub(super) fn largest_scale(&self) -> f32 {
        self.largest_scale
    }

    /// The largest norm of what a row leaves over, in scales: after the first plane, and after both.
    pub(super) fn worst(&self) -> [f64; 2] {
        self.worst
    }

    pub(super) fn first(&self) -> &[NibbleBlock] {
        self.first.as_chunks().0
    }

    /// No blocks, if there is no second plane.
    pub(super) fn second(&self) -> &[NibbleBlock] {
        self.second.as_ref().map_or(&[], |second| second.as_chunks().0)
    }
}

/// Encodes all rows into the scales and the planes; `None` if a number is not finite or too large.
fn fill(
    rows: &dyn DenseRows,
    columns: &[Column],
    scales: &mut [f32],
    planes: [Option<&mut [NibbleBlock]>; 2],
    exec: ExecContext<'_>,
) -> Result<Option<Found>> {
    let factors: Vec<f32> =
        columns.iter().map(|c| (-f64::from(c.exponent)).exp2() as f32).collect();
    let offsets: Vec<i32> = columns.iter().map(|c| offset(c.dither)).collect();
    let blocks = columns.len() / NIBBLES;
    let found = Mutex::new(Some(Found::default()));
    let (mut scales_left, mut planes_left) = (scales, planes);
    let mut pieces = Pieces::new();
    for range in exec.threads.ranges(rows.rows(), rows.cols() * 4) {
        let (scales, rest) = scales_left.split_at_mut(range.len());
        scales_left = rest;
        let [first, second] = planes_left;
        let (first, rest) = cut(first, range.len() * blocks);
        let (second, rest_of_second) = cut(second, range.len() * blocks);
        planes_left = [rest, rest_of_second];
        let planes = [first, second];
        let (factors, offsets) = (&factors[..], &offsets[..]);
        pieces.push(Encode { weight: rows, factors, offsets, rows: range, scales, planes });
    }
    exec.threads.each(pieces, |piece| {
        let one = exec.isa.run_shared(piece)?;
        let mut found = lock(&found);
        *found = found.zip(one).map(|(a, b)| a.with(b));
        Ok(())
    })?;
    Ok(found.into_inner().unwrap_or(None))
}

/// Splits a plane.
fn cut(
    plane: Option<&mut [NibbleBlock]>,
    blocks: usize,
) -> (Option<&mut [NibbleBlock]>, Option<&mut [NibbleBlock]>) {
    plane.map(|plane| plane.split_at_mut(blocks)).unzip()
}

/// Chooses the exponents of the columns by their root mean square in a sample of the rows. The choice changes the size
/// of errors, not their bounds.
fn columns(rows: &dyn DenseRows, padded: usize) -> Result<Vec<Column>> {
    let cols = rows.cols();
    let mut squares = vec![0f64; cols];
    let mut row = vec![0f32; cols];
    for index in (0..rows.rows()).step_by((rows.rows() / SAMPLE).max(1)) {
        rows.decode_row(index, &mut row)?;
        for (sum, &w) in squares.iter_mut().zip(&row) {
            *sum += f64::from(w) * f64::from(w);
        }
    }
    rows.release();
    let mean = squares.iter().sum::<f64>() / cols as f64;
    let exponent = |&square: &f64| {
        let exponent = (square / mean).log2() / 2.0;
        if exponent.is_finite() {
            (exponent.round() as i32).clamp(-MOST_EXPONENT, MOST_EXPONENT)
        } else {
            0
        }
    };
    let exponents: Vec<i32> = squares.iter().map(exponent).collect();
    Ok(dithered(&exponents, padded))
}

/// Columns of these exponents, with their dither; those that only fill a block up have the exponent 0.
pub(super) fn dithered(exponents: &[i32], padded: usize) -> Vec<Column> {
    let mut random = SplitMix64::new(SEED);
    let exponents = exponents.iter().copied().chain(std::iter::repeat(0));
    let column = |exponent| Column { exponent, dither: (random.next_u64() >> 48) as i32 };
    exponents.take(padded).map(column).collect()
}

/// Adding it to a number below 2²² in magnitude leaves the nearest whole number in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// Returns the difference between the bits of a rounded `Y` and `a`.
fn offset(dither: i32) -> i32 {
    dither + REACH_STEPS - ROUNDER.to_bits() as i32
}

/// Extremes of some rows.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    largest_scale: f32,
    /// The largest sum of squares that a row leaves over on the grid, after the first plane and after both.
    squares: [u64; 2],
}

impl Found {
    fn with(self, other: Self) -> Self {
        Self {
            largest_scale: self.largest_scale.max(other.largest_scale),
            squares: [0, 1].map(|level| self.squares[level].max(other.squares[level])),
        }
    }
}

/// Encodes some rows.
struct Encode<'a> {
    weight: &'a dyn DenseRows,
    factors: &'a [f32],
    offsets: &'a [i32],
    rows: Range<usize>,
    scales: &'a mut [f32],
    planes: [Option<&'a mut [NibbleBlock]>; 2],
}

impl Op for Encode<'_> {
    type Output = Result<Option<Found>>;

    #[inline(always)]
    fn eval<I: Isa>(mut self, isa: I) -> Self::Output {
        let cols = self.weight.cols();
        let blocks = self.factors.len() / NIBBLES;
        let mut numbers = vec![0f32; blocks * NIBBLES];
        let mut found = Found::default();
        let rows_to_release = RELEASE / (cols * size_of::<f32>()) + 1;
        for (index, row) in self.rows.clone().enumerate() {
            if index % rows_to_release == 0 {
                self.weight.release();
            }
            stored::decode(isa, self.weight, row, &mut numbers[..cols])?;
            for (w, factor) in numbers.iter_mut().zip(self.factors) {
                *w *= factor;
            }
            let Some(largest) = largest_of(&numbers) else { return Ok(None) };
            let scale = (largest / REACH).next_up().max(LEAST_SCALE);
            self.scales[index] = scale;
            let place = index * blocks..(index + 1) * blocks;
            let planes = self.planes.each_mut();
            let planes = planes.map(|plane| plane.as_deref_mut().map(|p| &mut p[place.clone()]));
            let squares = encode(&numbers, scale, self.offsets, planes);
            found = found.with(Found { largest_scale: scale, squares });
        }
        Ok(Some(found))
    }
}

/// Returns `max|w|`; `None` if a number is not finite.
#[inline(always)]
fn largest_of(numbers: &[f32]) -> Option<f32> {
    let mut lanes = [0u32; NIBBLES];
    for chunk in numbers.as_chunks::<NIBBLES>().0 {
        for (lane, w) in lanes.iter_mut().zip(chunk) {
            // The bits of numbers without sign are in the order of the numbers, with what is not finite above them.
            *lane = (*lane).max(w.to_bits() & 0x7fff_ffff);
        }
    }
    let largest = f32::from_bits(lanes.into_iter().fold(0, u32::max));
    largest.is_finite().then_some(largest)
}

/// Encodes one row; returns the sums of squares of the errors after each plane, on the grid.
///
/// In f32 `65536 · w' / s` is off by at most `491520 · 2⁻²³ < 0.1` before it is rounded.
#[inline(always)]
fn encode(
    numbers: &[f32],
    scale: f32,
    offsets: &[i32],
    planes: [Option<&mut [NibbleBlock]>; 2],
) -> [u64; 2] {
    let [mut first, mut second] = planes;
    let inverse = GRID as f32 / scale;
    let mut squares = [0u64; 2];
    let (numbers, offsets) = (numbers.as_chunks::<NIBBLES>().0, offsets.as_chunks::<NIBBLES>().0);
    for (k, (numbers, offsets)) in numbers.iter().zip(offsets).enumerate() {
        let mut steps = [0i32; NIBBLES];
        for ((a, w), offset) in steps.iter_mut().zip(numbers).zip(offsets) {
            let reach = REACH_STEPS as f32;
            let y = (w * inverse).clamp(-reach, reach) + ROUNDER;
            *a = (y.to_bits() as i32).wrapping_add(*offset);
        }
        if let Some(first) = &mut first {
            pack(&steps.map(|a| (a >> 16) as u8), &mut first[k]);
        }
        if let Some(second) = &mut second {
            pack(&steps.map(|a| ((a >> 12) & 15) as u8), &mut second[k]);
        }
        let [mut after_first, mut after_both] = [0u64; 2];
        for a in steps {
            let (first, both) = ((a & 0xffff) - 0x8000, (a & 0xfff) - 0x800);
            after_first += u64::from((first * first) as u32);
            after_both += u64::from((both * both) as u32);
        }
        squares[0] += after_first;
        squares[1] += after_both;
    }
    squares
}

/// Packs codes 0..32 into the low halves of the bytes, 32..64 into the high ones.
#[inline(always)]
fn pack(codes: &[u8; NIBBLES], block: &mut NibbleBlock) {
    for (b, byte) in block.iter_mut().enumerate() {
        *byte = codes[b] | codes[32 + b] << 4;
    }
}

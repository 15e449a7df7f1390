//! A matrix of trits in the canonical layout, with scales per tensor, row or group.
//!
//! ```text
//! code = weight / scale + 1   0 = -1, 1 = 0, 2 = +1; 3 = +2 where a builder accepts it
//! word = u32, little-endian   element j of the 16 in bits 2j, 2j+1
//! row  = whole blocks of 128 elements = 8 words; the tail is filled with code 1 (zero)
//! ```
//!
//! As bytes, element `j` of a row is in byte `j / 4`, bits `2 (j % 4)`, on every machine.
//!
//! Two-bit formats have a fourth code: a weight of twice its scale. A matrix with such [doubled](TernaryMatrix::doubled)
//! weights has scales for groups of at most [`DOUBLED_GROUP`] weights, so that kernels can sum a group in 16 bits.

mod builder;

pub use builder::TernaryBuilder;

use std::cmp::Ordering;

use crate::memory::{HybridMemoryPool, PoolBuffer, Shared};
use crate::{Error, Result};

/// Elements in a row are padded to a multiple of this many, so that kernels read whole vectors.
pub const ROW_BLOCK: usize = 128;
/// Codes in one 32-bit word.
pub const CODES_PER_WORD: usize = 16;
/// Weights that share a scale at most, in a matrix with weights of +2.
pub const DOUBLED_GROUP: usize = 512;
/// A word of sixteen zero trits.
const ZERO_WORD: u32 = 0x5555_5555;

/// How many weights share one scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleGranularity {
    /// One scale for the whole matrix.
    Tensor,
    /// One scale for each row (output feature).
    Row,
    /// One scale for each run of this many weights along a row; a multiple of 64 that divides the columns.
    Group(usize),
}

impl ScaleGranularity {
    /// The number of scales of a `[rows, cols]` matrix. Group scales are stored row by row.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if a group size is not a multiple of 64 that divides `cols`.
    pub fn scale_count(self, rows: usize, cols: usize) -> Result<usize> {
        match self {
            Self::Tensor => Ok(1),
            Self::Row => Ok(rows),
            Self::Group(n) if n > 0 && n % 64 == 0 && cols.is_multiple_of(n) => {
                rows.checked_mul(cols / n).ok_or(Error::SizeOverflow { what: "ternary scales" })
            }
            Self::Group(n) => {
                let expected = format!("a multiple of the group size {n}, itself a multiple of 64");
                Err(mismatch("columns", vec![rows, cols], expected))
            }
        }
    }
}

/// How often each trit occurs in a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TritCounts {
    /// Number of weights -1.
    pub minus: usize,
    /// Number of weights 0.
    pub zero: usize,
    /// Number of weights +1.
    pub plus: usize,
    /// Number of weights +2.
    pub doubled: usize,
}

/// A `[rows, cols]` matrix of trits: weight `= scale * trit`. Trits are -1, 0 and 1, and 2 where [doubled](Self::doubled)
/// says so.
#[derive(Debug, Clone, PartialEq)]
pub struct TernaryMatrix {
    rows: usize,
    cols: usize,
    words_per_row: usize,
    words: Shared<u32>,
    granularity: ScaleGranularity,
    scales: Shared<f32>,
    /// Weights of +2.
    doubled: usize,
}

impl TernaryMatrix {
    /// From trits -1, 0, 1 in row-major order.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if `trits` is not `rows * cols` long, [`Error::BadCode`] for any other value,
    /// and those of [`TernaryBuilder::finish`].
    pub fn from_trits(
        rows: usize,
        cols: usize,
        trits: &[i8],
        granularity: ScaleGranularity,
        scales: Vec<f32>,
    ) -> Result<Self> {
        if rows.checked_mul(cols) != Some(trits.len()) {
            return Err(mismatch("trits", vec![trits.len()], format!("[{rows}, {cols}]")));
        }
        let mut builder = TernaryBuilder::new(rows, cols)?;
        let mut codes = vec![0u8; cols];
        for row in 0..rows {
            for (code, &trit) in codes.iter_mut().zip(&trits[row * cols..(row + 1) * cols]) {
                *code = trit.wrapping_add(1) as u8;
            }
            builder.push_row(&codes)?;
        }
        builder.finish(granularity, scales)
    }

    /// From words in the canonical layout, row after row, each padded to whole blocks with zero trits. They are
    /// checked and not copied.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if the words are too many or too few, [`Error::BadCode`] for a code 3 or padding that
    /// is not zero, [`Error::ScaleCount`] or [`Error::BadScale`] if the scales do not fit.
    pub fn from_words(
        rows: usize,
        cols: usize,
        words: Shared<u32>,
        granularity: ScaleGranularity,
        scales: impl Into<Shared<f32>>,
    ) -> Result<Self> {
        Self::from_words_with(rows, cols, words, granularity, scales.into(), false)
    }

    /// As [`TernaryMatrix::from_words`], and code 3 is a weight of +2.
    ///
    /// # Errors
    /// As [`TernaryMatrix::from_words`], and [`Error::ShapeMismatch`] for code 3 beside scales that are not those of
    /// groups of at most [`DOUBLED_GROUP`] weights.
    pub fn from_words_with_doubled(
        rows: usize,
        cols: usize,
        words: Shared<u32>,
        granularity: ScaleGranularity,
        scales: impl Into<Shared<f32>>,
    ) -> Result<Self> {
        Self::from_words_with(rows, cols, words, granularity, scales.into(), true)
    }

    fn from_words_with(
        rows: usize,
        cols: usize,
        words: Shared<u32>,
        granularity: ScaleGranularity,
        scales: Shared<f32>,
        accepts_doubled: bool,
    ) -> Result<Self> {
        check_scales(granularity, &scales, rows, cols)?;
        let doubled = check_words(rows, cols, &words, granularity, accepts_doubled)?;
        let words_per_row = words_per_row(cols);
        Ok(Self { rows, cols, words_per_row, words, granularity, scales, doubled })
    }

    /// Output features.
    #[inline]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    #[inline]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Columns rounded up to whole blocks of [`ROW_BLOCK`].
    pub fn padded_cols(&self) -> usize {
        self.words_per_row * CODES_PER_WORD
    }

    /// The granularity of the scales.
    #[inline]
    pub fn granularity(&self) -> ScaleGranularity {
        self.granularity
    }

    /// The scales: 1, `rows` or `rows * cols / group` of them.
    #[inline]
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// The packed words of one row, padding included.
    ///
    /// # Panics
    /// If `row >= rows`.
    #[inline]
    pub fn row_words(&self, row: usize) -> &[u32] {
        &self.words[row * self.words_per_row..(row + 1) * self.words_per_row]
    }

    /// The packed words, with shared ownership.
    pub fn shared_words(&self) -> Shared<u32> {
        self.words.clone()
    }

    /// The scales, with shared ownership.
    pub fn shared_scales(&self) -> Shared<f32> {
        self.scales.clone()
    }

    /// All packed words, row after row.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// The number of weights of +2.
    #[inline]
    pub fn doubled(&self) -> usize {
        self.doubled
    }

    /// The row and the column of the first weight of +2.
    pub fn first_doubled(&self) -> Option<(usize, usize)> {
        let found = self.words.iter().enumerate().find(|(_, word)| threes(**word) != 0)?;
        let place = threes(*found.1).trailing_zeros() as usize / 2;
        let col = found.0 % self.words_per_row * CODES_PER_WORD + place;
        Some((found.0 / self.words_per_row, col))
    }

    /// The trit at `[row, col]` as -1, 0, 1, or 2 where the weight is [doubled](Self::doubled).
    ///
    /// # Panics
    /// If the position is outside the matrix.
    pub fn trit(&self, row: usize, col: usize) -> i8 {
        assert!(col < self.cols, "column {col} of {}", self.cols);
        let word = self.row_words(row)[col / CODES_PER_WORD];
        ((word >> (2 * (col % CODES_PER_WORD))) & 3) as i8 - 1
    }

    /// Writes the trits of one row, as [`TernaryMatrix::trit`] returns them, into `out` (`[cols]`).
    ///
    /// # Panics
    /// If `row >= rows` or `out` is not `cols` long.
    pub fn unpack_row(&self, row: usize, out: &mut [i8]) {
        assert_eq!(out.len(), self.cols);
        for (chunk, &word) in out.chunks_mut(CODES_PER_WORD).zip(self.row_words(row)) {
            for (j, trit) in chunk.iter_mut().enumerate() {
                *trit = ((word >> (2 * j)) & 3) as i8 - 1;
            }
        }
    }

    /// All trits in row-major order.
    pub fn to_trits(&self) -> Vec<i8> {
        let mut out = vec![0; self.rows * self.cols];
        if self.cols > 0 {
            for (row, chunk) in out.chunks_mut(self.cols).enumerate() {
                self.unpack_row(row, chunk);
            }
        }
        out
    }

    /// The scale of the weight at `[row, col]`.
    pub fn scale_at(&self, row: usize, col: usize) -> f32 {
        match self.granularity {
            ScaleGranularity::Tensor => self.scales[0],
            ScaleGranularity::Row => self.scales[row],
            ScaleGranularity::Group(n) => self.scales[row * (self.cols / n) + col / n],
        }
    }

    /// The same trits with every scale multiplied by `factor`.
    ///
    /// # Errors
    /// [`Error::BadScale`] if a product is not finite.
    pub fn scaled(self, factor: f32) -> Result<Self> {
        self.scaled_in(factor, None)
    }

    /// As [`TernaryMatrix::scaled`], with the new scales in `pool`, if there is one.
    ///
    /// # Errors
    /// As [`TernaryMatrix::scaled`], and [`Error::OutOfMemory`].
    pub fn scaled_in(mut self, factor: f32, pool: Option<&HybridMemoryPool>) -> Result<Self> {
        let scales: Vec<f32> = self.scales.iter().map(|scale| scale * factor).collect();
        if let Some((index, &value)) = scales.iter().enumerate().find(|(_, s)| !s.is_finite()) {
            return Err(Error::BadScale { index, value });
        }
        self.scales = shared_in(scales, pool)?;
        Ok(self)
    }

    /// The trits of the transposed matrix, with a scale of 1, in `pool`, if there is one.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] or [`Error::OutOfMemory`]; [`Error::ShapeMismatch`] for a matrix with weights of +2, which
    /// one scale cannot hold.
    pub fn transposed_trits(&self, pool: Option<&HybridMemoryPool>) -> Result<Self> {
        /// Rows that are transposed together: their codes fill a cache line of the result.
        const ROWS: usize = 16 * CODES_PER_WORD;
        check_doubled(self.doubled, ScaleGranularity::Tensor)?;
        let mut builder = TernaryBuilder::in_pool(self.cols, self.rows, pool)?;
        let width = words_per_row(self.rows);
        let turned = builder.all_rows();
        turned.fill(ZERO_WORD);
        for top in (0..self.rows).step_by(ROWS) {
            for word in 0..self.cols.div_ceil(CODES_PER_WORD) {
                let left = word * CODES_PER_WORD;
                for first in (top..self.rows.min(top + ROWS)).step_by(CODES_PER_WORD) {
                    let mut block = [ZERO_WORD; CODES_PER_WORD];
                    for (words, row) in block.iter_mut().zip(first..self.rows) {
                        *words = self.words[row * self.words_per_row + word];
                    }
                    transpose(&mut block);
                    for (col, words) in (left..self.cols).zip(block) {
                        turned[col * width + first / CODES_PER_WORD] = words;
                    }
                }
            }
        }
        builder.finish(ScaleGranularity::Tensor, vec![1.0])
    }

    /// Bytes of the codes and the scales.
    pub fn bytes(&self) -> usize {
        self.words.len() * 4 + self.scales.len() * 4
    }

    /// How often each trit occurs.
    pub fn counts(&self) -> TritCounts {
        let mut plus = 0usize;
        let mut minus = 0usize;
        for &word in self.words() {
            let low = word & ZERO_WORD;
            let high = (word >> 1) & ZERO_WORD;
            plus += high.count_ones() as usize;
            minus += (ZERO_WORD & !low & !high).count_ones() as usize;
        }
        let zero = self.rows * self.cols - plus - minus;
        TritCounts { minus, zero, plus: plus - self.doubled, doubled: self.doubled }
    }
}

/// Transposes 16 by 16 codes by exchanging halves, quarters and so on.
#[inline]
fn transpose(block: &mut [u32; CODES_PER_WORD]) {
    for (distance, mask) in
        [(8, 0x0000_ffff), (4, 0x00ff_00ff), (2, 0x0f0f_0f0f), (1, 0x3333_3333u32)]
    {
        for k in (0..CODES_PER_WORD).filter(|k| k & distance == 0) {
            let swapped = ((block[k] >> (2 * distance)) ^ block[k + distance]) & mask;
            block[k + distance] ^= swapped;
            block[k] ^= swapped << (2 * distance);
        }
    }
}

/// Words of a row of `cols` elements, padding included.
fn words_per_row(cols: usize) -> usize {
    cols.div_ceil(ROW_BLOCK) * (ROW_BLOCK / CODES_PER_WORD)
}

/// The low bit of every code 3.
#[inline]
fn threes(word: u32) -> u32 {
    word & (word >> 1) & ZERO_WORD
}

/// Checks that words are a matrix in the canonical layout, each row padded to whole blocks with zero trits. Returns the
/// number of weights of +2.
///
/// # Errors
/// Those of [`TernaryMatrix::from_words`], or of [`TernaryMatrix::from_words_with_doubled`] if code 3 is accepted, but for
/// the scales.
pub fn check_words(
    rows: usize,
    cols: usize,
    words: &[u32],
    granularity: ScaleGranularity,
    accepts_doubled: bool,
) -> Result<usize> {
    let words_per_row = words_per_row(cols);
    if rows.checked_mul(words_per_row) != Some(words.len()) {
        return Err(mismatch("words", vec![words.len()], format!("[{rows}, {words_per_row}]")));
    }
    let doubled = if accepts_doubled { count_doubled(words) } else { 0 };
    check_doubled(doubled, granularity)?;
    if words_per_row > 0 {
        for (row, words) in words.chunks_exact(words_per_row).enumerate() {
            check_row(row, cols, words, accepts_doubled)?;
        }
    }
    Ok(doubled)
}

/// Checks that a row has trits, or any code, and zeros after the last column.
fn check_row(row: usize, cols: usize, words: &[u32], accepts_doubled: bool) -> Result<()> {
    let (last, rest) = (cols / CODES_PER_WORD, cols % CODES_PER_WORD);
    let threes = |word| if accepts_doubled { 0 } else { threes(word) };
    let wrong = |(index, word): (usize, u32)| {
        let behind = match index.cmp(&last) {
            Ordering::Less => 0,
            Ordering::Equal => u32::MAX << (2 * rest),
            Ordering::Greater => u32::MAX,
        };
        threes(word) | ((word ^ ZERO_WORD) & behind)
    };
    let within = words[..last].iter().fold(0, |all, &word| all | threes(word));
    let tail = (last..words.len()).fold(0, |all, index| all | wrong((index, words[index])));
    if within | tail == 0 {
        return Ok(());
    }
    let places = words.iter().copied().enumerate();
    let bad = places.map(wrong).enumerate().find(|(_, bits)| *bits != 0).unwrap_or_default();
    let place = bad.1.trailing_zeros() as usize / 2;
    let code = ((words[bad.0] >> (2 * place)) & 3) as u8;
    Err(Error::BadCode { row, col: bad.0 * CODES_PER_WORD + place, code })
}

/// The number of codes 3.
fn count_doubled(words: &[u32]) -> usize {
    words.iter().map(|&word| threes(word).count_ones() as usize).sum()
}

/// Checks that scales are those of groups that kernels sum in 16 bits, where there are weights of +2.
fn check_doubled(doubled: usize, granularity: ScaleGranularity) -> Result<()> {
    match granularity {
        ScaleGranularity::Group(n) if n <= DOUBLED_GROUP => Ok(()),
        _ if doubled == 0 => Ok(()),
        _ => {
            let expected = format!("scales for groups of at most {DOUBLED_GROUP} weights");
            Err(mismatch("weights of +2", vec![doubled], expected))
        }
    }
}

/// The error of an operand that does not have the shape `expected`.
fn mismatch(operand: &'static str, got: Vec<usize>, expected: String) -> Error {
    Error::ShapeMismatch { op: "ternary matrix", operand, got, expected }
}

/// Checks that there are as many scales as the matrix needs, all of them finite.
fn check_scales(
    granularity: ScaleGranularity,
    scales: &[f32],
    rows: usize,
    cols: usize,
) -> Result<()> {
    let expected = granularity.scale_count(rows, cols)?;
    if scales.len() != expected {
        return Err(Error::ScaleCount { got: scales.len(), expected, granularity, rows, cols });
    }
    match scales.iter().enumerate().find(|(_, s)| !s.is_finite()) {
        Some((index, &value)) => Err(Error::BadScale { index, value }),
        None => Ok(()),
    }
}

/// The numbers themselves, or a copy of them in the pool.
fn shared_in(numbers: Vec<f32>, pool: Option<&HybridMemoryPool>) -> Result<Shared<f32>> {
    match pool {
        Some(pool) => Ok(Shared::new(PoolBuffer::from_slice(&numbers, pool)?)),
        None => Ok(numbers.into()),
    }
}

#[cfg(test)]
mod tests;

//! Filling a ternary matrix row by row, on the heap or in a pool.

use super::{
    CODES_PER_WORD, ScaleGranularity, TernaryMatrix, ZERO_WORD, check_doubled, check_scales,
    count_doubled, mismatch, shared_in, threes, words_per_row,
};
use crate::memory::{HybridMemoryPool, PoolBuffer, Shared};
use crate::{Error, Result};

/// Sixteen codes, one per byte, as a word, and whether each is 0, 1, 2 or 3.
#[inline]
fn pack(codes: &[u8; CODES_PER_WORD]) -> (u32, bool) {
    let bytes = u128::from_le_bytes(*codes);
    let half = |x: u64| {
        let x = x & 0x0303_0303_0303_0303;
        let x = (x | (x >> 6)) & 0x000f_000f_000f_000f;
        let x = (x | (x >> 12)) & 0x0000_00ff_0000_00ff;
        ((x | (x >> 24)) & 0xffff) as u32
    };
    let word = half(bytes as u64) | (half((bytes >> 64) as u64) << 16);
    let above = bytes & 0xfcfc_fcfc_fcfc_fcfc_fcfc_fcfc_fcfc_fcfc;
    (word, above == 0)
}

/// Fills a [`TernaryMatrix`] row by row, so that a codec never holds more than one row unpacked.
#[derive(Debug)]
pub struct TernaryBuilder {
    rows: usize,
    cols: usize,
    words_per_row: usize,
    /// Rows that are filled, or begun.
    filled: usize,
    words: Words,
    pool: Option<HybridMemoryPool>,
    /// Whether code 3 is a weight of +2.
    accepts_doubled: bool,
    /// Weights of +2 of the filled rows.
    doubled: usize,
}

/// The words of all rows.
#[derive(Debug)]
enum Words {
    /// The words of the filled rows.
    Heap(Vec<u32>),
    Pool(PoolBuffer<u32>),
}

impl TernaryBuilder {
    /// An empty matrix of this shape, on the heap.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] or [`Error::OutOfMemory`].
    pub fn new(rows: usize, cols: usize) -> Result<Self> {
        Self::in_pool(rows, cols, None)
    }

    /// An empty matrix of this shape whose words and scales will be in `pool`, if there is one.
    ///
    /// # Errors
    /// As [`TernaryBuilder::new`].
    pub fn in_pool(rows: usize, cols: usize, pool: Option<&HybridMemoryPool>) -> Result<Self> {
        let words_per_row = words_per_row(cols);
        let total = words_per_row
            .checked_mul(rows)
            .ok_or(Error::SizeOverflow { what: "ternary matrix" })?;
        let words = match pool {
            Some(pool) => Words::Pool(PoolBuffer::scratch(total, pool)?),
            None => {
                let mut words = Vec::new();
                let refused = |_| Error::refused_by_system(total.saturating_mul(4));
                words.try_reserve_exact(total).map_err(refused)?;
                Words::Heap(words)
            }
        };
        Ok(Self {
            rows,
            cols,
            words_per_row,
            filled: 0,
            words,
            pool: pool.cloned(),
            accepts_doubled: false,
            doubled: 0,
        })
    }

    /// Accepts code 3 from now on, as a weight of +2. With such weights, scales must be those of groups of at most
    /// [`DOUBLED_GROUP`](super::DOUBLED_GROUP) weights.
    #[must_use]
    pub fn accept_doubled(mut self) -> Self {
        self.accepts_doubled = true;
        self
    }

    /// The weights of +2 of the rows so far.
    pub fn doubled(&self) -> usize {
        self.doubled
    }

    /// The words of the next row, with unspecified content.
    fn next_row(&mut self) -> &mut [u32] {
        let (start, end) =
            (self.filled * self.words_per_row, (self.filled + 1) * self.words_per_row);
        self.filled += 1;
        match &mut self.words {
            Words::Heap(words) => {
                words.resize(end, ZERO_WORD);
                &mut words[start..]
            }
            Words::Pool(words) => &mut words[start..end],
        }
    }

    /// Removes the last row.
    fn drop_row(&mut self) {
        self.filled -= 1;
        if let Words::Heap(words) = &mut self.words {
            words.truncate(self.filled * self.words_per_row);
        }
    }

    /// The words of all rows, with unspecified content, to be filled in any order.
    pub(super) fn all_rows(&mut self) -> &mut [u32] {
        self.filled = self.rows;
        match &mut self.words {
            Words::Heap(words) => {
                words.resize(self.rows * self.words_per_row, ZERO_WORD);
                words
            }
            Words::Pool(words) => words,
        }
    }

    fn refused_row(&self, len: usize, expected: &str) -> Error {
        let expected = format!("row < {} of {} codes{expected}", self.rows, self.cols);
        mismatch("row", vec![self.filled, len], expected)
    }

    /// Appends a row of codes 0, 1, 2, and 3 if it is accepted (`[cols]`).
    ///
    /// # Errors
    /// [`Error::BadCode`] for any other code, [`Error::ShapeMismatch`] for a wrong length or one row too many.
    pub fn push_row(&mut self, codes: &[u8]) -> Result<()> {
        let row = self.filled;
        if codes.len() != self.cols || row >= self.rows {
            return Err(self.refused_row(codes.len(), ""));
        }
        let (whole, rest) = codes.as_chunks::<CODES_PER_WORD>();
        let mut last = [1u8; CODES_PER_WORD];
        last[..rest.len()].copy_from_slice(rest);
        let (mut wrong, mut doubled) = (false, 0);
        let words = self.next_row();
        let sixteens = whole.iter().chain((!rest.is_empty()).then_some(&last));
        let (filled, padding) = words.split_at_mut(codes.len().div_ceil(CODES_PER_WORD));
        for (place, sixteen) in filled.iter_mut().zip(sixteens) {
            let (word, fits) = pack(sixteen);
            wrong |= !fits;
            doubled += threes(word).count_ones() as usize;
            *place = word;
        }
        padding.fill(ZERO_WORD);
        self.doubled += doubled;
        if wrong || (doubled > 0 && !self.accepts_doubled) {
            let largest = 2 + u8::from(self.accepts_doubled);
            let col = codes.iter().position(|&c| c > largest).unwrap_or(0);
            self.drop_row();
            return Err(Error::BadCode { row, col, code: codes[col] });
        }
        Ok(())
    }

    /// Appends a row of packed codes, sixteen to a word, element `j` in bits `2j`, `2j + 1`
    /// (`[cols.div_ceil(16)]`). Bits after the last column are not read.
    ///
    /// # Errors
    /// [`Error::BadCode`] for a code 3 that is not accepted, [`Error::ShapeMismatch`] for a wrong length or one row too many.
    pub fn push_words(&mut self, words: &[u32]) -> Result<()> {
        let row = self.filled;
        if words.len() != self.cols.div_ceil(CODES_PER_WORD) || row >= self.rows {
            return Err(self.refused_row(words.len(), " in words"));
        }
        let (rest, accepts_doubled) = (self.cols % CODES_PER_WORD, self.accepts_doubled);
        let (pushed, padding) = self.next_row().split_at_mut(words.len());
        pushed.copy_from_slice(words);
        if let Some(last) = pushed.last_mut()
            && rest > 0
        {
            let behind = u32::MAX << (2 * rest);
            *last = (*last & !behind) | (ZERO_WORD & behind);
        }
        padding.fill(ZERO_WORD);
        let any = pushed.iter().fold(0, |all, &word| all | threes(word)) != 0;
        if any && accepts_doubled {
            let doubled = count_doubled(pushed);
            self.doubled += doubled;
        } else if any {
            let bad = pushed.iter().position(|&word| threes(word) != 0).unwrap_or(0);
            let col = bad * CODES_PER_WORD + threes(pushed[bad]).trailing_zeros() as usize / 2;
            self.drop_row();
            return Err(Error::BadCode { row, col, code: 3 });
        }
        Ok(())
    }

    /// Completes the matrix.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] if rows are missing or weights of +2 have scales for more weights than they may,
    /// [`Error::ScaleCount`] or [`Error::BadScale`] if the scales do not fit.
    pub fn finish(self, granularity: ScaleGranularity, scales: Vec<f32>) -> Result<TernaryMatrix> {
        let Self { rows, cols, words_per_row, filled, words, pool, doubled, .. } = self;
        if filled != rows && words_per_row > 0 {
            return Err(mismatch("rows", vec![filled], format!("{rows} rows")));
        }
        check_scales(granularity, &scales, rows, cols)?;
        let scales = shared_in(scales, pool.as_ref())?;
        let words = match words {
            Words::Heap(words) => words.into(),
            Words::Pool(words) => Shared::new(words),
        };
        check_doubled(doubled, granularity)?;
        Ok(TernaryMatrix { rows, cols, words_per_row, words, granularity, scales, doubled })
    }
}

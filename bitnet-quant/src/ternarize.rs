//! From the rows of a matrix to trits: what a rule learns from weights, and the loop that applies it.

use crate::loss::{LossMeter, loss_of_cut};
use crate::stored::{Raw, Rows, Stored, Work, read, shape_of};
use crate::{Error, Result};
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer, Shared};
use bitnet_core::simd::{self, IsaLevel, Kernel};
use bitnet_core::ternary::{CODES_PER_WORD, ROW_BLOCK, ScaleGranularity, TernaryMatrix};

/// Rows that one tally is made of. Tallies are joined in the order of the rows, so that no result depends on how many
/// threads there were.
const ROWS_PER_TALLY: usize = 64;
/// Codes that are packed together.
pub(crate) const PACKED: usize = 256;
/// A word of sixteen zero trits.
const ZERO_WORD: u32 = 0x5555_5555;

/// Where trits begin, and what they stand for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cut {
    /// Weights of a larger magnitude become ±1, the others 0; 0 or more.
    pub(crate) threshold: f32,
    /// What a trit of 1 stands for.
    pub(crate) scale: f32,
}

impl Cut {
    /// What is wrong with a magnitude after the cut.
    #[inline(always)]
    pub(crate) fn error(self, magnitude: f32) -> f32 {
        magnitude - if magnitude > self.threshold { self.scale } else { 0.0 }
    }
}

/// How a run of weights that share a scale is cut.
pub(crate) trait Rule: Sync {
    /// What is known of a run's weights.
    type Tally: Default + Send;

    /// The rule's name in errors.
    const NAME: &'static str;

    /// Takes some of a run's weights in; false if one of them is not finite. Always inlined: it is a kernel's inner part.
    fn add<S: Stored>(&self, tally: &mut Self::Tally, weights: &[S::Raw]) -> bool;

    /// Takes in what is known of the weights that follow.
    fn join(&self, tally: &mut Self::Tally, next: Self::Tally);

    /// The cut for a run of `count` weights.
    fn cut(&self, tally: Self::Tally, count: usize) -> Cut;
}

/// Where the result goes, and what is told of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) granularity: ScaleGranularity,
    pub(crate) pool: Option<&'a HybridMemoryPool>,
    pub(crate) level: IsaLevel,
    pub(crate) measured: bool,
}

/// Cuts a matrix as `rule` says. The meter is empty unless the loss is wanted.
///
/// # Errors
/// [`Error::EmptyShape`], [`Error::BadNumber`] for a weight that is NaN or infinite, [`Error::Core`] if the group size
/// does not fit the columns, and those of reading `weights`.
pub(crate) fn ternarize<R: Rule>(
    weights: &dyn DenseRows,
    rule: &R,
    wanted: Wanted<'_>,
) -> Result<(TernaryMatrix, LossMeter)> {
    let (rows, cols) = shape_of(R::NAME, weights)?;
    wanted.granularity.scale_count(rows, cols)?;
    read(weights, Ternarizing { rule, rows, cols, wanted })
}

struct Ternarizing<'a, R> {
    rule: &'a R,
    rows: usize,
    cols: usize,
    wanted: Wanted<'a>,
}

impl<R: Rule> Work for Ternarizing<'_, R> {
    type Output = (TernaryMatrix, LossMeter);

    fn with<S: Rows>(self, source: S) -> Result<Self::Output> {
        let Self { rule, rows, cols, wanted } = self;
        let run = match wanted.granularity {
            ScaleGranularity::Group(n) => n,
            ScaleGranularity::Tensor | ScaleGranularity::Row => cols,
        };
        let whole = match wanted.granularity {
            ScaleGranularity::Tensor => Some(self.whole(source)?),
            ScaleGranularity::Row | ScaleGranularity::Group(_) => None,
        };
        let mut words = Room::new(rows, cols, wanted.pool)?;
        let mut scales: Vec<f32> = whole.iter().map(|cut| cut.scale).collect();
        let (mut meter, mut room) = (LossMeter::new(), Vec::new());
        for (row, words) in words.rows().enumerate() {
            let values = source.row(row, &mut room)?;
            let words = packed_row(words, cols);
            let meter = wanted.measured.then_some(&mut meter);
            let scales = &mut scales;
            let work =
                RowOfTrits::<R, S::Stored> { rule, whole, values, run, words, scales, meter };
            if !simd::run(wanted.level, work) {
                return Err(bad_number(R::NAME, source, row));
            }
        }
        let matrix = words.finish(rows, cols, wanted.granularity, scales)?;
        Ok((matrix, meter))
    }
}

impl<R: Rule> Ternarizing<'_, R> {
    /// The cut of the whole matrix.
    fn whole<S: Rows>(&self, source: S) -> Result<Cut> {
        let mut room = Vec::new();
        let mut all = R::Tally::default();
        for first in (0..self.rows).step_by(ROWS_PER_TALLY) {
            let mut tally = R::Tally::default();
            for row in first..self.rows.min(first + ROWS_PER_TALLY) {
                let (rule, values) = (self.rule, source.row(row, &mut room)?);
                let adding = Adding::<R, S::Stored> { rule, values, tally: &mut tally };
                if !simd::run(self.wanted.level, adding) {
                    return Err(bad_number(R::NAME, source, row));
                }
            }
            self.rule.join(&mut all, tally);
        }
        // A matrix whose number of weights overflows usize can't have been read.
        Ok(self.rule.cut(all, self.rows * self.cols))
    }
}

/// [`Rule::add`] of a row.
struct Adding<'a, R: Rule, S: Stored> {
    rule: &'a R,
    values: &'a [S::Raw],
    tally: &'a mut R::Tally,
}

impl<R: Rule, S: Stored> Kernel for Adding<'_, R, S> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        self.rule.add::<S>(self.tally, self.values)
    }
}

/// Cuts a row; false if one of its weights is not finite.
struct RowOfTrits<'a, R: Rule, S: Stored> {
    rule: &'a R,
    /// The cut of the whole matrix, if there is one.
    whole: Option<Cut>,
    values: &'a [S::Raw],
    /// Weights that share a scale: whole words, or the row.
    run: usize,
    words: &'a mut [u32],
    scales: &'a mut Vec<f32>,
    meter: Option<&'a mut LossMeter>,
}

impl<R: Rule, S: Stored> Kernel for RowOfTrits<'_, R, S> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let runs = self.values.chunks(self.run);
        let words = self.words.chunks_mut(self.run.div_ceil(CODES_PER_WORD));
        let mut meter = self.meter.is_some().then(LossMeter::new);
        for (values, words) in runs.zip(words) {
            let cut = match self.whole {
                Some(cut) => cut,
                None => {
                    let mut tally = R::Tally::default();
                    if !self.rule.add::<S>(&mut tally, values) {
                        return false;
                    }
                    let cut = self.rule.cut(tally, values.len());
                    self.scales.push(cut.scale);
                    cut
                }
            };
            pack::<S>(values, S::floor(cut.threshold), words);
            if let Some(meter) = &mut meter {
                meter.merge(&loss_of_cut::<S>(values, cut));
            }
        }
        if let (Some(total), Some(meter)) = (self.meter, meter) {
            total.merge(&meter);
        }
        true
    }
}

/// The first weight of a row that is not finite.
fn bad_number<S: Rows>(format: &'static str, source: S, row: usize) -> Error {
    let mut room = Vec::new();
    let values = match source.row(row, &mut room) {
        Ok(values) => values,
        Err(error) => return error,
    };
    let finite = |&raw: &Raw<S>| S::Stored::magnitude(raw) < S::Stored::INFINITY;
    let col = values.iter().position(|raw| !finite(raw)).unwrap_or(0);
    Error::BadNumber { format, row, col, value: S::Stored::value(values[col]) }
}

/// Room for the trits of all rows.
pub(crate) struct Room<'a> {
    words: Words,
    words_per_row: usize,
    pool: Option<&'a HybridMemoryPool>,
}

enum Words {
    Heap(Vec<u32>),
    Pool(PoolBuffer<u32>),
}

impl<'a> Room<'a> {
    /// Room in `pool`, if there is one.
    pub(crate) fn new(
        rows: usize,
        cols: usize,
        pool: Option<&'a HybridMemoryPool>,
    ) -> Result<Self> {
        let words_per_row = cols.div_ceil(ROW_BLOCK) * (ROW_BLOCK / CODES_PER_WORD);
        let total = rows
            .checked_mul(words_per_row)
            .ok_or(bitnet_core::Error::SizeOverflow { what: "ternary matrix" })?;
        let words = match pool {
            Some(pool) => Words::Pool(PoolBuffer::scratch(total, pool)?),
            None => {
                let mut words = Vec::new();
                words.try_reserve_exact(total).map_err(|_| bitnet_core::Error::OutOfMemory {
                    bytes: total.saturating_mul(4),
                    live: 0,
                    limit: isize::MAX as usize,
                })?;
                words.resize(total, ZERO_WORD);
                Words::Heap(words)
            }
        };
        Ok(Self { words, words_per_row, pool })
    }

    /// The words of each row, padding included; what is in them is not said.
    pub(crate) fn rows(&mut self) -> std::slice::ChunksExactMut<'_, u32> {
        match &mut self.words {
            Words::Heap(words) => words.chunks_exact_mut(self.words_per_row),
            Words::Pool(words) => words.chunks_exact_mut(self.words_per_row),
        }
    }

    /// The matrix of rows that are all filled.
    pub(crate) fn finish(
        self,
        rows: usize,
        cols: usize,
        granularity: ScaleGranularity,
        scales: Vec<f32>,
    ) -> Result<TernaryMatrix> {
        let words = match self.words {
            Words::Heap(words) => words.into(),
            Words::Pool(words) => Shared::new(words),
        };
        let scales = match self.pool {
            Some(pool) => Shared::new(PoolBuffer::from_slice(&scales, pool)?),
            None => scales.into(),
        };
        Ok(TernaryMatrix::from_words(rows, cols, words, granularity, scales)?)
    }
}

/// The words of a row that hold its columns; those behind them become zero trits.
pub(crate) fn packed_row(words: &mut [u32], cols: usize) -> &mut [u32] {
    let (packed, padding) = words.split_at_mut(cols.div_ceil(CODES_PER_WORD));
    padding.fill(ZERO_WORD);
    packed
}

/// Packs a run: weights whose magnitude is above `above` become ±1.
#[inline(always)]
pub(crate) fn pack<S: Stored>(values: &[S::Raw], above: S::Bits, words: &mut [u32]) {
    let mut codes = [1u8; PACKED];
    let blocks = values.chunks(PACKED).zip(words.chunks_mut(PACKED / CODES_PER_WORD));
    for (values, words) in blocks {
        for (code, &raw) in codes.iter_mut().zip(values) {
            *code = S::code(raw, above);
        }
        if values.len() < PACKED {
            codes[values.len()..].fill(1);
        }
        pack_codes(&codes, words);
    }
}

/// Codes 0, 1 and 2, one a byte, as words; in loops that take one element after the other, so that they become vector
/// code.
#[inline(always)]
pub(crate) fn pack_codes(codes: &[u8; PACKED], words: &mut [u32]) {
    let mut halves = [0u16; PACKED / 8];
    for (half, eight) in halves.iter_mut().zip(codes.as_chunks::<8>().0) {
        let x = u64::from_le_bytes(*eight);
        let x = (x | (x >> 6)) & 0x000f_000f_000f_000f;
        let x = (x | (x >> 12)) & 0x0000_00ff_0000_00ff;
        *half = (x | (x >> 24)) as u16;
    }
    for (word, [low, high]) in words.iter_mut().zip(halves.as_chunks::<2>().0) {
        *word = u32::from(*low) | (u32::from(*high) << 16);
    }
}

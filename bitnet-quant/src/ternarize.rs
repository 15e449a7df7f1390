//! The quantisation loop: gathers a rule's statistics of the weights and applies the rule.

use crate::loss::{LossMeter, Threshold, loss_of_threshold, loss_of_words};
use crate::parallel::each_unit;
use crate::stored::{Raw, Rows, Stored, Work, read, shape_of};
use crate::{Error, Result};
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer, Shared};
use bitnet_core::simd::{self, IsaLevel, Kernel};
use bitnet_core::ternary::{CODES_PER_WORD, ROW_BLOCK, ScaleGranularity, TernaryMatrix};

/// Rows per tally. Tallies merge in row order, so results do not depend on the number of threads.
const ROWS_PER_TALLY: usize = 64;
/// Codes packed together.
const PACKED: usize = 256;
/// A word of sixteen zero trits.
const ZERO_WORD: u32 = 0x5555_5555;

/// The mapping of a run's weights to trits.
pub(crate) trait Cut: Copy + Send + Sync {
    /// Returns the scale.
    fn scale(self) -> f32;

    /// Packs a run whose first weight has the index `at` in the matrix. Always inlined into a kernel.
    fn pack<S: Stored>(self, at: u64, values: &[S::Raw], words: &mut [u32]);

    /// Returns the error of a run packed into `words`. Always inlined.
    #[inline(always)]
    fn loss<S: Stored>(self, values: &[S::Raw], words: &[u32]) -> LossMeter {
        loss_of_words::<S>(values, words, self.scale())
    }
}

impl Cut for Threshold {
    fn scale(self) -> f32 {
        self.scale
    }

    #[inline(always)]
    fn pack<S: Stored>(self, _: u64, values: &[S::Raw], words: &mut [u32]) {
        pack::<S>(values, S::floor(self.above), words);
    }

    #[inline(always)]
    fn loss<S: Stored>(self, values: &[S::Raw], _: &[u32]) -> LossMeter {
        loss_of_threshold::<S>(values, self)
    }
}

/// Statistics of weights.
pub(crate) trait Tally: Default + Send {
    /// Merges the statistics of the following weights.
    fn join(&mut self, next: Self);

    /// Appends a tally, or merges it into the last one where that cannot change the result.
    fn collect(all: &mut Vec<Self>, next: Self) {
        all.push(next);
    }
}

/// A sum.
impl Tally for f64 {
    fn join(&mut self, next: Self) {
        *self += next;
    }
}

/// A quantisation rule for runs of weights that share a scale.
pub(crate) trait Rule: Sync {
    /// The statistics of a run's weights.
    type Tally: Tally;
    /// The resulting mapping.
    type Cut: Cut;

    /// The rule's name in errors.
    const NAME: &'static str;

    /// Rejects invalid parameters, and rows of `cols` weights that the rule does not apply to.
    fn check(&self, _cols: usize) -> Result<()> {
        Ok(())
    }

    /// Adds weights of a run to its statistics; returns false if one is not finite. Always inlined into a kernel.
    fn add<S: Stored>(&self, tally: &mut Self::Tally, weights: &[S::Raw]) -> bool;

    /// Returns the mapping for a run of `count` weights.
    fn cut(&self, tally: Self::Tally, count: usize) -> Self::Cut;
}

/// The output and the error meter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) granularity: ScaleGranularity,
    pub(crate) pool: Option<&'a HybridMemoryPool>,
    pub(crate) threads: usize,
    pub(crate) level: IsaLevel,
    pub(crate) measured: bool,
}

/// Quantises a matrix by `rule`. The meter is empty unless the error is requested.
///
/// # Errors
/// [`Error::EmptyShape`], [`Error::BadNumber`] for a weight that is NaN or infinite, [`Error::Core`] if the group size
/// does not divide the columns, and errors of reading `weights`.
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
        let Self { rows, cols, wanted, .. } = self;
        let whole = match wanted.granularity {
            ScaleGranularity::Tensor => Some(self.whole(source)?),
            ScaleGranularity::Row | ScaleGranularity::Group(_) => None,
        };
        let mut words = Room::new(rows, cols, wanted.pool)?;
        let units = words.units(ROWS_PER_TALLY).enumerate().collect();
        let done = each_unit(
            wanted.threads,
            units,
            |(unit, words)| self.unit(source, whole, unit * ROWS_PER_TALLY, words),
            |all, next| all.push(next),
        )?;
        let mut scales: Vec<f32> = whole.iter().map(|cut| cut.scale()).collect();
        let mut meter = LossMeter::new();
        for (next_scales, next_meter) in done {
            scales.extend(next_scales);
            meter.merge(&next_meter);
        }
        Ok((words.finish(rows, cols, wanted.granularity, scales)?, meter))
    }
}

impl<R: Rule> Ternarizing<'_, R> {
    /// Returns the mapping of the whole matrix.
    fn whole<S: Rows>(&self, source: S) -> Result<R::Cut> {
        let tally_of = |first: usize| {
            let (mut tally, mut room) = (R::Tally::default(), Vec::new());
            for row in first..self.rows.min(first + ROWS_PER_TALLY) {
                let (rule, values) = (self.rule, source.row(row, &mut room)?);
                let adding = Adding::<R, S::Stored> { rule, values, tally: &mut tally };
                if !simd::run(self.wanted.level, adding) {
                    return Err(bad_number(R::NAME, source, row));
                }
            }
            Ok(tally)
        };
        let units = (0..self.rows).step_by(ROWS_PER_TALLY).collect();
        let mut all = R::Tally::default();
        for next in each_unit(self.wanted.threads, units, tally_of, R::Tally::collect)? {
            all.join(next);
        }
        // The number of weights fits usize, because the matrix was read.
        Ok(self.rule.cut(all, self.rows * self.cols))
    }

    /// Packs the rows from `first` that fit `words`; returns their scales unless the matrix has one scale.
    fn unit<S: Rows>(
        &self,
        source: S,
        whole: Option<R::Cut>,
        first: usize,
        words: &mut [u32],
    ) -> Result<(Vec<f32>, LossMeter)> {
        let run = match self.wanted.granularity {
            ScaleGranularity::Group(n) => n,
            ScaleGranularity::Tensor | ScaleGranularity::Row => self.cols,
        };
        let (mut scales, mut meter, mut room) = (Vec::new(), LossMeter::new(), Vec::new());
        for (row, words) in (first..).zip(words.chunks_exact_mut(words_per_row(self.cols))) {
            let work = RowOfTrits::<R, S::Stored> {
                rule: self.rule,
                whole,
                at: row as u64 * self.cols as u64,
                values: source.row(row, &mut room)?,
                run,
                words: packed_row(words, self.cols),
                scales: &mut scales,
                meter: self.wanted.measured.then_some(&mut meter),
            };
            if !simd::run(self.wanted.level, work) {
                return Err(bad_number(R::NAME, source, row));
            }
        }
        Ok((scales, meter))
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

/// Quantises a row; returns false if a weight is not finite.
struct RowOfTrits<'a, R: Rule, S: Stored> {
    rule: &'a R,
    /// The mapping of the whole matrix, if it has one scale.
    whole: Option<R::Cut>,
    /// The index of the first weight in the matrix.
    at: u64,
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
        let mut at = self.at;
        for (values, words) in runs.zip(words) {
            let cut = match self.whole {
                Some(cut) => cut,
                None => {
                    let mut tally = R::Tally::default();
                    if !self.rule.add::<S>(&mut tally, values) {
                        return false;
                    }
                    let cut = self.rule.cut(tally, values.len());
                    self.scales.push(cut.scale());
                    cut
                }
            };
            cut.pack::<S>(at, values, words);
            at = at.wrapping_add(values.len() as u64);
            if let Some(meter) = &mut meter {
                meter.merge(&cut.loss::<S>(values, words));
            }
        }
        if let (Some(total), Some(meter)) = (self.meter, meter) {
            total.merge(&meter);
        }
        true
    }
}

/// Returns the first non-finite weight of a row.
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

/// The buffer for the trits of all rows.
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
    /// Allocates the buffer in `pool`, if any.
    pub(crate) fn new(
        rows: usize,
        cols: usize,
        pool: Option<&'a HybridMemoryPool>,
    ) -> Result<Self> {
        let words_per_row = words_per_row(cols);
        let total = rows
            .checked_mul(words_per_row)
            .ok_or(bitnet_core::Error::SizeOverflow { what: "ternary matrix" })?;
        let words = match pool {
            Some(pool) => Words::Pool(PoolBuffer::scratch(total, pool)?),
            None => {
                let mut words = Vec::new();
                let refused = |_| bitnet_core::Error::refused_by_system(total.saturating_mul(4));
                words.try_reserve_exact(total).map_err(refused)?;
                words.resize(total, ZERO_WORD);
                Words::Heap(words)
            }
        };
        Ok(Self { words, words_per_row, pool })
    }

    /// Iterates over the words of each `rows` rows including padding,
    /// with unspecified content. The last part may be shorter.
    pub(crate) fn units(&mut self, rows: usize) -> std::slice::ChunksMut<'_, u32> {
        let len = self.words_per_row * rows;
        match &mut self.words {
            Words::Heap(words) => words.chunks_mut(len),
            Words::Pool(words) => words.chunks_mut(len),
        }
    }

    /// Returns the matrix after all rows are filled.
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

/// Words of a row, padding included.
fn words_per_row(cols: usize) -> usize {
    cols.div_ceil(ROW_BLOCK) * (ROW_BLOCK / CODES_PER_WORD)
}

/// Returns the words of a row that hold its columns; the padding words become zero trits.
pub(crate) fn packed_row(words: &mut [u32], cols: usize) -> &mut [u32] {
    let (packed, padding) = words.split_at_mut(cols.div_ceil(CODES_PER_WORD));
    padding.fill(ZERO_WORD);
    packed
}

/// Packs a run: weights whose magnitude is above `above` become ±1.
#[inline(always)]
pub(crate) fn pack<S: Stored>(values: &[S::Raw], above: S::Bits, words: &mut [u32]) {
    pack_by(values, words, |raw| S::code(raw, above));
}

/// Packs the codes `code` of a run's numbers.
#[inline(always)]
pub(crate) fn pack_by<T: Copy>(values: &[T], words: &mut [u32], mut code: impl FnMut(T) -> u8) {
    let mut codes = [1u8; PACKED];
    let blocks = values.chunks(PACKED).zip(words.chunks_mut(PACKED / CODES_PER_WORD));
    for (values, words) in blocks {
        for (place, &value) in codes.iter_mut().zip(values) {
            *place = code(value);
        }
        if values.len() < PACKED {
            codes[values.len()..].fill(1);
        }
        pack_codes(&codes, words);
    }
}

/// Packs codes 0, 1 and 2, one per byte, into words; in loops over consecutive elements, so that they
/// vectorise.
#[inline(always)]
fn pack_codes(codes: &[u8; PACKED], words: &mut [u32]) {
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

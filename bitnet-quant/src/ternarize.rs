//! From the rows of a matrix to trits: what a rule learns from weights, and the loop that applies it.

use crate::loss::{LossMeter, loss_of_cut};
use crate::stored::{Raw, Rows, Stored, Work, read, shape_of};
use crate::{Error, Result};
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::{HybridMemoryPool, PoolBuffer, Shared};
use bitnet_core::simd::{self, IsaLevel, Kernel};
use bitnet_core::ternary::{CODES_PER_WORD, ROW_BLOCK, ScaleGranularity, TernaryMatrix};
use std::ops::DerefMut;

/// Rows that one tally is made of. Tallies are joined in the order of the rows, so that no result depends on how many
/// threads there were.
const ROWS_PER_TALLY: usize = 64;
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
        let words_per_row = cols.div_ceil(ROW_BLOCK) * (ROW_BLOCK / CODES_PER_WORD);
        let mut words = Room::new(rows, words_per_row, wanted.pool)?;
        let mut scales: Vec<f32> = whole.iter().map(|cut| cut.scale).collect();
        let (mut meter, mut room) = (LossMeter::new(), Vec::new());
        for (row, words) in words.chunks_exact_mut(words_per_row).enumerate() {
            let values = source.row(row, &mut room)?;
            let (words, padding) = words.split_at_mut(cols.div_ceil(CODES_PER_WORD));
            padding.fill(ZERO_WORD);
            let meter = wanted.measured.then_some(&mut meter);
            let scales = &mut scales;
            let work =
                RowOfTrits::<R, S::Stored> { rule, whole, values, run, words, scales, meter };
            if !simd::run(wanted.level, work) {
                return Err(bad_number(R::NAME, source, row));
            }
        }
        let scales = match wanted.pool {
            Some(pool) => Shared::new(PoolBuffer::from_slice(&scales, pool)?),
            None => scales.into(),
        };
        let matrix =
            TernaryMatrix::from_words(rows, cols, words.shared(), wanted.granularity, scales)?;
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

/// Room for the words of all rows.
enum Room {
    Heap(Vec<u32>),
    Pool(PoolBuffer<u32>),
}

impl Room {
    fn new(rows: usize, words_per_row: usize, pool: Option<&HybridMemoryPool>) -> Result<Self> {
        let total = rows
            .checked_mul(words_per_row)
            .ok_or(bitnet_core::Error::SizeOverflow { what: "ternary matrix" })?;
        if let Some(pool) = pool {
            return Ok(Self::Pool(PoolBuffer::scratch(total, pool)?));
        }
        let mut words = Vec::new();
        words.try_reserve_exact(total).map_err(|_| bitnet_core::Error::OutOfMemory {
            bytes: total.saturating_mul(4),
            live: 0,
            limit: isize::MAX as usize,
        })?;
        words.resize(total, ZERO_WORD);
        Ok(Self::Heap(words))
    }

    fn chunks_exact_mut(&mut self, words: usize) -> std::slice::ChunksExactMut<'_, u32> {
        match self {
            Self::Heap(all) => all.chunks_exact_mut(words),
            Self::Pool(all) => all.deref_mut().chunks_exact_mut(words),
        }
    }

    fn shared(self) -> Shared<u32> {
        match self {
            Self::Heap(words) => words.into(),
            Self::Pool(words) => Shared::new(words),
        }
    }
}

/// Packs a run: weights whose magnitude is above `above` become ±1.
#[inline(always)]
pub(crate) fn pack<S: Stored>(values: &[S::Raw], above: S::Bits, words: &mut [u32]) {
    let (whole, rest) = values.as_chunks::<CODES_PER_WORD>();
    for (word, sixteen) in words.iter_mut().zip(whole) {
        *word = S::word(sixteen, above);
    }
    if let (false, Some(last)) = (rest.is_empty(), words.last_mut()) {
        *last = rest.iter().enumerate().fold(ZERO_WORD, |word, (j, &raw)| {
            let code = match (S::magnitude(raw) > above, S::negative(raw)) {
                (false, _) => 1,
                (true, false) => 2,
                (true, true) => 0u32,
            };
            word ^ ((code ^ 1) << (2 * j))
        });
    }
}

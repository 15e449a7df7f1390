//! Detection of dense weights that are already ternary.

use crate::Result;
use crate::stored::{Rows, Stored, Work, read, shape_of};
use crate::ternarize::{Room, pack, packed_row};
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::simd::{self, IsaLevel, Kernel};
use bitnet_core::ternary::{CODES_PER_WORD, ScaleGranularity, TernaryMatrix};

/// The minimum number of weights per scale, except for a whole row.
const SMALLEST_GROUP: usize = 64;

/// Returns the matrix as trits if it is already ternary, else `None`. The trits are in `pool`, if any.
///
/// A matrix is ternary if every weight is `±m` or 0 with one magnitude `m` per matrix, per row, or per group of 256,
/// 128 or 64 weights; the coarsest granularity that fits is chosen. The scale is `m`, or 0 if all weights are zero;
/// every value is preserved exactly. Detection stops at the first row that fits no granularity, so a full-precision
/// matrix costs about one row. NaN and infinite weights are not ternary.
///
/// # Errors
/// [`crate::Error::EmptyShape`], and errors of reading `weights`.
pub fn detect_ternary(
    weights: &dyn DenseRows,
    pool: Option<&HybridMemoryPool>,
) -> Result<Option<TernaryMatrix>> {
    let (rows, cols) = shape_of("ternary detection", weights)?;
    let run = if cols.is_multiple_of(SMALLEST_GROUP) { SMALLEST_GROUP } else { cols };
    let level = simd::active()?;
    read(weights, Detecting { rows, cols, run, pool, level })
}

struct Detecting<'a> {
    rows: usize,
    cols: usize,
    /// The number of weights per run; a scale belongs to whole runs.
    run: usize,
    pool: Option<&'a HybridMemoryPool>,
    level: IsaLevel,
}

impl Work for Detecting<'_> {
    type Output = Option<TernaryMatrix>;

    fn with<R: Rows>(self, source: R) -> Result<Option<TernaryMatrix>> {
        let Self { rows, cols, run, pool, level } = self;
        let mut candidates = candidates(cols, run);
        let mut magnitudes = vec![0f32; cols.div_ceil(run)];
        let mut first = vec![0u32; cols.div_ceil(CODES_PER_WORD)];
        let mut decoded = Vec::new();
        let mut admit = |row, words: &mut [u32]| -> Result<bool> {
            let values = source.row(row, &mut decoded)?;
            let magnitudes = &mut magnitudes[..];
            let ternary =
                simd::run(level, RowOfRuns::<R::Stored> { values, run, magnitudes, words });
            candidates.retain_mut(|candidate| ternary && candidate.admit(magnitudes));
            Ok(!candidates.is_empty())
        };
        // Most matrices are not ternary: check the first row before allocating memory for the others.
        if !admit(0, &mut first)? {
            return Ok(None);
        }
        let mut words = Room::new(rows, cols, pool)?;
        for (row, words) in words.units(1).enumerate() {
            let words = packed_row(words, cols);
            if row == 0 {
                words.copy_from_slice(&first);
            } else if !admit(row, words)? {
                return Ok(None);
            }
        }
        let Some(best) = candidates.into_iter().next() else { return Ok(None) };
        Ok(Some(words.finish(rows, cols, best.granularity, best.scales)?))
    }
}

/// Computes the magnitudes of a row's runs and its trits; returns false if
/// a run has two magnitudes or a non-finite one.
struct RowOfRuns<'a, S: Stored> {
    values: &'a [S::Raw],
    run: usize,
    magnitudes: &'a mut [f32],
    words: &'a mut [u32],
}

impl<S: Stored> Kernel for RowOfRuns<'_, S> {
    type Output = bool;

    #[inline(always)]
    fn run(self) -> bool {
        let zero = S::floor(0.0);
        for (values, magnitude) in self.values.chunks(self.run).zip(self.magnitudes) {
            let largest = values.iter().fold(zero, |m, &raw| m.max(S::magnitude(raw)));
            let other = |bits: S::Bits| (bits != zero) & (bits != largest);
            let others = values.iter().fold(false, |any, &raw| any | other(S::magnitude(raw)));
            if others || largest >= S::INFINITY {
                return false;
            }
            *magnitude = S::magnitude_value(largest);
        }
        pack::<S>(self.values, zero, self.words);
        true
    }
}

/// Returns the granularities for `cols` columns, the coarsest first.
fn candidates(cols: usize, run: usize) -> Vec<Candidate> {
    let groups = [256, 128, SMALLEST_GROUP].into_iter().filter(|n| cols.is_multiple_of(*n));
    [(ScaleGranularity::Tensor, cols), (ScaleGranularity::Row, cols)]
        .into_iter()
        .chain(groups.map(|n| (ScaleGranularity::Group(n), n)))
        .map(|(granularity, len)| Candidate {
            granularity,
            runs: len.div_ceil(run),
            scales: Vec::new(),
        })
        .collect()
}

/// A granularity that fits all rows so far.
struct Candidate {
    granularity: ScaleGranularity,
    /// Runs of a row that share a scale.
    runs: usize,
    scales: Vec<f32>,
}

impl Candidate {
    /// Adds the magnitudes of the next row's runs; returns false if the row does not fit.
    fn admit(&mut self, magnitudes: &[f32]) -> bool {
        for magnitudes in magnitudes.chunks(self.runs) {
            let Some(magnitude) = one_of(magnitudes) else { return false };
            match (self.granularity, self.scales.as_mut_slice()) {
                (ScaleGranularity::Tensor, [scale]) => {
                    if *scale == 0.0 {
                        *scale = magnitude;
                    } else if magnitude != 0.0 && magnitude != *scale {
                        return false;
                    }
                }
                _ => self.scales.push(magnitude),
            }
        }
        true
    }
}

/// Returns the common magnitude of the non-zero runs, 0 if all are zero; `None` if they differ.
fn one_of(magnitudes: &[f32]) -> Option<f32> {
    let largest = magnitudes.iter().fold(0f32, |m, v| m.max(*v));
    let fits = magnitudes.iter().fold(true, |fits, &v| fits & ((v == 0.0) | (v == largest)));
    fits.then_some(largest)
}

//! From full-precision weights to trits: absmean quantisation, and the detection of weights that are ternary already.

use crate::{Error, Result};
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{ScaleGranularity, TernaryBuilder, TernaryMatrix};

/// The smallest mean that a scale is made from.
const MIN_MEAN: f32 = 1e-5;

/// Absmean quantisation with one scale for the matrix (BitNet b1.58).
///
/// `s = 1 / max(1e-5, mean|W|)`, `trit = clamp(round_half_even(W * s), -1, 1)`, weight `= trit * (1 / s)`, all in f32;
/// the mean is accumulated in f64, so that its rounding does not depend on the shape. The rows are read twice, and
/// one of them is held at a time.
///
/// Weights that are ternary already would change their scale: ask [`detect_ternary`] first.
///
/// # Errors
/// [`Error::EmptyShape`], [`Error::BadNumber`] for a weight that is NaN or infinite, and those of reading `weights`.
pub fn absmean(weights: &dyn DenseRows) -> Result<TernaryMatrix> {
    absmean_in(weights, None)
}

/// As [`absmean`], with the weights in `pool`, if there is one.
///
/// # Errors
/// As [`absmean`].
pub fn absmean_in(
    weights: &dyn DenseRows,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    quantize_by(weights, ScaleGranularity::Tensor, pool)
}

/// [`absmean`] with the mean taken over the matrix, each row or each group of a row.
///
/// # Errors
/// Those of [`absmean`], and [`Error::Core`] if the group size does not fit the columns.
pub fn absmean_by(weights: &dyn DenseRows, granularity: ScaleGranularity) -> Result<TernaryMatrix> {
    quantize_by(weights, granularity, None)
}

fn quantize_by(
    weights: &dyn DenseRows,
    granularity: ScaleGranularity,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    let (rows, cols) = shape_of("absmean", weights)?;
    let scale_count = granularity.scale_count(rows, cols)?;
    let mut builder = TernaryBuilder::in_pool(rows, cols, pool)?;
    let mut values = vec![0f32; cols];
    let mut codes = vec![0u8; cols];
    let mut scales = Vec::new();
    let whole = match granularity {
        ScaleGranularity::Tensor => Some(tensor_multiplier(weights, &mut values)?),
        ScaleGranularity::Row | ScaleGranularity::Group(_) => None,
    };
    let run = match granularity {
        ScaleGranularity::Group(n) => n,
        ScaleGranularity::Tensor | ScaleGranularity::Row => cols,
    };
    for row in 0..rows {
        weights.decode_row(row, &mut values)?;
        all_finite(row, &values)?;
        for (values, codes) in values.chunks(run).zip(codes.chunks_mut(run)) {
            let s = whole.unwrap_or_else(|| multiplier(sum_abs(values), values.len()));
            quantize_run(values, s, codes);
            if whole.is_none() || scales.is_empty() {
                scales.push(1.0 / s);
            }
        }
        builder.push_row(&codes)?;
    }
    debug_assert_eq!(scales.len(), scale_count);
    Ok(builder.finish(granularity, scales)?)
}

/// The quantising multiplier `s` of a whole matrix.
fn tensor_multiplier(weights: &dyn DenseRows, values: &mut [f32]) -> Result<f32> {
    let mut sum = 0f64;
    for row in 0..weights.rows() {
        weights.decode_row(row, values)?;
        all_finite(row, values)?;
        sum += sum_abs(values);
    }
    // A matrix whose number of weights overflows usize can't have been decoded; f64 holds the count well enough.
    let mean = sum / (weights.rows() as f64 * weights.cols() as f64);
    Ok(1.0 / (mean as f32).max(MIN_MEAN))
}

/// The quantising multiplier of `count` weights whose magnitudes sum to `sum`.
fn multiplier(sum: f64, count: usize) -> f32 {
    1.0 / ((sum / count as f64) as f32).max(MIN_MEAN)
}

/// Sum of magnitudes in f64, in eight lanes that are added at the end.
fn sum_abs(values: &[f32]) -> f64 {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut lanes = [0f64; 8];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(value.abs());
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|v| f64::from(v.abs())).sum::<f64>()
}

/// `code = clamp(round_half_even(value * s), -1, 1) + 1`.
fn quantize_run(values: &[f32], s: f32, codes: &mut [u8]) {
    for (code, &value) in codes.iter_mut().zip(values) {
        // Rounding half to even and clamping to -1..1 sends exactly the scaled magnitudes above 1/2 to ±1.
        let scaled = value * s;
        *code = 1 + u8::from(scaled > 0.5) - u8::from(scaled < -0.5);
    }
}

/// Refuses a row with a weight that is NaN or infinite.
fn all_finite(row: usize, values: &[f32]) -> Result<()> {
    // Without an early exit the scan is one comparison of vectors; the place is looked up when there is one.
    if values.iter().fold(true, |finite, v| finite & v.is_finite()) {
        return Ok(());
    }
    let col = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
    Err(Error::BadNumber { format: "absmean", row, col, value: values[col] })
}

/// The shape of a matrix that has weights.
fn shape_of(format: &'static str, weights: &dyn DenseRows) -> Result<(usize, usize)> {
    let (rows, cols) = (weights.rows(), weights.cols());
    if rows == 0 || cols == 0 {
        return Err(Error::EmptyShape { format, rows, cols });
    }
    Ok((rows, cols))
}

/// The matrix as trits if it is ternary already, else `None`.
///
/// It is, if every weight is `±m` or 0 with one magnitude `m` for the matrix, else for each row, else for each group
/// of 256, 128 or 64 weights: the first that fits. The scale is `m`, 0 where all weights are zero; every value is
/// kept exactly. Reading ends at the first row that nothing fits, so a full-precision matrix costs about one row. A
/// weight that is NaN or infinite is not ternary.
///
/// # Errors
/// [`Error::EmptyShape`], and those of reading `weights`.
pub fn detect_ternary(weights: &dyn DenseRows) -> Result<Option<TernaryMatrix>> {
    detect_ternary_in(weights, None)
}

/// As [`detect_ternary`], with the trits in `pool`, if there is one.
///
/// # Errors
/// As [`detect_ternary`].
pub fn detect_ternary_in(
    weights: &dyn DenseRows,
    pool: Option<&HybridMemoryPool>,
) -> Result<Option<TernaryMatrix>> {
    let (rows, cols) = shape_of("ternary detection", weights)?;
    let mut candidates = candidates(cols);
    let mut values = vec![0f32; cols];
    let mut codes = vec![0u8; cols];
    weights.decode_row(0, &mut values)?;
    candidates.retain_mut(|candidate| candidate.admit(&values));
    if candidates.is_empty() {
        return Ok(None);
    }
    let mut builder = TernaryBuilder::in_pool(rows, cols, pool)?;
    for row in 0..rows {
        if row > 0 {
            weights.decode_row(row, &mut values)?;
            candidates.retain_mut(|candidate| candidate.admit(&values));
            if candidates.is_empty() {
                return Ok(None);
            }
        }
        for (code, &value) in codes.iter_mut().zip(&values) {
            *code = 1 + u8::from(value > 0.0) - u8::from(value < 0.0);
        }
        builder.push_row(&codes)?;
    }
    let Some(best) = candidates.into_iter().next() else { return Ok(None) };
    Ok(Some(builder.finish(best.granularity, best.scales)?))
}

/// The granularities that columns admit, the coarsest first.
fn candidates(cols: usize) -> Vec<Candidate> {
    let groups = [256, 128, 64].into_iter().filter(|n| cols.is_multiple_of(*n));
    [(ScaleGranularity::Tensor, cols), (ScaleGranularity::Row, cols)]
        .into_iter()
        .chain(groups.map(|n| (ScaleGranularity::Group(n), n)))
        .map(|(granularity, run)| Candidate { granularity, run, scales: Vec::new() })
        .collect()
}

/// A granularity that has fitted every row so far.
struct Candidate {
    granularity: ScaleGranularity,
    run: usize,
    scales: Vec<f32>,
}

impl Candidate {
    /// Takes up the next row's scales; false if the row does not fit.
    fn admit(&mut self, values: &[f32]) -> bool {
        for values in values.chunks(self.run) {
            let Some(magnitude) = magnitude(values) else { return false };
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

/// The one magnitude of the weights that are not zero, 0 if all are; `None` if there are two, or one is not finite.
fn magnitude(values: &[f32]) -> Option<f32> {
    let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
    let fits = largest.is_finite()
        && values.iter().fold(true, |fits, &v| fits & ((v == 0.0) | (v.abs() == largest)));
    fits.then_some(largest)
}

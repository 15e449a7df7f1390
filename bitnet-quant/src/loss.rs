//! Quantisation error: metrics between original and restored numbers.

use crate::dequantize::dequantize_row;
use crate::stored::{Stored, shape_of};
use crate::sums::{BLOCK, Blocks, LANES, Lanes};
use crate::{Error, Result};
use bitnet_core::dense::DenseRows;
use bitnet_core::simd::{self, Kernel};
use bitnet_core::ternary::{CODES_PER_WORD, TernaryMatrix};
use serde::{Deserialize, Serialize};

/// Error metrics of restored numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// The number of compared numbers.
    pub count: u64,
    /// The mean squared error; 0 if empty.
    pub mse: f64,
    /// The signal-to-quantisation-noise ratio in decibels; infinite without error.
    pub sqnr_db: f64,
    /// The cosine similarity of originals and restored numbers; 1 if both are zero, 0 if one is.
    pub cosine: f64,
    /// The maximum absolute error.
    pub max_error: f64,
    /// The share of zeros among the restored numbers.
    pub sparsity: f64,
}

/// Accumulates error metrics, in f64.
///
/// ```
/// use bitnet_quant::loss::LossMeter;
///
/// let mut meter = LossMeter::new();
/// meter.push(&[1.0, -0.5, 0.1, 0.0], &[1.0, -1.0, 0.0, 0.0])?;
/// let loss = meter.loss();
/// assert_eq!((loss.count, loss.max_error, loss.sparsity), (4, 0.5, 0.5));
/// assert!((loss.mse - (0.25 + 0.01) / 4.0).abs() < 1e-8);
/// # Ok::<(), bitnet_quant::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LossMeter {
    count: u64,
    zeros: u64,
    /// Sum of squares of the originals.
    originals: f64,
    /// Sum of squares of the restored numbers.
    restored: f64,
    /// Sum of squared errors.
    errors: f64,
    /// Sum of products of originals and restored numbers.
    products: f64,
    largest: f64,
}

impl LossMeter {
    /// Creates an empty meter.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds original and restored numbers.
    ///
    /// # Errors
    /// [`Error::Core`] if the lengths differ.
    pub fn push(&mut self, original: &[f32], restored: &[f32]) -> Result<()> {
        if original.len() != restored.len() {
            return Err(apart(vec![restored.len()], format!("[{}]", original.len())));
        }
        self.merge(&simd::run(simd::active()?, Comparing { original, restored }));
        Ok(())
    }

    /// Merges another meter.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.zeros += other.zeros;
        self.originals += other.originals;
        self.restored += other.restored;
        self.errors += other.errors;
        self.products += other.products;
        self.largest = larger(self.largest, other.largest);
    }

    /// Returns the metrics so far.
    pub fn loss(&self) -> Loss {
        let share = |part: f64| if self.count == 0 { 0.0 } else { part / self.count as f64 };
        let norms = self.originals.sqrt() * self.restored.sqrt();
        Loss {
            count: self.count,
            mse: share(self.errors),
            sqnr_db: if self.errors == 0.0 {
                f64::INFINITY
            } else {
                10.0 * (self.originals / self.errors).log10()
            },
            cosine: if norms != 0.0 {
                (self.products / norms).clamp(-1.0, 1.0)
            } else if self.errors == 0.0 {
                1.0
            } else {
                0.0
            },
            max_error: self.largest,
            sparsity: share(self.zeros as f64),
        }
    }
}

/// Returns the error for restored numbers of another shape than the originals.
fn apart(got: Vec<usize>, expected: String) -> Error {
    let (op, operand) = ("loss", "restored");
    Error::Core(bitnet_core::Error::ShapeMismatch { op, operand, got, expected })
}

/// Returns the larger number; NaN if one is NaN.
#[inline(always)]
fn larger(a: f64, b: f64) -> f64 {
    if b.is_nan() || b > a { b } else { a }
}

/// A threshold and a scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Threshold {
    /// The threshold: weights of larger magnitude become ±1, others 0; at least 0.
    pub(crate) above: f32,
    /// The magnitude of weights that become ±1.
    pub(crate) scale: f32,
}

impl Threshold {
    /// Returns the error of a magnitude after the cut.
    #[inline(always)]
    pub(crate) fn error(self, magnitude: f32) -> f32 {
        magnitude - if magnitude > self.above { self.scale } else { 0.0 }
    }
}

/// Returns the error of the trits that `cut` makes of a run of weights, inside a kernel. Each loop computes one sum, so
/// that it vectorises.
#[inline(always)]
pub(crate) fn loss_of_threshold<S: Stored>(values: &[S::Raw], cut: Threshold) -> LossMeter {
    let (mut originals, mut errors) = (Lanes::default(), Lanes::default());
    let (mut nonzero, mut largest) = (0u32, 0u32);
    let mut blocks = Blocks::<S>::new(values);
    while let Some(block) = blocks.next() {
        originals = originals.add(block, |x| f64::from(x) * f64::from(x));
        errors = errors.add(block, |x| {
            let error = f64::from(cut.error(x.abs()));
            error * error
        });
        // Magnitudes order like their bits, and a maximum of integers is associative.
        largest = block.iter().fold(largest, |m, x| m.max(cut.error(x.abs()).abs().to_bits()));
        nonzero = block.iter().fold(nonzero, |n, x| n.wrapping_add(u32::from(x.abs() > cut.above)));
    }
    let (originals, errors) = (originals.total(), errors.total());
    let (count, nonzero, scale) = (values.len() as u64, u64::from(nonzero), f64::from(cut.scale));
    let restored = nonzero as f64 * (scale * scale);
    LossMeter {
        count,
        zeros: if scale == 0.0 { count } else { count - nonzero },
        originals,
        restored,
        errors,
        // (x - y)² = x² - 2xy + y²
        products: (originals + restored - errors) / 2.0,
        largest: f64::from(f32::from_bits(largest)),
    }
}

/// Returns the error of a run of weights that became the trits in `words`, inside a kernel.
#[inline(always)]
pub(crate) fn loss_of_words<S: Stored>(values: &[S::Raw], words: &[u32], scale: f32) -> LossMeter {
    let mut meter = LossMeter::new();
    let mut blocks = Blocks::<S>::new(values);
    let mut restored = [0f32; BLOCK];
    let mut words = words.chunks(BLOCK / CODES_PER_WORD);
    while let (Some(block), Some(words)) = (blocks.next(), words.next()) {
        for (restored, &word) in restored.chunks_mut(CODES_PER_WORD).zip(words) {
            for (j, restored) in restored.iter_mut().enumerate() {
                *restored = (((word >> (2 * j)) & 3) as f32 - 1.0) * scale;
            }
        }
        meter.merge(&compared(block, &restored[..block.len()]));
    }
    meter
}

/// Compares numbers with numbers.
struct Comparing<'a> {
    original: &'a [f32],
    restored: &'a [f32],
}

impl Kernel for Comparing<'_> {
    type Output = LossMeter;

    #[inline(always)]
    fn run(self) -> LossMeter {
        compared(self.original, self.restored)
    }
}

#[inline(always)]
fn compared(original: &[f32], restored: &[f32]) -> LossMeter {
    let squared = |x: f64| x * x;
    // A difference in f64 has a relative error of 2^-53.
    let error = |x: f32, y: f32| f64::from(x) - f64::from(y);
    LossMeter {
        count: original.len() as u64,
        zeros: restored.iter().filter(|y| **y == 0.0).count() as u64,
        originals: sum_of_pairs(original, restored, |x, _| squared(f64::from(x))),
        restored: sum_of_pairs(original, restored, |_, y| squared(f64::from(y))),
        errors: sum_of_pairs(original, restored, |x, y| squared(error(x, y))),
        products: sum_of_pairs(original, restored, |x, y| f64::from(x) * f64::from(y)),
        largest: f64::from_bits(
            original.iter().zip(restored).fold(0, |m, (&x, &y)| m.max(error(x, y).abs().to_bits())),
        ),
    }
}

/// Returns the sum of `of` over pairs.
#[inline(always)]
fn sum_of_pairs(xs: &[f32], ys: &[f32], of: impl Fn(f32, f32) -> f64) -> f64 {
    let (x_chunks, last_xs) = xs.as_chunks::<LANES>();
    let (y_chunks, last_ys) = ys.as_chunks::<LANES>();
    let mut lanes = [0f64; LANES];
    for (xs, ys) in x_chunks.iter().zip(y_chunks) {
        for (lane, (&x, &y)) in lanes.iter_mut().zip(xs.iter().zip(ys)) {
            *lane += of(x, y);
        }
    }
    for (lane, (&x, &y)) in lanes.iter_mut().zip(last_xs.iter().zip(last_ys)) {
        *lane += of(x, y);
    }
    lanes.iter().sum()
}

/// Returns the error of trits and their scales against `original`, read row by row.
///
/// # Errors
/// [`Error::EmptyShape`] for matrices without weights, [`Error::Core`]
/// for different shapes, and errors of reading rows.
pub fn loss_of_trits(original: &dyn DenseRows, restored: &TernaryMatrix) -> Result<Loss> {
    let (rows, cols) = shape_of("loss", original)?;
    if (restored.rows(), restored.cols()) != (rows, cols) {
        let got = vec![restored.rows(), restored.cols()];
        return Err(apart(got, format!("[{rows}, {cols}]")));
    }
    let (mut xs, mut ys) = (vec![0f32; cols], vec![0f32; cols]);
    let mut meter = LossMeter::new();
    for row in 0..rows {
        original.decode_row(row, &mut xs)?;
        dequantize_row(restored, row, &mut ys);
        meter.push(&xs, &ys)?;
    }
    Ok(meter.loss())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_those_of_their_definitions() {
        let (xs, ys) = ([3.0f32, -4.0, 0.0, 1.0, 0.5], [3.0f32, -2.0, 0.0, 0.0, 1.0]);
        let mut meter = LossMeter::new();
        meter.push(&xs[..2], &ys[..2]).unwrap();
        meter.push(&xs[2..], &ys[2..]).unwrap();
        let loss = meter.loss();
        let (power, errors): (f64, f64) = (26.25, 5.25);
        assert_eq!((loss.count, loss.mse), (5, errors / 5.0));
        assert_eq!((loss.max_error, loss.sparsity), (2.0, 0.4));
        assert!((loss.sqnr_db - 10.0 * (power / errors).log10()).abs() < 1e-12);
        assert!((loss.cosine - 17.5 / (power * 14.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn zero_error_and_zero_power_have_defined_metrics() {
        let of = |xs: &[f32], ys: &[f32]| {
            let mut meter = LossMeter::new();
            meter.push(xs, ys).unwrap();
            meter.loss()
        };
        let same = of(&[1e-30; 9], &[1e-30; 9]);
        assert_eq!((same.mse, same.sqnr_db, same.cosine), (0.0, f64::INFINITY, 1.0));
        let nothing = of(&[0.0; 3], &[0.0; 3]);
        assert_eq!((nothing.cosine, nothing.sparsity), (1.0, 1.0));
        assert_eq!(of(&[1.0], &[0.0]).cosine, 0.0);
        let opposite = of(&[f32::MAX; 8], &[-f32::MAX; 8]);
        assert_eq!((opposite.cosine, opposite.max_error), (-1.0, 2.0 * f64::from(f32::MAX)));
        assert!(of(&[1.0, 2.0], &[f32::NAN, 2.0]).mse.is_nan());
        let mut meter = LossMeter::new();
        assert!(meter.push(&[1.0], &[]).is_err());
    }
}

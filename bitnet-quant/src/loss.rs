//! What quantisation cost: errors between numbers and what stands for them.

use crate::stored::{Stored, shape_of};
use crate::sums::{BLOCK, Blocks, LANES, Lanes};
use crate::ternarize::Threshold;
use crate::weights::dequantize_row;
use crate::{Error, Result};
use bitnet_core::dense::DenseRows;
use bitnet_core::simd::{self, Kernel};
use bitnet_core::ternary::{CODES_PER_WORD, TernaryMatrix};
use serde::{Deserialize, Serialize};

/// How far restored numbers are from the original ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    /// Numbers compared.
    pub count: u64,
    /// The mean of the squared errors; 0 of nothing.
    pub mse: f64,
    /// The power of the originals over that of the errors, in decibels; infinite if there is no error.
    pub sqnr_db: f64,
    /// The cosine of the angle between originals and restored, as vectors; 1 if both are zero, 0 if one is.
    pub cosine: f64,
    /// The largest magnitude of an error.
    pub max_error: f64,
    /// The share of restored numbers that are zero.
    pub sparsity: f64,
}

/// Adds up what comparisons of originals with restored numbers find. Sums are in f64.
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
    /// Squares of the originals.
    originals: f64,
    /// Squares of the restored.
    restored: f64,
    /// Squares of the errors.
    errors: f64,
    /// Originals times restored.
    products: f64,
    largest: f64,
}

impl LossMeter {
    /// One that has compared nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in numbers and what they became.
    ///
    /// # Errors
    /// [`Error::Core`] if there are not as many of one as of the other.
    pub fn push(&mut self, original: &[f32], restored: &[f32]) -> Result<()> {
        if original.len() != restored.len() {
            return Err(Error::Core(bitnet_core::Error::ShapeMismatch {
                op: "loss",
                operand: "restored",
                got: vec![restored.len()],
                expected: format!("[{}]", original.len()),
            }));
        }
        self.merge(&simd::run(simd::active()?, Comparing { original, restored }));
        Ok(())
    }

    /// Takes in what another meter found.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.zeros += other.zeros;
        self.originals += other.originals;
        self.restored += other.restored;
        self.errors += other.errors;
        self.products += other.products;
        self.largest = larger(self.largest, other.largest);
    }

    /// What was found so far.
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

/// The larger one; NaN if one is.
#[inline(always)]
fn larger(a: f64, b: f64) -> f64 {
    if b.is_nan() || b > a { b } else { a }
}

/// What a run of weights loses to the trits that `cut` makes of it, within a kernel. One sum to a loop: that is what
/// becomes vector code.
#[inline(always)]
pub(crate) fn loss_of_threshold<S: Stored>(values: &[S::Raw], cut: Threshold) -> LossMeter {
    let (mut originals, mut errors) = (Lanes::default(), Lanes::default());
    let (mut kept, mut largest) = (0u32, 0u32);
    let mut blocks = Blocks::<S>::new(values);
    while let Some(block) = blocks.next() {
        originals = originals.add(block, |x| f64::from(x) * f64::from(x));
        errors = errors.add(block, |x| {
            let error = f64::from(cut.error(x.abs()));
            error * error
        });
        // Magnitudes are ordered as their bits are, and a largest integer can be found in any order.
        largest = block.iter().fold(largest, |m, x| m.max(cut.error(x.abs()).abs().to_bits()));
        kept = block.iter().fold(kept, |n, x| n.wrapping_add(u32::from(x.abs() > cut.above)));
    }
    let (originals, errors) = (originals.total(), errors.total());
    let (count, kept, scale) = (values.len() as u64, u64::from(kept), f64::from(cut.scale));
    let restored = kept as f64 * (scale * scale);
    LossMeter {
        count,
        zeros: if scale == 0.0 { count } else { count - kept },
        originals,
        restored,
        errors,
        // (x - y)² = x² - 2xy + y²
        products: (originals + restored - errors) / 2.0,
        largest: f64::from(f32::from_bits(largest)),
    }
}

/// What a run of weights lost that became the trits in `words`, within a kernel.
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
    // A difference in f64 is off by 2^-53 of itself.
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

/// The sum of what `of` makes of pairs.
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

/// The loss of `restored` against `original`, read row by row.
///
/// # Errors
/// [`Error::EmptyShape`] for matrices without weights, [`Error::Core`] for unlike shapes, and those of reading rows.
pub fn loss_between(original: &dyn DenseRows, restored: &dyn DenseRows) -> Result<Loss> {
    let (rows, cols) = shape_of(OP, original)?;
    same_shape(original, (restored.rows(), restored.cols()))?;
    let (mut xs, mut ys) = (vec![0f32; cols], vec![0f32; cols]);
    let mut meter = LossMeter::new();
    for row in 0..rows {
        original.decode_row(row, &mut xs)?;
        restored.decode_row(row, &mut ys)?;
        meter.push(&xs, &ys)?;
    }
    Ok(meter.loss())
}

/// The loss of trits and their scales against `original`, read row by row.
///
/// # Errors
/// [`Error::EmptyShape`] for matrices without weights, [`Error::Core`] for unlike shapes, and those of reading rows.
pub fn loss_of_trits(original: &dyn DenseRows, restored: &TernaryMatrix) -> Result<Loss> {
    let (rows, cols) = shape_of(OP, original)?;
    same_shape(original, (restored.rows(), restored.cols()))?;
    let (mut xs, mut ys) = (vec![0f32; cols], vec![0f32; cols]);
    let mut meter = LossMeter::new();
    for row in 0..rows {
        original.decode_row(row, &mut xs)?;
        dequantize_row(restored, row, &mut ys);
        meter.push(&xs, &ys)?;
    }
    Ok(meter.loss())
}

/// What errors call the comparison.
const OP: &str = "loss";

/// Refuses matrices that can't be compared.
fn same_shape(original: &dyn DenseRows, got: (usize, usize)) -> Result<()> {
    let (rows, cols) = (original.rows(), original.cols());
    if got == (rows, cols) {
        return Ok(());
    }
    Err(Error::Core(bitnet_core::Error::ShapeMismatch {
        op: OP,
        operand: "restored",
        got: vec![got.0, got.1],
        expected: format!("[{rows}, {cols}]"),
    }))
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
    fn no_error_and_no_power_have_their_numbers() {
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

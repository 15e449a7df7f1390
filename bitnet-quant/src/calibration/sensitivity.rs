//! Sensitivity analysis: the quantisation error of a layer's weights per storage type.

use crate::Result;
use crate::loss::{Loss, LossMeter};
use crate::quantizer::{Absmean, Quantizer, Settings};
use crate::stored::shape_of;
use bitnet_core::dense::DenseRows;
use bitnet_core::ternary::ScaleGranularity;

/// A storage type for the analysis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StorageWidth {
    /// Trits by absmean.
    Ternary(ScaleGranularity),
    /// Symmetric integers of 2 to 8 bits with a scale per row.
    Integer(u8),
}

/// The error of one storage type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sensitivity {
    /// The storage type.
    pub width: StorageWidth,
    /// The quantisation error.
    pub loss: Loss,
}

/// Returns the quantisation error of `weights` for each storage type, in order.
///
/// # Errors
/// [`crate::Error::BadParameter`] for integers of fewer than 2 or more than 8 bits, and those of
/// [`Quantizer::quantize_measured`].
pub fn sensitivity(weights: &dyn DenseRows, widths: &[StorageWidth]) -> Result<Vec<Sensitivity>> {
    let loss_of = |width: StorageWidth| match width {
        StorageWidth::Ternary(granularity) => {
            let settings = Settings { granularity, ..Settings::default() };
            Ok(Absmean.quantize_measured(weights, &settings)?.1)
        }
        StorageWidth::Integer(bits) => loss_of_integers(weights, bits),
    };
    widths.iter().map(|&width| Ok(Sensitivity { width, loss: loss_of(width)? })).collect()
}

/// Returns the error of rounding each row to integers.
fn loss_of_integers(weights: &dyn DenseRows, bits: u8) -> Result<Loss> {
    const NAME: &str = "sensitivity";
    if !(2..=8).contains(&bits) {
        return Err(crate::Error::BadParameter {
            what: NAME,
            parameter: "bits",
            value: f64::from(bits),
            expected: "2 to 8",
        });
    }
    let (rows, cols) = shape_of(NAME, weights)?;
    let levels = f32::from((1u8 << (bits - 1)) - 1);
    let (mut values, mut restored) = (vec![0f32; cols], vec![0f32; cols]);
    let mut meter = LossMeter::new();
    for row in 0..rows {
        weights.decode_row(row, &mut values)?;
        if let Some(col) = values.iter().position(|value| !value.is_finite()) {
            return Err(crate::Error::BadNumber { format: NAME, row, col, value: values[col] });
        }
        let step = values.iter().fold(0f32, |m, v| m.max(v.abs())) / levels;
        for (restored, value) in restored.iter_mut().zip(&values) {
            *restored = if step > 0.0 { (value / step).round_ties_even() * step } else { 0.0 };
        }
        meter.push(&values, &restored)?;
    }
    Ok(meter.loss())
}

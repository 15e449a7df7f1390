//! Trits by strict comparison with half the scale.

use super::Absmean;
use crate::loss::{Loss, Threshold};
use crate::quantizer::{Quantizer, Settings};
use crate::stored::Stored;
use crate::ternarize::{Rule, ternarize};
use crate::{Error, Result};
use bitnet_core::dense::DenseRows;
use bitnet_core::ternary::TernaryMatrix;

/// The rule of GPU kernels with a scale `s`: `W > s / 2` becomes 1, `W < -s / 2` becomes -1, all others 0, including
/// ties.
///
/// The scale is fixed, or the mean of the magnitudes. With the mean, trits differ from those of [`Absmean`] only where
/// `W * (1 / s)` and `W > s / 2` round differently.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct HalfScale {
    /// The positive scale; `None` for the mean of the magnitudes.
    pub scale: Option<f32>,
}

impl Rule for HalfScale {
    /// The sum of the magnitudes.
    type Tally = f64;
    type Cut = Threshold;

    const NAME: &'static str = "half scale";

    #[inline(always)]
    fn add<S: Stored>(&self, tally: &mut f64, weights: &[S::Raw]) -> bool {
        Absmean.add::<S>(tally, weights)
    }

    fn join(&self, tally: &mut f64, next: f64) {
        *tally += next;
    }

    fn cut(&self, tally: f64, count: usize) -> Threshold {
        let scale = self.scale.unwrap_or((tally / count as f64) as f32);
        Threshold { above: scale / 2.0, scale }
    }
}

impl HalfScale {
    fn checked(&self) -> Result<&Self> {
        match self.scale {
            Some(scale) if !(scale.is_finite() && scale > 0.0) => Err(Error::BadParameter {
                what: Self::NAME,
                parameter: "scale",
                value: f64::from(scale),
                expected: "a finite number above 0",
            }),
            _ => Ok(self),
        }
    }
}

impl Quantizer for HalfScale {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn quantize(&self, weights: &dyn DenseRows, settings: &Settings<'_>) -> Result<TernaryMatrix> {
        Ok(ternarize(weights, self.checked()?, settings.wanted(false)?)?.0)
    }

    fn quantize_measured(
        &self,
        weights: &dyn DenseRows,
        settings: &Settings<'_>,
    ) -> Result<(TernaryMatrix, Loss)> {
        let (matrix, meter) = ternarize(weights, self.checked()?, settings.wanted(true)?)?;
        Ok((matrix, meter.loss()))
    }
}
